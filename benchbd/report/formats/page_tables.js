// Filters ---------------------------------------------------------------------------------------------------------------
const scaleOf = (node) => Number(node.closest("[data-scale]").dataset.scale);
onFilter.push(() => {
  const wanted = chosen();
  const narrowed = KINDS.some((kind) => wanted[kind]);
  const alive = new Set();
  if (narrowed) for (const i of everyRecord) if (matches(i, wanted, KINDS.slice(0, 4))) alive.add(columns.group[i]);
  for (const node of document.querySelectorAll("[data-scale]")) node.hidden = narrowed && !alive.has(Number(node.dataset.scale));
  for (const row of document.querySelectorAll(".scale tr[data-defense]")) row.hidden = Boolean(wanted.defense && row.dataset.defense !== wanted.defense);
  for (const table of document.querySelectorAll("table.heat")) {
    [...table.tHead.rows[0].cells].forEach((head, place) => {
      if (!place) return;
      const hidden = Boolean(wanted.attack && page.variants.attack[head.dataset.a].name !== wanted.attack);
      if (head.hidden === hidden) return;
      for (const row of table.rows) row.cells[place].hidden = hidden;
    });
  }
});

// Sorting: ascending, descending, initial order -------------------------------------------------------------------------
const initial = new Map();
const sortValue = (row, place) => {
  const cell = row.cells[place];
  if (cell.dataset.value !== undefined) return Number(cell.dataset.value);
  if (cell.tagName === "TH" || cell.classList.contains("words")) return cell.textContent;
  // A cell of a heat map begins with its ASR, or holds only the CA.
  const number = Number.parseFloat((cell.firstChild?.textContent || "").replace("−", "-"));
  return cell.classList.contains("state") ? null : number;
};
document.addEventListener("click", (event) => {
  const button = event.target.closest("button.sort");
  if (!button) return;
  const head = button.closest("th");
  const table = head.closest("table");
  const state = { none: "ascending", ascending: "descending", descending: "none" }[head.getAttribute("aria-sort") || "none"];
  for (const other of table.tHead.querySelectorAll("th[aria-sort]")) other.removeAttribute("aria-sort");
  if (state !== "none") head.setAttribute("aria-sort", state);
  if (table.id === "list") return sortList(state === "none" ? -1 : head.cellIndex, state === "descending");
  const body = table.tBodies[0];
  if (!initial.has(body)) initial.set(body, [...body.rows]);
  const place = Number(head.dataset.place);
  const rows = [...initial.get(body)];
  if (state !== "none") {
    const values = new Map(rows.map((row) => [row, sortValue(row, place)]));
    rows.sort((a, b) => compare(values.get(a), values.get(b), state === "descending"));
  }
  body.append(...rows);
});

// Heat maps: one stop of Tab, arrow keys inside, Enter opens -------------------------------------------------------------
const heatCell = (node) => {
  const cell = node.closest?.("table.heat td");
  return cell && !cell.closest(".foot") ? cell : null;
};
const behind = (cell) => {
  const head = cell.closest("table").tHead.rows[0].cells[cell.cellIndex];
  return { defense: Number(cell.parentNode.dataset.d), attack: Number(head.dataset.a), scale: scaleOf(cell) };
};
const cellText = (cell) => {
  const { defense, attack, scale } = behind(cell);
  const found = recordsOf(scale, defense, attack);
  const [ca, asr] = page.scales[scale].headings;
  const small = cell.querySelector("small");
  const first = cell.firstChild === small ? "" : cell.firstChild?.textContent || "";
  const best = (node) => (node && (node.tagName === "B" || node.querySelector?.("b")) ? " (best)" : "");
  const rates = small
    ? [first && `${asr} ${first} %${best(cell.firstChild)}`, `${ca} ${small.textContent} %${best(small)}`, cell.querySelector("i")?.textContent]
    : [first || "not run"];
  const names = `${page.variants.defense[defense].label} against ${page.variants.attack[attack].label}`;
  return [`${names}:`, rates.filter(Boolean).join(", "), found.length ? `(${counted(found.length, "record")})` : ""].filter(Boolean).join(" ");
};
const openCell = (cell) => {
  const { defense, attack, scale } = behind(cell);
  openRecords(recordsOf(scale, defense, attack), cell);
};
const roam = (cell) => {
  const table = cell.closest("table");
  for (const other of table.querySelectorAll('td[tabindex="0"]')) other.tabIndex = -1;
  cell.tabIndex = 0;
};
for (const table of document.querySelectorAll("table.heat")) {
  table.setAttribute("role", "grid");
  const cell = table.tBodies[0].querySelector("td");
  if (cell) cell.tabIndex = 0;
}
const visible = (list) => [...list].filter((node) => !node.hidden);
document.addEventListener("keydown", (event) => {
  const cell = heatCell(event.target);
  if (!cell || event.altKey || event.metaKey) return;
  if (event.key === "Enter" || event.key === " ") {
    event.preventDefault();
    return openCell(cell);
  }
  const rows = visible(cell.closest("tbody").rows);
  const across = (row) => visible(row.cells).slice(1);
  const row = rows.indexOf(cell.parentNode);
  const place = across(cell.parentNode).indexOf(cell);
  const last = across(cell.parentNode).length - 1;
  const all = event.ctrlKey;
  const to = {
    ArrowLeft: [row, place - 1], ArrowRight: [row, place + 1], ArrowUp: [row - 1, place], ArrowDown: [row + 1, place],
    Home: [all ? 0 : row, 0], End: [all ? rows.length - 1 : row, last],
  }[event.key];
  if (!to) return;
  event.preventDefault();
  const next = rows[to[0]] && across(rows[to[0]])[to[1]];
  if (!next) return;
  roam(next);
  next.focus();
});
document.addEventListener("focusin", (event) => {
  const cell = heatCell(event.target);
  if (!cell) return hideTip();
  roam(cell);
  const text = cellText(cell);
  cell.setAttribute("aria-label", text);
  showTip(text, cell.getBoundingClientRect());
});
document.addEventListener("mouseover", (event) => {
  const cell = heatCell(event.target);
  if (cell) showTip(cellText(cell), cell.getBoundingClientRect());
  else if (!event.target.closest?.(".point")) hideTip();
});
document.addEventListener("click", (event) => {
  const cell = heatCell(event.target);
  if (!cell) return;
  roam(cell);
  openCell(cell);
});

// The tables of all numbers, filled when they are opened -------------------------------------------------------------------
const ROWS = 200;
for (const section of document.querySelectorAll("section.numbers")) {
  const details = section.querySelector("details");
  const body = section.querySelector("tbody");
  const more = section.querySelector("button.more");
  let rows = null;
  let shown = ROWS;
  const draw = () => {
    if (!rows) return;
    const wanted = chosen();
    const kinds = ["attack", "defense"];
    const found = rows.filter(([record]) => (record < 0 ? !kinds.some((kind) => wanted[kind]) : matches(record, wanted, kinds)));
    body.replaceChildren(...found.slice(0, shown).map(([record, label, ...rest]) => el("tr", {},
      el("th", { scope: "row" }, record < 0 ? label : el("button", { type: "button", class: "open", "data-record": record, "data-cell": true }, label)),
      ...rest.map((text, place) => el("td", { class: place ? "num" : null }, text)))));
    more.hidden = found.length <= shown;
  };
  details.addEventListener("toggle", async () => {
    if (!details.open || rows) return;
    rows = await unpack(page.scales[scaleOf(section)].numbers).catch((error) => [[-1, `cannot be unpacked here: ${error.message}`]]);
    draw();
  });
  more.addEventListener("click", () => { shown += ROWS; draw(); });
  onFilter.push(draw);
}
