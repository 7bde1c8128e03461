// Names are loaded when somebody searches; by a script, since a page from disk may read no file.
const form = document.querySelector("form");
const field = form.querySelector("input");
const list = document.getElementById("found");
const MOST = 40;

let loading;
const names = () => loading ??= new Promise((resolve) => {
  const script = document.createElement("script");
  script.src = "names.js";
  script.onload = () => resolve(NAMES);
  document.head.append(script);
});

// Lower is better: the last part of a name counts most, then the whole path, then the words.
function rank([name, , , summary], wanted) {
  const path = name.toLowerCase();
  const last = path.slice(path.lastIndexOf(".") + 1);
  const whole = wanted.join(" ");
  if (last === whole) return 0;
  if (path.endsWith(whole)) return 1;
  if (last.startsWith(whole)) return 2;
  if (wanted.every((word) => path.includes(word))) return 3;
  return wanted.every((word) => `${path} ${summary.toLowerCase()}`.includes(word)) ? 4 : -1;
}

function show(entries) {
  list.replaceChildren(...entries.map(([name, kind, address, summary]) => {
    const item = document.createElement("li");
    const link = item.appendChild(document.createElement("a"));
    link.href = address;
    link.textContent = name;
    link.appendChild(document.createElement("small")).textContent = summary ? `${kind}: ${summary}` : kind;
    return item;
  }));
  if (!entries.length) list.appendChild(document.createElement("li")).textContent = "Nothing has that name.";
  list.querySelector("a")?.classList.add("chosen");
}

async function search() {
  const text = field.value.trim().toLowerCase();
  list.hidden = !text;
  if (!text) return;
  const wanted = text.split(/\s+/);
  const ranked = (await names()).map((entry) => [rank(entry, wanted), entry]).filter(([place]) => place >= 0);
  if (text !== field.value.trim().toLowerCase()) return;
  show(ranked.sort((a, b) => a[0] - b[0]).slice(0, MOST).map(([, entry]) => entry));
}

function step(by) {
  const links = [...list.querySelectorAll("a")];
  const now = links.findIndex((link) => link.classList.contains("chosen"));
  const next = links[Math.min(links.length - 1, Math.max(0, now + by))];
  links[now]?.classList.remove("chosen");
  next?.classList.add("chosen");
  next?.scrollIntoView({ block: "nearest" });
}

field.addEventListener("input", search);
field.addEventListener("focus", search);
form.addEventListener("submit", (event) => {
  event.preventDefault();
  list.querySelector(".chosen")?.click();
});
list.addEventListener("click", () => { list.hidden = true; });
document.addEventListener("click", (event) => { if (!form.contains(event.target)) list.hidden = true; });
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") list.hidden = true;
  if (event.key === "/" && document.activeElement !== field) { event.preventDefault(); field.focus(); }
  if (document.activeElement === field && (event.key === "ArrowDown" || event.key === "ArrowUp")) {
    event.preventDefault();
    step(event.key === "ArrowDown" ? 1 : -1);
  }
});
