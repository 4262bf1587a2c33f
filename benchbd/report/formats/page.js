"use strict";
// Text from records becomes only text nodes and attributes. Nothing here parses HTML.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const part = (record, kind) => data.pool[record[kind]];
  const byId = new Map(data.records.map((record) => [record.id, record]));
  const PAGE = 200;
  const SVG = "http://www.w3.org/2000/svg";

  const fill = (node, attributes, children) => {
    for (const [name, value] of Object.entries(attributes || {})) {
      if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : String(value));
    }
    node.append(...children.filter((child) => child !== null && child !== undefined).map((c) => (c instanceof Node ? c : String(c))));
    return node;
  };
  const el = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
  const svg = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);
  const percent = (value) => (value === null || value === undefined ? "–" : (100 * value).toFixed(2));
  const short = (value) => (typeof value === "number" && !Number.isInteger(value) ? String(Number(value.toPrecision(4))) : String(value));
  const seconds = (value) =>
    value === null || value === undefined ? "–" : value < 90 ? `${value.toFixed(1)} s` : value < 5400 ? `${(value / 60).toFixed(1)} min` : `${(value / 3600).toFixed(1)} h`;

  // Filters -------------------------------------------------------------------------------------------------------
  const form = document.getElementById("filters");
  const kinds = ["dataset", "attack", "defense", "seed"];
  const selects = Object.fromEntries(kinds.map((kind) => [kind, document.getElementById(`f-${kind}`)]));
  const nameOf = (record, kind) => (kind === "seed" ? String(record.seed) : part(record, kind).name);
  for (const kind of kinds) {
    const names = [...new Set(data.records.map((record) => nameOf(record, kind)))];
    names.sort((a, b) => (kind === "seed" ? Number(a) - Number(b) : a.localeCompare(b)));
    selects[kind].append(...names.map((name) => el("option", { value: name }, name)));
  }
  const wanted = () => Object.fromEntries(kinds.map((kind) => [kind, selects[kind].value]));

  const filterTables = () => {
    const chosen = wanted();
    for (const section of document.querySelectorAll("section.table")) {
      section.hidden = Boolean(chosen.dataset && section.dataset.dataset && section.dataset.dataset !== chosen.dataset);
    }
    for (const kind of ["attack", "defense"]) {
      for (const node of document.querySelectorAll(`section.table [data-${kind}]`)) {
        node.hidden = Boolean(chosen[kind] && node.dataset[kind] !== chosen[kind]);
      }
    }
  };

  // The list of records ---------------------------------------------------------------------------------------------
  const auroc = (record) => (record.detection ? record.detection.auroc : null);
  const columns = [
    ["Attack", (r) => part(r, "attack").label, null],
    ["Defense", (r) => part(r, "defense").label, null],
    ["Data set", (r) => part(r, "dataset").label, null],
    ["Model", (r) => part(r, "model").label, null],
    ["Seed", (r) => r.seed, String],
    ["Status", (r) => r.status, null],
    ["CA ↑", (r) => r.ca, percent],
    ["ASR ↓", (r) => r.asr, percent],
    ["AUROC ↑", auroc, (v) => (v === null || v === undefined ? "–" : v.toFixed(3))],
    ["Time", (r) => (r.time ? r.time.total : null), seconds],
  ];
  const list = document.getElementById("list");
  const more = document.getElementById("more");
  let order = { column: -1, down: false };
  let shown = PAGE;

  const compare = (a, b, down) => {
    const missing = (v) => v === null || v === undefined || v === "" || Number.isNaN(v);
    if (missing(a) || missing(b)) return missing(a) - missing(b);
    const sign = down ? -1 : 1;
    return sign * (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true }));
  };
  const title = (r) => `${part(r, "dataset").label}, ${part(r, "attack").label}, ${part(r, "defense").label}, ${part(r, "model").label}, seed ${r.seed}`;

  const drawList = () => {
    const chosen = wanted();
    let found = data.records.filter((record) => kinds.every((kind) => !chosen[kind] || nameOf(record, kind) === chosen[kind]));
    if (order.column >= 0) {
      const value = columns[order.column][1];
      found = [...found].sort((a, b) => compare(value(a), value(b), order.down));
    }
    const rows = found.slice(0, shown).map((record) =>
      el("tr", {}, ...columns.map(([, value, write], place) => {
        const text = write ? write(value(record)) : value(record);
        if (place === 0) {
          return el("th", { scope: "row" }, el("button", { type: "button", class: "open", "data-ids": record.id, "aria-label": `Open record: ${title(record)}` }, text));
        }
        return el("td", { class: write ? "num" : place === 5 && record.status !== "done" ? "state" : null }, text);
      })),
    );
    list.tBodies[0].replaceChildren(...rows);
    more.hidden = found.length <= shown;
    document.getElementById("count").textContent =
      `${found.length} of ${data.records.length} records${found.length > shown ? `, the first ${shown} shown` : ""}.`;
  };
  list.tHead.append(el("tr", {}, ...columns.map(([name, , write], place) =>
    el("th", { scope: "col", class: write ? "num" : place === 0 ? "stub" : null }, el("button", { type: "button", class: "sort" }, name)))));
  more.addEventListener("click", () => { shown += PAGE; drawList(); });

  // Sorting: ascending, descending, initial order ------------------------------------------------------------------------
  const initial = new Map();
  const sortValue = (row, place) => {
    const cell = [...row.cells].reduce((state, c) => (state.at === place ? (state.hit = state.hit || c, state.at += c.colSpan, state) : (state.at += c.colSpan, state)), { at: 0, hit: null }).hit;
    if (!cell) return null;
    return cell.dataset.value !== undefined ? Number(cell.dataset.value) : cell.classList.contains("num") ? null : cell.textContent;
  };
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button.sort");
    if (!button) return;
    const head = button.closest("th");
    const table = head.closest("table");
    const state = { none: "ascending", ascending: "descending", descending: "none" }[head.getAttribute("aria-sort") || "none"];
    for (const other of table.tHead.querySelectorAll("th[aria-sort]")) other.removeAttribute("aria-sort");
    if (state !== "none") head.setAttribute("aria-sort", state);
    if (table === list) {
      order = { column: state === "none" ? -1 : head.cellIndex, down: state === "descending" };
      drawList();
      return;
    }
    const body = table.tBodies[0];
    if (!initial.has(body)) initial.set(body, [...body.rows]);
    const place = Number(head.dataset.place);
    const rows = [...initial.get(body)];
    if (state !== "none") rows.sort((a, b) => compare(sortValue(a, place), sortValue(b, place), state === "descending"));
    body.append(...rows);
  });

  // Drawings ----------------------------------------------------------------------------------------------------------
  const WIDTH = 420, HEIGHT = 200, LEFT = 46, BOTTOM = 34, TOP = 10, RIGHT = 10;
  const frame = (label, xName, yName, low, high, ticks) => {
    const y = (value) => HEIGHT - BOTTOM - ((value - low) / (high - low || 1)) * (HEIGHT - TOP - BOTTOM);
    const marks = [0, 1, 2, 3, 4].map((i) => low + (i * (high - low)) / 4);
    const picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": label },
      ...marks.flatMap((mark) => [
        svg("line", { class: "axis", x1: LEFT, x2: WIDTH - RIGHT, y1: y(mark), y2: y(mark) }),
        svg("text", { x: LEFT - 4, y: y(mark) + 4, "text-anchor": "end" }, short(Number(mark.toPrecision(3)))),
      ]),
      ...ticks.map(([x, text]) => svg("text", { x, y: HEIGHT - BOTTOM + 14, "text-anchor": "middle" }, text)),
      svg("text", { x: (LEFT + WIDTH) / 2, y: HEIGHT - 4, "text-anchor": "middle" }, xName),
      svg("text", { x: 10, y: (HEIGHT - BOTTOM) / 2, "text-anchor": "middle", transform: `rotate(-90 10 ${(HEIGHT - BOTTOM) / 2})` }, yName));
    return { picture, y };
  };
  const numbers = (head, rows) => el("details", {}, el("summary", {}, "The numbers"), el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "The numbers" },
    el("table", {}, el("thead", {}, el("tr", {}, ...head.map((h) => el("th", { scope: "col" }, h)))),
      el("tbody", {}, ...rows.map((row) => el("tr", {}, ...row.map((v) => el("td", { class: "num" }, v === null ? "–" : short(v)))))))));
  const INKS = ["var(--clean)", "var(--poison)", "var(--soft)", "var(--ink)"];

  const lines = (quantity, xs, series) => {
    const values = series.flatMap(([, ys]) => ys).filter((v) => Number.isFinite(v));
    if (!values.length) return null;
    const low = Math.min(0, ...values), high = Math.max(...values);
    const last = xs.length - 1;
    const span = xs[last] - xs[0];
    const x = (i) => LEFT + (span ? ((xs[i] - xs[0]) / span) * (WIDTH - LEFT - RIGHT) : (WIDTH - LEFT - RIGHT) / 2);
    const at = [...new Set([0, Math.round(last / 2), last])];
    const ranges = series.map(([name, ys]) => `${name} from ${short(ys[0])} to ${short(ys[ys.length - 1])}`).join("; ");
    const { picture, y } = frame(`${quantity} by epoch: ${ranges}`, "epoch", "loss", low, high, at.map((i) => [x(i), xs[i]]));
    series.forEach(([name, ys], i) => {
      const points = ys.map((v, j) => (Number.isFinite(v) ? `${x(j).toFixed(1)},${y(v).toFixed(1)}` : null)).filter(Boolean).join(" ");
      picture.append(svg("polyline", { points, fill: "none", stroke: INKS[i % 4], "stroke-width": 2, "stroke-dasharray": ["", "6 3", "2 3", "8 3 2 3"][i % 4] }));
      picture.append(svg("line", { x1: WIDTH - 150, x2: WIDTH - 128, y1: TOP + 8 + 14 * i, y2: TOP + 8 + 14 * i, stroke: INKS[i % 4], "stroke-width": 2, "stroke-dasharray": ["", "6 3", "2 3", "8 3 2 3"][i % 4] }));
      picture.append(svg("text", { x: WIDTH - 124, y: TOP + 12 + 14 * i }, name.length > 20 ? `${name.slice(0, 19)}…` : name));
    });
    return el("div", {}, picture, numbers(["epoch", ...series.map(([name]) => name)], xs.map((e, i) => [e, ...series.map(([, ys]) => ys[i] ?? null)])));
  };
  const histogram = (h) => {
    const high = Math.max(...h.clean, ...h.poisoned, 1);
    const bins = h.clean.length, step = (WIDTH - LEFT - RIGHT) / bins;
    const ticks = [0, Math.floor(bins / 2), bins].map((i) => [LEFT + i * step, short(h.edges[i])]);
    const { picture, y } = frame(`Suspicion of ${h.clean.reduce((a, b) => a + b, 0)} clean and ${h.poisoned.reduce((a, b) => a + b, 0)} poisoned samples`, "suspicion", "samples", 0, high, ticks);
    [["clean", h.clean], ["poisoned", h.poisoned]].forEach(([name, counts], i) => {
      counts.forEach((count, j) => picture.append(svg("rect", { x: LEFT + j * step + (i * step) / 2, width: Math.max(step / 2 - 0.5, 0.5), y: y(count), height: HEIGHT - BOTTOM - y(count), fill: INKS[i] })));
      picture.append(svg("rect", { x: WIDTH - 90, y: TOP + 2 + 14 * i, width: 10, height: 10, fill: INKS[i] }), svg("text", { x: WIDTH - 76, y: TOP + 11 + 14 * i }, name));
    });
    return el("div", {}, picture, numbers(["from", "to", "clean", "poisoned"], h.clean.map((c, i) => [h.edges[i], h.edges[i + 1], c, h.poisoned[i]])));
  };

  // One record ----------------------------------------------------------------------------------------------------------
  const dialog = document.getElementById("record");
  const detail = document.getElementById("detail");
  const seeds = document.getElementById("seeds");
  let opener = null;

  const written = (value) => (value !== null && typeof value === "object" ? JSON.stringify(value) : short(value));
  const pairs = (entries) => el("dl", { class: "pairs" }, ...entries.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value instanceof Node ? value : written(value))]));
  const block = (name, ...content) => (content.some(Boolean) ? el("section", {}, el("h3", {}, name), ...content) : null);
  const objects = (value) => (value && Object.keys(value).length ? pairs(Object.entries(value)) : null);

  const stages = (time) => {
    const entries = Object.entries(time.stages || {});
    const most = Math.max(...entries.map(([, s]) => s), 1e-9);
    return el("div", {}, pairs([["cell alone", seconds(time.total)], ["actually spent", seconds(time.own)]]),
      entries.length ? el("table", {}, el("caption", {}, "By stage"), el("tbody", {}, ...entries.map(([name, spent]) => {
        const bar = el("div", { "aria-hidden": "true" });
        bar.style.cssText = `height:.6rem;width:calc(min(4rem, 20vw) * ${Math.max(spent, 0) / most});background:var(--accent);margin-top:.4rem`;
        return el("tr", {}, el("th", { scope: "row" }, name), el("td", { class: "num" }, seconds(spent)), el("td", {}, bar));
      }))) : null);
  };
  const fraction = (value) => (value === null || value === undefined ? "–" : `${percent(value)} %`);

  const show = (record) => {
    document.getElementById("record-title").textContent = title(record);
    const parameters = ["dataset", "model", "attack", "defense"].map((kind) => block(`Parameters: ${kind} ${part(record, kind).name}`, objects(part(record, kind).params)));
    const probe = record.probe;
    detail.replaceChildren(...[
      block("Result", pairs([["status", record.status], ["CA", fraction(record.ca)], ["ASR", fraction(record.asr)], ["RA", fraction(record.ra)], ...(record.lift === undefined ? [] : [["Clean ASR", fraction(record.clean_asr)], ["Lift", fraction(record.lift)]])]),
        record.error ? el("pre", {}, record.error) : null),
      el("div", { class: "columns" },
        block("Detection", record.detection ? objects(record.detection) : el("p", {}, "This defense suspects no samples.")),
        block("Poison", objects(record.poison)),
        block("Triggered test images", objects(record.triggered)),
        block("Time", record.time ? stages(record.time) : null),
        block("Cost", objects(record.cost))),
      block("Train loss", record.curves ? lines("Train loss", [...Array(Math.max(...record.curves.map(([, ys]) => ys.length))).keys()].map((i) => i + 1), record.curves) : null),
      block("Loss of clean and poisoned samples", probe ? lines("Mean loss", probe.epochs, [["clean", probe.clean], ["poisoned", probe.poison]]) : null),
      block("Suspicion", record.histogram ? histogram(record.histogram) : null),
      block("Trigger", record.trigger ? el("img", { class: "trigger", src: record.trigger, alt: `A poisoned training image: before, with the trigger of ${part(record, "attack").name}, and the difference` }) : null),
      el("div", { class: "columns" }, ...parameters, block("Recipe", objects(part(record, "recipe"))), block("Environment", objects(part(record, "env")))),
      block("Notes", objects(record.notes)),
      block("Run this cell again", el("pre", { tabindex: 0, "aria-label": "Command" }, record.command)),
      block("Identity", pairs([["id", record.id], ["matrix", record.matrix || "–"]]), objects(record.sources)),
    ].filter(Boolean));
    for (const button of seeds.children) button.setAttribute("aria-pressed", String(button.dataset.id === record.id));
    history.replaceState(null, "", `#record=${encodeURIComponent(record.id)}`);
  };
  const open = (ids, from) => {
    const found = ids.map((id) => byId.get(id)).filter(Boolean);
    if (!found.length) return;
    opener = from;
    seeds.replaceChildren(...(found.length > 1 ? found : []).map((record) => {
      const button = el("button", { type: "button", "data-id": record.id }, `seed ${record.seed}${record.status === "done" ? "" : `: ${record.status}`}`);
      button.addEventListener("click", () => show(record));
      return button;
    }));
    show(found[0]);
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
  };
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button.open");
    if (button) open(button.dataset.ids.split(" "), button);
    if (event.target === dialog) dialog.close();
  });
  document.getElementById("close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => {
    history.replaceState(null, "", location.pathname + location.search);
    if (opener && opener.isConnected) opener.focus();
  });

  form.addEventListener("change", () => { shown = PAGE; filterTables(); drawList(); });
  form.addEventListener("reset", () => setTimeout(() => { shown = PAGE; filterTables(); drawList(); }));
  filterTables();
  drawList();
  const linked = /^#record=(.+)$/.exec(location.hash);
  if (linked) open([decodeURIComponent(linked[1])], null);
})();
