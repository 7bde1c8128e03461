// The demo page: a picture goes in by drop, choice, paste or sample; the answer comes out as bars.

const at = (id) => document.getElementById(id);
const percent = (share) => `${(100 * share).toFixed(1)} %`;
const milliseconds = (ms) => `${ms < 10 ? ms.toFixed(2) : ms.toFixed(0)} ms`;

// Types that the service reads; whatever else the browser can show is redrawn, and so is what is too large.
const accepted = ["image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp"];
const redrawnEdge = 1024;
let largest = 4_000_000; // bytes; a gateway may turn the body into base64, which adds a third

let asked = 0; // the newest question: late answers to earlier ones are dropped
let again = () => {};

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

async function fetched(url, options = {}) {
  const key = at("key").value.trim();
  const headers = { ...options.headers, ...(key && { "x-api-key": key }) };
  const response = await fetch(url, { ...options, headers });
  const body = await response.json().catch(() => ({}));
  if (response.ok) return body;
  if (response.status === 401) {
    at("credentials").hidden = false;
    at("key").focus();
  }
  throw new Error(body.detail ?? `The service answered ${response.status}.`);
}

async function redrawn(file) {
  const picture = await createImageBitmap(file).catch(() => {
    throw new Error("The browser cannot read this file as a picture.");
  });
  const scale = Math.min(1, redrawnEdge / Math.max(picture.width, picture.height));
  const canvas = element("canvas", {
    width: Math.max(1, Math.round(picture.width * scale)),
    height: Math.max(1, Math.round(picture.height * scale)),
  });
  canvas.getContext("2d").drawImage(picture, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

function show(file, name) {
  const preview = at("preview");
  URL.revokeObjectURL(preview.src);
  preview.onload = () => preview.classList.toggle("tiny", preview.naturalWidth <= 96);
  preview.src = URL.createObjectURL(file);
  preview.alt = name;
  preview.hidden = false;
  at("hint").hidden = true;
}

async function classify(file, name) {
  const question = ++asked;
  again = () => classify(file, name);
  show(file, name);
  at("problem").hidden = true;
  at("verdict").firstElementChild?.classList.add("busy");
  try {
    const sent = accepted.includes(file.type) && file.size <= largest ? file : await redrawn(file);
    const start = performance.now();
    const answer = await fetched("predict?probabilities=true&top_k=1", {
      method: "POST",
      headers: { "content-type": sent.type },
      body: sent,
    });
    if (question === asked) tell(answer, performance.now() - start);
  } catch (error) {
    if (question === asked) complain(error);
  }
}

function tell(answer, elapsed) {
  at("verdict").replaceChildren(
    element("strong", { textContent: answer.label }),
    element("span", { textContent: percent(answer.probability) }),
  );
  const scores = Object.entries(answer.probabilities).sort(([, a], [, b]) => b - a).slice(0, 10);
  at("bars").replaceChildren(...scores.map(([label, share]) => {
    const bar = element("i");
    bar.style.width = `${100 * share}%`;
    const track = element("span", { className: "track" }, bar);
    track.setAttribute("aria-hidden", "true");
    return element("li", {}, element("span", { textContent: label }), track,
      element("span", { className: "value", textContent: percent(share) }));
  }));
  at("latency").textContent = milliseconds(elapsed);
  at("total").textContent = milliseconds(answer.timing.total_ms);
  at("decode").textContent = milliseconds(answer.timing.decode_ms);
  at("infer").textContent = milliseconds(answer.timing.infer_ms);
  at("request").textContent = answer.request_id;
  at("facts").hidden = false;
}

function complain(error) {
  at("verdict").replaceChildren(element("span", { className: "small", textContent: "No answer." }));
  at("bars").replaceChildren();
  at("facts").hidden = true;
  at("problem").textContent = error.message;
  at("problem").hidden = false;
}

async function showSamples() {
  const { samples } = await fetched("samples");
  at("samples").replaceChildren(...samples.map(({ label, image }) => {
    const button = element("button", { type: "button", title: label },
      element("img", { src: image, alt: `Sample: ${label}` }));
    button.addEventListener("click", async () => {
      // Not fetch(): connect-src allows this service alone.
      const bytes = Uint8Array.from(atob(image.split(",")[1]), (character) => character.charCodeAt(0));
      await classify(new Blob([bytes], { type: "image/png" }), `Sample: ${label}`);
    });
    return button;
  }));
}

async function showModel() {
  const info = await fetched("model/info");
  largest = Math.min(largest, info.limits.body_bytes);
  const accuracy = `${(100 * info.test_metrics.accuracy).toFixed(2)} % on ${info.test_metrics.images.toLocaleString("en")} test images`;
  at("model").textContent = `${info.name} · ${info.version.slice(0, 12)} · ${accuracy}`;
  at("model").title = `Version ${info.version}`;
  const shown = info.classes.slice(0, 30);
  const rest = info.classes.length - shown.length;
  at("classes").textContent = `Knows ${shown.join(", ")}${rest ? ` and ${rest} more` : ""}.`;
}

const fileOf = (transfer) => [...transfer.files].find((file) => file.type.startsWith("image/")) ?? transfer.files[0];

at("file").addEventListener("change", (event) => {
  const [file] = event.target.files;
  if (file) classify(file, file.name);
  event.target.value = ""; // the same file may be chosen again
});
for (const type of ["dragenter", "dragover"]) {
  addEventListener(type, (event) => {
    event.preventDefault();
    at("drop").classList.add("over");
  });
}
addEventListener("dragleave", (event) => event.relatedTarget ?? at("drop").classList.remove("over"));
addEventListener("drop", (event) => {
  event.preventDefault();
  at("drop").classList.remove("over");
  const file = fileOf(event.dataTransfer);
  if (file) classify(file, file.name);
  else complain(new Error("That was no file. Save the picture first, or copy and paste it."));
});
addEventListener("paste", (event) => {
  const file = fileOf(event.clipboardData);
  if (file) classify(file, "Pasted picture");
});
at("credentials").addEventListener("submit", (event) => {
  event.preventDefault();
  again();
});

for (const task of [showModel, showSamples]) task().catch(complain);
