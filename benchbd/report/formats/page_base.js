// Text from records becomes only text nodes and attributes. Nothing here parses HTML.
const SVG = "http://www.w3.org/2000/svg";
const KINDS = ["dataset", "model", "attack", "defense", "seed"];
const NONE = "–";
const page = JSON.parse(document.getElementById("data").textContent);
const columns = page.columns;
const total = columns.id.length;
const everyRecord = Array.from({ length: total }, (_, i) => i);

// Elements ------------------------------------------------------------------------------------------------------------
const fill = (node, attributes, children) => {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.filter((child) => child !== null && child !== undefined).map((c) => (c instanceof Node ? c : String(c))));
  return node;
};
const el = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

// Numbers ---------------------------------------------------------------------------------------------------------------
const missing = (v) => v === null || v === undefined || v === "" || Number.isNaN(v);
const sign = (text) => text.replace("-", "−");
const percent = (fraction, digits = 2) => (missing(fraction) ? NONE : sign((100 * fraction).toFixed(digits)));
const hundredths = (value) => (missing(value) ? NONE : (value / 100).toFixed(2));
const short = (value) => (typeof value === "number" && !Number.isInteger(value) ? String(Number(value.toPrecision(4))) : String(value));
const seconds = (value) =>
  missing(value) ? NONE : value < 90 ? `${value.toFixed(1)} s` : value < 5400 ? `${(value / 60).toFixed(1)} min` : `${(value / 3600).toFixed(1)} h`;
const counted = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;
const compare = (a, b, down) => {
  if (missing(a) || missing(b)) return missing(a) - missing(b);
  return (down ? -1 : 1) * (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true }));
};

// Records ---------------------------------------------------------------------------------------------------------------
const part = (i, kind) => page.variants[kind][columns[kind][i]];
const nameOf = (i, kind) => (kind === "seed" ? String(columns.seed[i]) : part(i, kind).name);
const statusOf = (i) => columns.statuses[columns.status[i]];
const title = (i) => `${part(i, "attack").label} × ${part(i, "defense").label}, seed ${columns.seed[i]}, ${part(i, "dataset").label}, ${part(i, "model").label}`;
let cells = null;
// The records behind a cell of a table, by the numbers of its scale, defense and attack.
const recordsOf = (scale, defense, attack) => {
  if (!cells) {
    cells = new Map();
    for (const i of everyRecord) {
      if (columns.group[i] < 0) continue;
      const key = `${columns.group[i]} ${columns.defense[i]} ${columns.attack[i]}`;
      if (cells.has(key)) cells.get(key).push(i);
      else cells.set(key, [i]);
    }
    for (const found of cells.values()) found.sort((a, b) => columns.seed[a] - columns.seed[b]);
  }
  return cells.get(`${scale} ${defense} ${attack}`) || [];
};

// Compressed lines ------------------------------------------------------------------------------------------------------
let lines = null;
const unpackedLines = new Map();
const lineText = (number) => {
  lines ??= document.getElementById("lines").textContent.split("\n");
  return lines[number];
};
const unpack = (number) => {
  if (!unpackedLines.has(number)) {
    const bytes = Uint8Array.from(atob(lineText(number)), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    unpackedLines.set(number, new Response(stream).json());
  }
  return unpackedLines.get(number);
};

// Filters and the address -----------------------------------------------------------------------------------------------
const form = document.getElementById("filters");
const selects = Object.fromEntries(KINDS.map((kind) => [kind, document.getElementById(`f-${kind}`)]));
const choices = {};
const onFilter = [];
let openRecord = "";
for (const kind of KINDS) {
  const names = kind === "seed" ? [...new Set(columns.seed)].map(String) : [...new Set(page.variants[kind].map((v) => v.name))];
  names.sort((a, b) => (kind === "seed" ? Number(a) - Number(b) : a.localeCompare(b, undefined, { numeric: true })));
  choices[kind] = new Set(names);
  selects[kind].append(...names.map((name) => el("option", { value: name }, name)));
}
const chosen = () => Object.fromEntries(KINDS.map((kind) => [kind, selects[kind].value]));
const matches = (i, wanted, kinds = KINDS) => kinds.every((kind) => !wanted[kind] || nameOf(i, kind) === wanted[kind]);

const writeAddress = () => {
  const given = Object.entries(chosen()).filter(([, value]) => value);
  if (openRecord) given.push(["record", openRecord]);
  const text = String(new URLSearchParams(given));
  history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
};
const filtered = () => {
  for (const kind of KINDS) selects[kind].classList.toggle("set", Boolean(selects[kind].value));
  for (const act of onFilter) act();
};
const choose = (kind, value) => {
  selects[kind].value = value;
  filtered();
  writeAddress();
};
// An address without "=" names a place on the page, not a view.
const readAddress = () => {
  const text = location.hash.slice(1);
  if (text && !text.includes("=")) return;
  const given = new URLSearchParams(text);
  const unknown = [];
  for (const kind of KINDS) {
    const value = given.get(kind) || "";
    selects[kind].value = choices[kind].has(value) ? value : "";
    if (value && !choices[kind].has(value)) unknown.push(`${kind} ${value}`);
  }
  const wanted = given.get("record") || "";
  const found = wanted ? columns.id.indexOf(wanted) : -1;
  if (wanted && found < 0) unknown.push(`record ${wanted}`);
  const place = document.getElementById("unknown");
  place.hidden = !unknown.length;
  place.textContent = unknown.length ? `The address asks for ${unknown.join(", ")}, which no record here has.` : "";
  filtered();
  if (found >= 0) openRecords([found], null);
  else closeRecord();
};
form.addEventListener("change", () => { filtered(); writeAddress(); });
form.addEventListener("reset", () => setTimeout(() => { filtered(); writeAddress(); }));
form.addEventListener("submit", (event) => event.preventDefault());
addEventListener("hashchange", readAddress);
document.addEventListener("click", (event) => {
  const link = event.target.closest('a[href^="#"]');
  const target = link && document.getElementById(link.getAttribute("href").slice(1));
  if (!target) return;
  event.preventDefault();
  target.scrollIntoView();
  target.querySelector("[tabindex]")?.focus({ preventScroll: true });
  target.focus({ preventScroll: true });
});

// The tip beside the pointer or the focus --------------------------------------------------------------------------------
const tip = document.getElementById("tip");
const showTip = (text, box) => {
  tip.textContent = text;
  tip.hidden = !text;
  if (!text) return;
  const own = tip.getBoundingClientRect();
  const above = box.top - own.height - 8;
  tip.style.left = `${Math.max(4, Math.min(box.left + box.width / 2 - own.width / 2, innerWidth - own.width - 4))}px`;
  tip.style.top = `${above > 4 ? above : box.bottom + 8}px`;
};
const hideTip = () => { tip.hidden = true; };
addEventListener("scroll", hideTip, { capture: true, passive: true });
