// CA against ASR: a circle a defense, its area the cost, and the line of those that no other beats on both ----------------
const BOUNDS = { left: 44, right: 14, top: 12, bottom: 40 };
const LARGEST = 20, SMALLEST = 4;
const steps = (low, high, most) => {
  const raw = (high - low) / most;
  const ten = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((f) => f * ten).find((f) => f >= raw - 1e-9);
  const found = [];
  for (let v = Math.ceil(low / step - 1e-9) * step; v <= high + 1e-9; v += step) found.push(v);
  return found;
};
const pointText = (p, scale) => {
  const [ca, asr] = page.scales[scale].headings;
  const bounds = (spread) => (spread ? ` (${percent(spread[0], 1)} to ${percent(spread[1], 1)})` : "");
  const facts = [`${ca} ${percent(p.ca, 1)} %${bounds(p.spreads[0])}`, `${asr} ${percent(p.asr, 1)} %${bounds(p.spreads[1])}`];
  if (p.worst !== null) facts.push(`worst ${percent(p.worst, 1)} %`);
  facts.push(p.cost === null ? "cost unknown" : `cost ${p.cost.toFixed(2)} ×`);
  if (p.front) facts.push("no other beats it on both");
  else if (p.kind === "control") facts.push("a control");
  else if (!p.comparable) facts.push("not comparable: other attacks, other data, a failed seed or a model at chance");
  return `${p.name}: ${facts.join(", ")}`;
};
const scatter = (section) => {
  const scale = scaleOf(section);
  const place = section.querySelector(".plot");
  const points = page.scales[scale].points;
  const heading = page.scales[scale].headings;
  if (!points.length) {
    place.replaceChildren(el("p", { class: "lead" }, "No defense has both a CA and an ASR here."));
    return () => {};
  }
  let current = 0;
  const draw = () => {
    const width = Math.max(260, Math.floor(place.clientWidth)), height = Math.round(Math.min(460, Math.max(270, width * 0.66)));
    const all = points.flatMap((p) => [p.ca, ...(p.spreads[0] || [])]);
    const least = Math.min(...all), most = Math.max(...all);
    const room = Math.max(0.02, (most - least) * 0.12);
    const low = Math.max(0, least - room), high = Math.min(1, most + room);
    const x = (v) => BOUNDS.left + 8 + v * (width - BOUNDS.left - BOUNDS.right - 16);
    const y = (v) => height - BOUNDS.bottom - 8 - ((v - low) / (high - low)) * (height - BOUNDS.top - BOUNDS.bottom - 16);
    const costs = points.map((p) => p.cost).filter((c) => c !== null && c > 0);
    const unit = LARGEST / Math.sqrt(Math.max(...costs, 4));
    const radius = (cost) => (cost === null ? SMALLEST + 1 : Math.max(SMALLEST, unit * Math.sqrt(Math.max(cost, 0))));
    const front = points.filter((p) => p.front).sort((a, b) => a.asr - b.asr || a.ca - b.ca);
    const line = page.scales[scale].front;
    const picture = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "group",
      "aria-label": `${heading[0]} against ${heading[1]} of ${counted(points.length, "defense")}. Beaten by none on both: ${front.map((p) => p.name).join(", ") || "none is comparable"}` });
    for (const v of steps(low * 100, high * 100, height / 60)) {
      picture.append(svg("line", { class: "axis", x1: BOUNDS.left, x2: width - BOUNDS.right, y1: y(v / 100), y2: y(v / 100) }),
        svg("text", { x: BOUNDS.left - 5, y: y(v / 100) + 4, "text-anchor": "end", "aria-hidden": "true" }, short(v)));
    }
    for (const v of [0, 25, 50, 75, 100]) {
      picture.append(svg("line", { class: "axis", y1: BOUNDS.top, y2: height - BOUNDS.bottom, x1: x(v / 100), x2: x(v / 100) }),
        svg("text", { x: x(v / 100), y: height - BOUNDS.bottom + 14, "text-anchor": "middle", "aria-hidden": "true" }, v));
    }
    const middle = (height - BOUNDS.bottom) / 2;
    picture.append(svg("text", { x: (BOUNDS.left + width) / 2, y: height - 6, "text-anchor": "middle", "aria-hidden": "true" }, `${heading[1]} in percent, lower is better`),
      svg("text", { x: 11, y: middle, "text-anchor": "middle", transform: `rotate(-90 11 ${middle})`, "aria-hidden": "true" }, `${heading[0]} in percent, higher is better`));
    if (line.length) {
      picture.append(svg("polyline", { class: "front", points: line.map(([asr, ca]) => `${x(asr).toFixed(1)},${y(ca).toFixed(1)}`).join(" ") }));
    }
    const wanted = chosen();
    const boxes = points.map((p) => ({ left: x(p.asr) - radius(p.cost), right: x(p.asr) + radius(p.cost), top: y(p.ca) - radius(p.cost), bottom: y(p.ca) + radius(p.cost) }));
    for (let i = 1; i < line.length; i++) {  // Names keep off the line as off the marks.
      const [[a, b], [c, d]] = [line[i - 1], line[i]];
      boxes.push({ left: x(Math.min(a, c)) - 1, right: x(Math.max(a, c)) + 1, top: y(Math.max(b, d)) - 1, bottom: y(Math.min(b, d)) + 1 });
    }
    const marks = points.map((p, i) => {
      const [cx, cy, r] = [x(p.asr), y(p.ca), radius(p.cost)];
      const kind = `${p.kind}${p.front ? " front-point" : ""}${p.comparable || p.kind === "control" ? "" : " apart"}`;
      const dim = wanted.defense && page.variants.defense[p.defense].name !== wanted.defense;
      const shape = p.kind === "control"
        ? svg("rect", { class: "mark", x: cx - r, y: cy - r, width: 2 * r, height: 2 * r })
        : svg("circle", { class: "mark", cx, cy, r });
      const spread = [
        p.spreads[1] ? svg("line", { class: "spread", x1: x(p.spreads[1][0]), x2: x(p.spreads[1][1]), y1: cy, y2: cy }) : null,
        p.spreads[0] ? svg("line", { class: "spread", y1: y(p.spreads[0][0]), y2: y(p.spreads[0][1]), x1: cx, x2: cx }) : null,
      ];
      const mark = svg("g", { class: `point ${kind}${dim ? " dim" : ""}`, role: "button", tabindex: i === current ? 0 : -1,
        "aria-label": `${pointText(p, scale)}. Enter shows only this defense`, "aria-pressed": String(Boolean(wanted.defense && !dim)) }, ...spread, shape);
      const look = () => showTip(pointText(p, scale), mark.querySelector(".mark").getBoundingClientRect());
      const pick = () => {
        const name = page.variants.defense[p.defense].name;
        choose("defense", selects.defense.value === name ? "" : name);
        place.querySelectorAll(".point")[i]?.focus();
      };
      mark.addEventListener("mouseenter", look);
      mark.addEventListener("mouseleave", hideTip);
      mark.addEventListener("focus", look);
      mark.addEventListener("blur", hideTip);
      mark.addEventListener("click", () => { current = i; pick(); });
      mark.addEventListener("keydown", (event) => {
        const order = points.map((_, j) => j).sort((a, b) => points[a].asr - points[b].asr || points[a].ca - points[b].ca);
        const at = order.indexOf(i);
        const to = { ArrowRight: at + 1, ArrowUp: at + 1, ArrowLeft: at - 1, ArrowDown: at - 1, Home: 0, End: order.length - 1 }[event.key];
        if (event.key === "Enter" || event.key === " ") {
          event.preventDefault();
          pick();
        } else if (to !== undefined) {
          event.preventDefault();
          if (order[to] === undefined) return;
          const all = place.querySelectorAll(".point");
          all[i].setAttribute("tabindex", -1);
          current = order[to];
          all[current].setAttribute("tabindex", 0);
          all[current].focus();
        }
      });
      return mark;
    });
    picture.append(...marks);
    const free = (box) => box.left >= BOUNDS.left && box.right <= width - 2 && box.top >= 0 && box.bottom <= height - BOUNDS.bottom &&
      boxes.every((b) => box.right < b.left || box.left > b.right || box.bottom < b.top || box.top > b.bottom);
    const byWeight = points.map((_, i) => i).sort((a, b) => points[b].front - points[a].front);
    for (const i of byWeight) {
      const p = points[i];
      const text = p.name.length > 22 ? `${p.name.slice(0, 21)}…` : p.name;
      const [cx, cy, r, w] = [x(p.asr), y(p.ca), radius(p.cost), text.length * 6.7];
      const spots = [[r + 4, 4, "start"], [-r - 4, 4, "end"], [0, -r - 5, "middle"], [0, r + 13, "middle"],
        [r + 2, -r, "start"], [r + 2, r + 10, "start"], [-r - 2, -r, "end"], [-r - 2, r + 10, "end"]];
      for (const [dx, dy, anchor] of spots) {
        const left = cx + dx - { start: 0, middle: w / 2, end: w }[anchor];
        const box = { left, right: left + w, top: cy + dy - 10, bottom: cy + dy + 3 };
        if (!free(box)) continue;
        boxes.push(box);
        marks[i].append(svg("text", { class: "name", x: cx + dx, y: cy + dy, "text-anchor": anchor, "aria-hidden": "true" }, text));
        break;
      }
    }
    const size = (cost) => el("span", {}, svg("svg", { width: 2 * radius(cost) + 4, height: 2 * radius(cost) + 4, "aria-hidden": "true" },
      svg("circle", { class: "mark", cx: radius(cost) + 2, cy: radius(cost) + 2, r: radius(cost) })), ` ${cost} ×`);
    const kinds = [
      line.length ? "line: no other beats them on both" : null,
      points.some((p) => p.kind === "control") ? "square: control" : null,
      points.some((p) => !p.comparable && p.kind !== "control") ? "dashed circle: not comparable" : null,
    ].filter(Boolean).map((text) => el("span", {}, text));
    place.replaceChildren(picture, el("p", { class: "key" }, ...(costs.length ? [el("span", {}, "Cost"), ...[1, 2, 4].map(size)] : [el("span", {}, "No cost is known.")]), ...kinds));
  };
  draw();
  new ResizeObserver(() => {
    const drawn = place.querySelector("svg");
    if (drawn && Math.abs(Number(drawn.getAttribute("width")) - Math.max(260, Math.floor(place.clientWidth))) > 1) draw();
  }).observe(place);
  onFilter.push(draw);
  return draw;
};
const undrawn = new Set(document.querySelectorAll("section.scatter"));
const drawScatter = (section) => { if (undrawn.delete(section)) scatter(section); };
const watcher = new IntersectionObserver((found) => {
  for (const entry of found) if (entry.isIntersecting) { watcher.unobserve(entry.target); drawScatter(entry.target); }
}, { rootMargin: "400px" });
for (const section of undrawn) watcher.observe(section);
addEventListener("beforeprint", () => { for (const section of [...undrawn]) drawScatter(section); });
