// The documentation page: reads openapi.json and lays it out, with a form to try each operation.

const at = (id) => document.getElementById(id);
const api = await (await fetch("openapi.json")).json();
const model = await (await fetch("model/info")).json();
const samples = fetch("samples").then((response) => response.json()).then((body) => body.samples);

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function resolved(schema) {
  if (!schema?.$ref) return schema ?? {};
  const found = schema.$ref.split("/").slice(1).reduce((node, key) => node[key], api);
  return { ...found, name: schema.$ref.split("/").at(-1) };
}

function typeOf(schema) {
  const { type, items, anyOf, additionalProperties, properties, contentEncoding, name } = resolved(schema);
  if (name) return name;
  if (anyOf) return anyOf.map(typeOf).join(" or ");
  if (type === "array") return `list of ${typeOf(items)}`;
  if (type === "object" && additionalProperties && !properties) return `map to ${typeOf(additionalProperties)}`;
  return type ?? (contentEncoding ? "string" : "file");
}

function limitsOf(schema) {
  const words = {
    minimum: "at least", maximum: "at most", exclusiveMaximum: "below", minLength: "characters at least", minItems: "items at least",
    maxItems: "items at most", default: "default", pattern: "pattern",
  };
  const { ...known } = resolved(schema);
  return Object.entries(words).filter(([key]) => key in known).map(([key, word]) => `${word} ${known[key]}`).join(", ");
}

function table(head, rows) {
  const row = (cells, kind) => element("tr", {}, ...cells.map((text) => element(kind, { textContent: text })));
  return element("div", { className: "scroll" },
    element("table", {}, element("thead", {}, row(head, "th")), element("tbody", {}, ...rows.map((cells) => row(cells, "td")))));
}

function fields(schema) {
  const { properties = {}, required = [] } = resolved(schema);
  return table(["field", "type", "", ""], Object.entries(properties).map(([name, field]) => [
    required.includes(name) ? `${name} *` : name,
    typeOf(field),
    limitsOf(field),
    resolved(field).description ?? resolved(field.items).description ?? "",
  ]));
}

function nested(schema, seen = new Set()) {
  const known = resolved(schema);
  const parts = [...Object.values(known.properties ?? {}), known.items, ...(known.anyOf ?? [])].filter(Boolean);
  const named = parts.flatMap((part) => nested(part, seen));
  if (!known.name || seen.has(known.name)) return named;
  seen.add(known.name);
  return [known.name, ...named];
}

function bodySection(title, content) {
  return Object.entries(content).map(([type, { schema }]) => {
    const known = resolved(schema);
    const inner = [...new Set(nested(schema))].filter((name) => name !== known.name);
    const details = element("details", {}, element("summary", { textContent: `${title}: ${type}${known.name ? `, ${known.name}` : ""}` }));
    details.append(known.properties ? fields(schema) : element("p", { className: "small", textContent: "The file itself." }));
    for (const name of inner) {
      details.append(element("h3", { textContent: name }), fields({ $ref: `#/components/schemas/${name}` }));
    }
    return details;
  });
}

const addressOf = (path) => path.slice(1).replace("{name}", encodeURIComponent(model.name)).replace("{version}", model.version);

let lastAnswer = "0".repeat(32); // request id

async function exampleOf(path) {
  if (path === "/feedback") return JSON.stringify({ request_id: lastAnswer, label: model.classes[0], index: 0 });
  const [first, second] = await samples;
  const image = first.image.split(",")[1];
  if (path === "/predict") return JSON.stringify({ image, top_k: 3 });
  if (path.endsWith("/infer")) {
    const inputs = [{ name: "image_files", datatype: "BYTES", shape: [1], data: [image] }];
    return JSON.stringify({ inputs, outputs: [{ name: "probabilities", parameters: { classification: 3 } }] });
  }
  return JSON.stringify({ images: [image, (second ?? first).image.split(",")[1], "not an image"], top_k: 1 });
}

function tryIt(path, method, takesBody) {
  const output = element("pre", { hidden: true, tabIndex: 0 });
  output.setAttribute("aria-live", "polite");
  const input = element("textarea", { spellcheck: false });
  input.setAttribute("aria-label", `Body of ${path}`);
  const send = element("button", { type: "button", textContent: "Send" });
  send.addEventListener("click", async () => {
    const key = at("key").value.trim();
    const headers = { ...(takesBody && { "content-type": "application/json" }), ...(key && { "x-api-key": key }) };
    const start = performance.now();
    const response = await fetch(addressOf(path), { method, headers, ...(takesBody && { body: input.value }) });
    const body = await response.text();
    if (path.startsWith("/predict") && response.ok) lastAnswer = response.headers.get("x-request-id");
    const shown = body.startsWith("{") ? JSON.stringify(JSON.parse(body), null, 2) : body;
    output.textContent = `${response.status} ${response.statusText} after ${(performance.now() - start).toFixed(1)} ms\n\n${shown}`;
    output.hidden = false;
  });
  const details = element("details", {}, element("summary", { textContent: "Try it" }), ...(takesBody ? [input] : []), send, output);
  details.addEventListener("toggle", async () => {
    if (takesBody && !input.value) input.value = await exampleOf(path);
  }, { once: true });
  return details;
}

function commandFor(path, method) {
  const url = new URL(addressOf(path), document.baseURI).href;
  if (path === "/predict") return `curl --data-binary @picture.jpg -H 'content-type: image/jpeg' '${url}?top_k=3'`;
  if (path === "/feedback") return `curl -H 'x-api-key: kiln_…' -H 'content-type: application/json' -d @feedback.json '${url}'`;
  if (path.endsWith("/infer")) return `curl --data-binary @request.json '${url}'`;
  return method === "post" ? `curl -F images=@one.jpg -F images=@two.png '${url}'` : `curl '${url}'`;
}

function operation(path, method, details) {
  const article = element("article", {},
    element("h2", {}, element("span", { className: "method", textContent: method.toUpperCase() }), element("code", { textContent: path })),
    element("p", { textContent: details.summary + "." }));
  if (details.description) article.append(element("p", { className: "small", textContent: details.description }));
  article.append(element("pre", { textContent: commandFor(path, method), tabIndex: 0 }));
  const parameters = (details.parameters ?? []).map((one) => [one.name, one.in, `${typeOf(one.schema)} ${limitsOf(one.schema)}`, one.description ?? ""]);
  if (parameters.length) article.append(table(["parameter", "in", "type", ""], parameters));
  if (details.requestBody) article.append(...bodySection("Body", details.requestBody.content));
  for (const [status, response] of Object.entries(details.responses)) {
    if (status < "300") article.append(...bodySection(status, response.content));
  }
  const failures = Object.entries(details.responses).filter(([status]) => status >= "300");
  const errors = element("details", {}, element("summary", { textContent: `Errors: ${failures.map(([status]) => status).join(", ")}` }),
    table(["status", "type"], failures.map(([status, response]) => [status, response.description])));
  article.append(errors, tryIt(path, method, Boolean(details.requestBody)));
  return article;
}

at("about").textContent = api.info.description;
at("credentials").addEventListener("submit", (event) => event.preventDefault());
for (const [path, methods] of Object.entries(api.paths)) {
  for (const [method, details] of Object.entries(methods)) at("main").append(operation(path, method, details));
}
