// The demo page: an image goes in by drop, choice, paste or sample; the answer comes out as bars.

const at = (id) => document.getElementById(id);
const percent = (share) => `${(100 * share).toFixed(1)} %`;
const milliseconds = (ms) => `${ms < 10 ? ms.toFixed(2) : ms.toFixed(0)} ms`;

// Types that the service reads; whatever else the browser can show is redrawn, and so is what is too large.
const accepted = ["image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp"];
const redrawnEdge = 1024;
let modelSize = [1, 1]; // height and width
let resize = "crop"; // how an image of other proportions is made to fit: see /model/info
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
  const bitmap = await createImageBitmap(file).catch(() => {
    throw new Error("The browser cannot read this file as an image.");
  });
  const scale = Math.min(1, redrawnEdge / Math.max(bitmap.width, bitmap.height));
  const canvas = element("canvas", {
    width: Math.max(1, Math.round(bitmap.width * scale)),
    height: Math.max(1, Math.round(bitmap.height * scale)),
  });
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
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
  at("map").hidden = at("legend").hidden = true;
}

// The map lies over what the model saw of the image: a centred part of its own proportions, all of
// it, or all of it within bars.
function showMap(rows, label) {
  const preview = at("preview"), map = at("map"), strongest = Math.max(...rows.flat());
  const times = Math.exp(strongest).toPrecision(2);
  at("legend").textContent = times < 1.1
    ? "No single part decides: covering any of them changes the odds of the answer by less than a tenth."
    : `Marked in the image: what the answer looked at. Covered, the odds of “${label}” are up to ${Number(times).toLocaleString("en")} times smaller.`;
  at("legend").hidden = false;
  if (times < 1.1) return;
  const cells = element("canvas", { width: rows[0].length, height: rows.length });
  const pixels = new ImageData(cells.width, cells.height);
  rows.flat().forEach((fall, place) => {
    pixels.data.set([255, 0, 150, 180 * Math.max(0, fall) / strongest], 4 * place);
  });
  cells.getContext("2d").putImageData(pixels, 0, 0);
  const { naturalWidth: width, naturalHeight: height } = preview;
  const ratios = [width / modelSize[1], height / modelSize[0]];
  const edge = resize === "pad" ? Math.max(...ratios) : Math.min(...ratios);
  map.width = preview.clientWidth;
  map.height = preview.clientHeight;
  const scale = Math.min(map.width / width, map.height / height);
  const [seenWidth, seenHeight] = resize === "stretch"
    ? [width * scale, height * scale]
    : [modelSize[1] * edge * scale, modelSize[0] * edge * scale];
  const context = map.getContext("2d");
  context.drawImage(cells, (map.width - seenWidth) / 2, (map.height - seenHeight) / 2, seenWidth, seenHeight);
  map.style.left = `${preview.offsetLeft}px`;
  map.style.top = `${preview.offsetTop}px`;
  map.hidden = false;
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
    const look = at("saliency").checked ? "&saliency=true" : "";
    const answer = await fetched(`predict?probabilities=true&top_k=1${look}`, {
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
  if (answer.saliency) showMap(answer.saliency, answer.label);
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
  modelSize = info.input_size;
  resize = info.resize;
  at("look").hidden = !info.limits.saliency_images;
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
  else complain(new Error("That was no file. Save the image first, or copy and paste it."));
});
addEventListener("paste", (event) => {
  const file = fileOf(event.clipboardData);
  if (file) classify(file, "Pasted image");
});
at("saliency").addEventListener("change", () => again());
at("credentials").addEventListener("submit", (event) => {
  event.preventDefault();
  again();
});

for (const task of [showModel, showSamples]) task().catch(complain);
