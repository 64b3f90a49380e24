// Elements and texts. Texts go through textContent only: nothing of a study is ever markup.
const main = document.querySelector("main");
const finite = (v) => typeof v === "number" && Number.isFinite(v);

function make(tag, settings, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(settings || {})) {
    if (key in node) node[key] = value;
    else node.setAttribute(key, value);
  }
  node.append(...children.filter((c) => c !== null && c !== undefined)); // strings become text, never markup
  return node;
}

function draw(tag, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes || {})) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

function show(value) {
  if (value === null || value === undefined) return "";
  if (typeof value !== "number") return String(value);
  const rounded = Number(value.toPrecision(5));
  return rounded !== 0 && Math.abs(rounded) < 1e-3 ? rounded.toExponential() : String(rounded);
}

function duration(seconds) {
  if (!finite(seconds)) return "";
  if (seconds < 100) return `${seconds.toFixed(1)} s`;
  return seconds < 6000 ? `${(seconds / 60).toFixed(1)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

const percent = (part) => `${Math.round(100 * part)} %`;
const cut = (text, length) => (text.length > length ? `${text.slice(0, length - 1)}\u2026` : text);
const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

function section(title, ...children) {
  const parts = children.filter(Boolean);
  main.append(make("section", { "aria-label": title }, make("h2", { textContent: title }), ...parts));
}
