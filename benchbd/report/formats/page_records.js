// The list of records -------------------------------------------------------------------------------------------------------
const PAGE = 100;
const listed = [
  ["Attack", (i) => part(i, "attack").label, null],
  ["Defense", (i) => part(i, "defense").label, null],
  ["Data set", (i) => part(i, "dataset").label, null],
  ["Model", (i) => part(i, "model").label, null],
  ["Seed", (i) => columns.seed[i], String],
  ["Status", statusOf, null],
  ["CA ↑", (i) => columns.ca[i], hundredths],
  ["ASR ↓", (i) => columns.asr[i], hundredths],
  ["AUROC ↑", (i) => columns.auroc[i], (v) => (missing(v) ? NONE : (v / 1000).toFixed(3))],
  ["Time", (i) => columns.time[i], seconds],
];
const list = document.getElementById("list");
const more = document.getElementById("more");
let order = { column: -1, down: false };
let shown = PAGE;
const drawList = () => {
  const wanted = chosen();
  let found = everyRecord.filter((i) => matches(i, wanted));
  if (order.column >= 0) {
    const value = listed[order.column][1];
    found = [...found].sort((a, b) => compare(value(a), value(b), order.down));
  }
  list.tBodies[0].replaceChildren(...found.slice(0, shown).map((i) => el("tr", {}, ...listed.map(([, value, write], place) => {
    const text = write ? write(value(i)) : value(i);
    if (place) return el("td", { class: write ? "num" : place === 5 && text !== "done" ? "state" : null }, text);
    return el("th", { scope: "row" }, el("button", { type: "button", class: "open", "data-record": i, "aria-label": `Open record: ${title(i)}` }, text));
  }))));
  more.hidden = found.length <= shown;
  document.getElementById("count").textContent =
    `${found.length} of ${counted(total, "record")}${found.length > shown ? `, the first ${shown} shown` : ""}.`;
};
function sortList(column, down) {
  order = { column, down };
  drawList();
}
list.tHead.append(el("tr", {}, ...listed.map(([name, , write], place) =>
  el("th", { scope: "col", class: write ? "num" : place === 0 ? "stub" : null }, el("button", { type: "button", class: "sort" }, name)))));
more.addEventListener("click", () => { shown += PAGE; drawList(); });
onFilter.push(() => { shown = PAGE; drawList(); });

// One record, or the records of a cell ----------------------------------------------------------------------------------------
const dialog = document.getElementById("record");
const detail = document.getElementById("detail");
const seedButtons = document.getElementById("seeds");
let opener = null;
let current = -1;
const shade = (asr) => (missing(asr) ? "" : `h${[100, 1000, 3000, 5000, 7500, 9000].filter((bound) => asr >= bound).length}`);
const rates = (i) => el("dl", { class: "rates" }, ...[
  ["status", statusOf(i), ""], ["CA", missing(columns.ca[i]) ? NONE : `${hundredths(columns.ca[i])} %`, ""],
  ["ASR", missing(columns.asr[i]) ? NONE : `${hundredths(columns.asr[i])} %`, shade(columns.asr[i])], ["time", seconds(columns.time[i]), ""],
].map(([name, value, kind]) => el("div", { class: kind || null }, el("dt", {}, name), el("dd", {}, value))));

const showRecord = async (i) => {
  current = i;
  openRecord = columns.id[i];
  document.getElementById("record-title").textContent = title(i);
  for (const button of seedButtons.children) button.setAttribute("aria-pressed", String(Number(button.dataset.record) === i));
  detail.replaceChildren(rates(i), el("p", { class: "lead" }, "Unpacking …"));
  writeAddress();
  try {
    const found = await evidenceOf(i);
    if (current === i) detail.replaceChildren(rates(i), ...evidence(i, found));
  } catch (error) {
    const why = typeof DecompressionStream === "undefined" ? "This browser cannot unpack the evidence; a newer one can." : `The evidence cannot be read: ${error.message}.`;
    if (current === i) detail.replaceChildren(rates(i), el("p", {}, `${why} benchbd show ${columns.id[i]} prints the record.`));
  }
};
function openRecords(found, from) {
  if (!found.length) return;
  hideTip();
  opener = from;
  seedButtons.replaceChildren(...(found.length > 1 ? found : []).map((i) => {
    const state = statusOf(i) === "done" ? (missing(columns.asr[i]) ? "" : `: ASR ${hundredths(columns.asr[i])}`) : `: ${statusOf(i)}`;
    const button = el("button", { type: "button", "data-record": i }, `seed ${columns.seed[i]}${state}`);
    button.addEventListener("click", () => showRecord(i));
    return button;
  }));
  showRecord(found[0]);
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
}
function closeRecord() {
  if (dialog.open) dialog.close();
}
document.addEventListener("click", (event) => {
  const button = event.target.closest("button.open");
  if (button) {
    const i = Number(button.dataset.record);
    openRecords(button.hasAttribute("data-cell") ? recordsOf(columns.group[i], columns.defense[i], columns.attack[i]) : [i], button);
  }
  if (event.target === dialog) dialog.close();
});
document.getElementById("close").addEventListener("click", closeRecord);
dialog.addEventListener("close", () => {
  openRecord = "";
  current = -1;
  writeAddress();
  if (opener && opener.isConnected) opener.focus();
});

addEventListener("beforeprint", () => { dialog.scrollTop = 0; });

readAddress();
if (!list.tBodies[0].rows.length) drawList();
performance.mark("interactive");
