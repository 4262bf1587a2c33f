// Drawings ----------------------------------------------------------------------------------------------------------------
const WIDTH = 420, HEIGHT = 200, LEFT = 46, BOTTOM = 34, TOP = 10, RIGHT = 10;
const frame = (label, xName, yName, low, high, ticks) => {
  const y = (value) => HEIGHT - BOTTOM - ((value - low) / (high - low || 1)) * (HEIGHT - TOP - BOTTOM);
  const marks = [0, 1, 2, 3, 4].map((i) => low + (i * (high - low)) / 4);
  const picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": label },
    ...marks.flatMap((mark) => [
      svg("line", { class: "axis", x1: LEFT, x2: WIDTH - RIGHT, y1: y(mark), y2: y(mark) }),
      svg("text", { x: LEFT - 4, y: y(mark) + 4, "text-anchor": "end" }, short(Number(mark.toPrecision(3)))),
    ]),
    ...ticks.map(([x, text], i) => svg("text", { x, y: HEIGHT - BOTTOM + 14, "text-anchor": i && i === ticks.length - 1 ? "end" : "middle" }, text)),
    svg("text", { x: (LEFT + WIDTH) / 2, y: HEIGHT - 4, "text-anchor": "middle" }, xName),
    svg("text", { x: 10, y: (HEIGHT - BOTTOM) / 2, "text-anchor": "middle", transform: `rotate(-90 10 ${(HEIGHT - BOTTOM) / 2})` }, yName));
  return { picture, y };
};
const numbersOf = (head, rows) => el("details", {}, el("summary", {}, "The numbers"), el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "The numbers" },
  el("table", {}, el("thead", {}, el("tr", {}, ...head.map((h) => el("th", { scope: "col" }, h)))),
    el("tbody", {}, ...rows.map((row) => el("tr", {}, ...row.map((v) => el("td", { class: "num" }, v === null ? NONE : short(v)))))))));
const INKS = ["var(--clean)", "var(--poison)", "var(--soft)", "var(--ink)"];
const DASHES = ["", "6 3", "2 3", "8 3 2 3"];

// Lines over epochs or other steps; `names` are the steps.
const curves = (quantity, names, series, { step = "epoch", unit = "loss", top = null } = {}) => {
  const values = series.flatMap(([, ys]) => ys).filter((v) => Number.isFinite(v));
  if (!values.length) return null;
  const low = Math.min(0, ...values), high = top ?? Math.max(...values);
  const last = names.length - 1;
  const numeric = names.every((name) => typeof name === "number") && names[last] > names[0];
  const at = (i) => (last ? (numeric ? (names[i] - names[0]) / (names[last] - names[0]) : i / last) : 0.5);
  const x = (i) => LEFT + at(i) * (WIDTH - LEFT - RIGHT);
  const ticks = [...new Set([0, Math.round(last / 2), last])];
  const ranges = series.map(([name, ys]) => `${name} from ${short(ys[0])} to ${short(ys[ys.length - 1])}`).join("; ");
  const { picture, y } = frame(`${quantity} by ${step}: ${ranges}`, step, unit, low, high, ticks.map((i) => [x(i), names[i]]));
  series.forEach(([name, ys], i) => {
    const points = ys.map((v, j) => (Number.isFinite(v) ? `${x(j).toFixed(1)},${y(v).toFixed(1)}` : null)).filter(Boolean).join(" ");
    const ink = { stroke: INKS[i % 4], "stroke-width": 2, "stroke-dasharray": DASHES[i % 4] };
    picture.append(svg("polyline", { points, fill: "none", ...ink }));
    picture.append(svg("line", { x1: WIDTH - 150, x2: WIDTH - 128, y1: TOP + 8 + 14 * i, y2: TOP + 8 + 14 * i, ...ink }));
    picture.append(svg("text", { class: "name", x: WIDTH - 124, y: TOP + 12 + 14 * i }, name.length > 20 ? `${name.slice(0, 19)}…` : name));
  });
  return el("div", {}, picture, numbersOf([step, ...series.map(([name]) => name)], names.map((e, i) => [e, ...series.map(([, ys]) => ys[i] ?? null)])));
};
// CA, ASR and RA by epoch of one training, in a figure of its own: trainings may have other epochs.
const byEpoch = (training, c) => {
  const rates = [["CA", c.ca], ["ASR", c.asr], ["RA", c.ra]].filter(([, ys]) => ys.some((v) => v !== null));
  const name = training === "model" ? `Training of the model${c.pruned ? ", before channels were pruned" : ""}` : "Undefended training";
  return el("div", {}, el("p", {}, name), curves(`${name}: CA, ASR and RA`, c.epochs, rates, { unit: "fraction", top: 1 }));
};
const bars = (label, xName, yName, ticks, groups, head, rows) => {
  const high = Math.max(...groups.flatMap(([, counts]) => counts), 1);
  const bins = groups[0][1].length, step = (WIDTH - LEFT - RIGHT) / bins;
  const { picture, y } = frame(label, xName, yName, 0, high, ticks.map(([i, text]) => [LEFT + i * step, text]));
  groups.forEach(([name, counts], i) => {
    const wide = step / groups.length;
    counts.forEach((count, j) => picture.append(svg("rect", { x: LEFT + j * step + i * wide, width: Math.max(wide - 0.5, 0.5), y: y(count), height: Math.max(0, HEIGHT - BOTTOM - y(count)), fill: INKS[i] })));
    picture.append(svg("rect", { x: WIDTH - 90, y: TOP + 2 + 14 * i, width: 10, height: 10, fill: INKS[i] }), svg("text", { class: "name", x: WIDTH - 76, y: TOP + 11 + 14 * i }, name));
  });
  return el("div", {}, picture, numbersOf(head, rows));
};
const sum = (list) => list.reduce((a, b) => a + b, 0);
const suspicion = (h) => {
  const bins = h.clean.length;
  const ticks = [0, Math.floor(bins / 2), bins].map((i) => [i, short(h.edges[i])]);
  return bars(`Suspicion of ${sum(h.clean)} clean and ${sum(h.poisoned)} poisoned samples`, "suspicion", "samples", ticks,
    [["clean", h.clean], ["poisoned", h.poisoned]], ["from", "to", "clean", "poisoned"], h.clean.map((c, i) => [h.edges[i], h.edges[i + 1], c, h.poisoned[i]]));
};

// One record's evidence -----------------------------------------------------------------------------------------------------
const written = (value) => (value !== null && typeof value === "object" ? JSON.stringify(value) : short(value));
const pairs = (entries) => el("dl", { class: "pairs" }, ...entries.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value instanceof Node ? value : written(value))]));
const block = (name, ...content) => (content.some(Boolean) ? el("section", {}, el("h3", {}, name), ...content) : null);
const objects = (value) => (value && Object.keys(value).length ? pairs(Object.entries(value)) : null);
const fraction = (value) => (missing(value) ? NONE : `${percent(value)} %`);

const stages = (time) => {
  const entries = Object.entries(time.stages || {});
  const most = Math.max(...entries.map(([, s]) => s), 1e-9);
  const others = Object.entries(time.stages_not_charged || {});
  return el("div", {}, pairs([["cell alone", seconds(time.total)], ["actually spent", seconds(time.own)], ...others.map(([name, spent]) => [`${name} (not charged)`, seconds(spent)])]),
    entries.length ? el("table", {}, el("caption", {}, "By stage"), el("tbody", {}, ...entries.map(([name, spent]) => {
      const bar = el("div", { class: "length", "aria-hidden": "true" });
      bar.style.width = `calc(min(4rem, 20vw) * ${Math.max(spent, 0) / most})`;
      return el("tr", {}, el("th", { scope: "row" }, name), el("td", { class: "num" }, seconds(spent)), el("td", {}, bar));
    }))) : null);
};
// What a defense removed or flagged, and how much of it was poison.
const removed = (detection, rates) => {
  if (!detection) return el("p", {}, "This defense suspects no samples.");
  const c = detection.confusion;
  const table = c && el("table", {}, el("caption", {}, "Samples of the training set"),
    el("thead", {}, el("tr", {}, el("td", {}), el("th", { scope: "col", class: "num" }, "removed or flagged"), el("th", { scope: "col", class: "num" }, "kept"))),
    el("tbody", {}, ...[["poisoned", c.tp, c.fn], ["clean", c.fp, c.tn]].map(([name, flagged, kept]) =>
      el("tr", {}, el("th", { scope: "row" }, name), el("td", { class: "num" }, flagged), el("td", { class: "num" }, kept)))));
  const named = { recall: "TPR (recall of the poison)", fpr: "FPR", precision: "precision", f1: "F1", auroc: "AUROC of the scores" };
  const shown = Object.entries(named).map(([key, name]) => [name, (rates || {})[key] ?? detection[key]]).filter(([, value]) => !missing(value));
  const flagged = detection.flagged_per_class, poisoned = detection.poison_per_class;
  const both = Array.isArray(flagged) && Array.isArray(poisoned) && flagged.length === poisoned.length && flagged.length > 1 && sum(flagged);
  const places = both ? flagged.map((_, i) => i) : [];
  const classes = both && bars("Removed or flagged, and poisoned, samples of each class", "class", "samples", [[0.5, 0], [flagged.length - 0.5, flagged.length - 1]],
    [["removed", flagged], ["poisoned", poisoned]], ["class", "removed", "poisoned"], places.map((i) => [i, flagged[i], poisoned[i]]));
  const known = new Set(["confusion", "flagged_per_class", "poison_per_class", ...Object.keys(named)]);
  const rest = Object.fromEntries(Object.entries(detection).filter(([key, value]) => !(both && known.has(key)) && !(key in named) && (key !== "confusion" || !c) && !missing(value)));
  return el("div", {}, table || null, pairs(shown), classes || null, objects(rest));
};
const copyButton = (text) => {
  const button = el("button", { type: "button", class: "copy" }, "Copy");
  const said = (done) => { button.textContent = done ? "Copied" : "Select the text and copy it"; setTimeout(() => { button.textContent = "Copy"; }, 2000); };
  button.addEventListener("click", () => (navigator.clipboard ? navigator.clipboard.writeText(text).then(() => said(true), () => said(false)) : said(false)));
  return button;
};
const LEFT_OUT = { measured: "rates, detection, times and costs", loss: "training losses", trigger: "the picture of the trigger", histogram: "suspicion", epochs: "CA and ASR by epoch", probe: "losses of clean and poisoned samples", course: "the course of CA and ASR", notes: "notes" };

const places = JSON.parse(document.getElementById("places").textContent);
let turns = null;
// A record's number in the lines of evidence, which hold records by seed.
const turnOf = (i) => {
  if (!turns) {
    turns = new Map();
    [...everyRecord].sort((a, b) => columns.seed[a] - columns.seed[b] || a - b).forEach((record, turn) => turns.set(record, turn));
  }
  return turns.get(i);
};
const evidenceOf = async (i) => {
  const turn = turnOf(i);
  const line = Math.floor(turn / places.size), place = turn % places.size;
  const [facts, pool] = await Promise.all([unpack(places.facts[line]), unpack(places.pool)]);
  const found = { ...facts[place], left: [] };
  for (const kind of ["recipe", "env", "sources"]) found[kind] = pool.items[found[kind]];
  const [before, between, after] = pool.items[found.rerun];
  found.command = before + columns.id[i] + between + columns.seed[i] + after;
  found.params = Object.fromEntries(Object.entries(pool.params).map(([kind, all]) => [kind, all[columns[kind][i]]]));
  for (const [kind, numbers] of Object.entries(places.extras)) {
    const number = numbers[line];
    if (number === -1) found.left.push(kind);
    else if (number !== null) found[kind] = (await unpack(number))[place];
  }
  Object.assign(found, found.measured);
  if (found.trigger === -1) found.left.push("trigger");
  found.picture = Number.isInteger(found.trigger) && found.trigger >= 0 ? `data:image/png;base64,${lineText(found.trigger)}` : null;
  return found;
};

const probed = ({ epochs, clean, poison, target, no_target }) => [
  curves("Mean loss", epochs, [["clean", clean], ["poisoned", poison], ...(target ? [["clean, target's label", target]] : [])]),
  no_target ? el("p", { class: "lead" }, `No loss of clean samples with the target's label: ${no_target}.`) : null,
];

const evidence = (i, e) => {
  const name = (kind) => part(i, kind).name;
  const longest = e.loss ? Math.max(...e.loss.map(([, ys]) => ys.length)) : 0;
  const extra = [
    ["RA", e.ra], ["clean ASR", e.clean_asr], ["lift", e.lift],
    ["ASR over all images", e.asr_all], ["CA of other classes than the target", e.ca_non_target],
  ].filter(([, value]) => !missing(value)).map(([key, value]) => [key, fraction(value)]);
  return [
    e.left.length ? el("p", { class: "lead" }, `Left out to keep this page small: ${[...new Set(e.left)].map((kind) => LEFT_OUT[kind]).join(", ")}, if the record has them. benchbd show ${columns.id[i]} --json prints all of it.`) : null,
    e.error ? block("What went wrong", el("pre", {}, e.error)) : null,
    extra.length ? block("Further rates", pairs(extra)) : null,
    e.picture ? block("Trigger", el("img", { class: "trigger", src: e.picture, alt: `A poisoned training image: before, with the trigger of ${name("attack")}, and the difference` })) : null,
    el("div", { class: "figures" },
      e.left.includes("measured") ? null : block("What was removed or flagged", removed(e.detection, e.rates)),
      e.histogram ? block("Suspicion", suspicion(e.histogram)) : null,
      e.epochs ? block("CA and ASR by epoch", ...Object.entries(e.epochs).map(([name, c]) => byEpoch(name, c))) : null,
      e.course ? block("CA and ASR on the way", curves("CA, ASR and RA", e.course.name, [["CA", e.course.ca], ["ASR", e.course.asr], ["RA", e.course.ra]], { step: "step", unit: "fraction", top: 1 })) : null,
      e.loss ? block("Train loss", curves("Train loss", Array.from({ length: longest }, (_, n) => n + 1), e.loss)) : null,
      e.probe ? block("Loss of clean and poisoned samples", ...probed(e.probe)) : null,
      e.time ? block("Time", stages(e.time)) : null),
    block("Run this cell again", el("pre", { tabindex: 0, "aria-label": "Command" }, e.command), copyButton(e.command)),
    el("div", { class: "columns" },
      block("Poison", objects(e.poison)),
      block("Triggered test images", objects(e.triggered)),
      block("What the model does to test images", objects(e.test_transform)),
      block("Cost", objects(e.cost)),
      ...["dataset", "model", "attack", "defense"].map((kind) => block(`Parameters: ${kind} ${name(kind)}`, objects(e.params[kind]))),
      block("Recipe", objects(e.recipe)), block("Environment", objects(e.env))),
    block("Notes", objects(e.notes)),
    block("Identity", pairs([["id", columns.id[i]], ["matrix", e.matrix || NONE]]), objects(e.sources)),
  ].filter(Boolean);
};
