"use strict";
// What the pointer is over: values of the curves, and the events on the time line.

const tip = document.createElement("div");
tip.id = "tip";
tip.hidden = true;
document.body.append(tip);

function put(tag, text, parent, className) {
  const made = document.createElement(tag);
  if (text !== null) made.textContent = text;  // never markup: names come from files
  if (className) made.className = className;
  parent.append(made);
  return made;
}

function showTip(u, left, top) {
  tip.hidden = false;
  const box = u.over.getBoundingClientRect(), own = tip.getBoundingClientRect();
  const x = box.left + left + 16 + own.width > innerWidth ? box.left + left - own.width - 16 : box.left + left + 16;
  tip.style.left = `${Math.max(x, 4)}px`;
  tip.style.top = `${Math.min(Math.max(box.top + top + 12, 4), innerHeight - own.height - 4)}px`;
}

const hovered = (u) => u.over.matches(":hover");

function marksNear(u, left) {
  return visibleRuns().flatMap((run) => run.events
    .filter((mark) => Math.abs(u.valToPos(xOfStep(run, mark.step), "x") - left) <= NEAR_PIXELS)
    .map((mark) => ({ run, mark })));
}

// The charts share one pointer; only the one that it is over speaks.
function tellValues(u, chart, layers, written) {
  if (!hovered(u)) return;
  const { left, top } = u.cursor;
  if (left < 0) { tip.hidden = true; return; }
  const x = u.posToVal(left, "x"), lines = [];
  for (const layer of layers) {
    if (layer.x.length === 0) continue;
    const place = nearest(layer.x, x), value = layer.y[place];
    const far = Math.abs(u.valToPos(layer.x[place], "x") - left) > 12;
    if (layer.line.column in layer.run.measured.y && far) continue;
    const raw = layer.line.column in layer.run.measured.y ? value : layer.run.y[layer.line.column][place];
    const smoothed = raw !== null && value !== null && Math.abs(raw - value) > 1e-12 * Math.abs(raw);
    lines.push({ layer, place, words: raw === null ? "no number" : written(raw) + (smoothed ? ` (${written(value)})` : "") });
  }
  tip.replaceChildren();
  put("div", state.axis === "step" ? `step ${onAxis(x)}` : `${AXES[state.axis]} ${onAxis(x)}`, tip, "tip-head");
  for (const { layer, words } of lines) {
    const row = put("div", null, tip, "tip-row");
    put("i", null, row, `swatch run-${report.runs.indexOf(layer.run) % NUM_COLOURS}`);
    const name = [report.runs.length > 1 ? layer.run.name : "", layer.line.label].filter(Boolean).join(", ");
    put("span", name || chart.title.toLowerCase(), row);
    put("b", words, row);
  }
  if (state.marks) tellMarks(marksNear(u, left).filter(({ mark }) => mark.weight !== "quiet").slice(0, 6));
  showTip(u, left, top);
}

function tellMarks(near) {
  for (const { run, mark } of near) {
    const name = report.runs.length > 1 ? `${run.name}, ` : "";
    put("div", `${name}step ${mark.step.toLocaleString("en-US")}: ${mark.words}`, tip, `tip-mark weight-${mark.weight}`);
  }
}

// ---- the time line: a row for each kind of event

const LANE_HEIGHT = 26;

function laneY(run, mark) {
  const lane = report.lanes.findIndex((one) => one.key === mark.lane), count = report.runs.length;
  return lane + (count > 1 ? ((report.runs.indexOf(run) + 0.5) / count - 0.5) * 0.7 : 0);
}

function drawLanes(u) {
  const { ctx } = u, size = (report.runs.length > 2 ? 3 : 4.5) * devicePixelRatio;
  ctx.save();
  for (const run of visibleRuns()) {
    for (const mark of run.events) {
      const x = u.valToPos(xOfStep(run, mark.step), "x", true), y = u.valToPos(laneY(run, mark), "y", true);
      if (x < u.bbox.left - 1 || x > u.bbox.left + u.bbox.width + 1) continue;
      ctx.fillStyle = report.runs.length > 1 ? runColour(run)
        : { quiet: colour("run-0"), notable: colour("notable"), bad: colour("bad") }[mark.weight];
      ctx.beginPath();
      if (mark.weight === "bad") ctx.rect(x - size, y - size, 2 * size, 2 * size); else ctx.arc(x, y, size, 0, 2 * Math.PI);
      ctx.fill();
    }
  }
  ctx.restore();
}

function tellEvents(u) {
  if (!hovered(u)) return;
  const { left, top } = u.cursor;
  const near = marksNear(u, left).filter(({ run, mark }) => Math.abs(u.valToPos(laneY(run, mark), "y") - top) < LANE_HEIGHT / 2);
  if (left < 0 || near.length === 0) { tip.hidden = true; return; }
  tip.replaceChildren();
  tellMarks(near.slice(0, 12));
  if (near.length > 12) put("div", `and ${near.length - 12} more`, tip, "tip-mark");
  showTip(u, left, top);
}

function makeTimeline(place, width) {
  if (report.lanes.length === 0) { put("p", "Nothing was noted beside the steps.", place, "note"); return null; }
  const last = report.lanes.length - 1;
  const options = {
    width, height: LANE_HEIGHT * report.lanes.length + 38, legend: { show: false }, padding: [4, 28, 0, 4],
    scales: { x: { time: false, range: () => state.zoom ?? wholeRange() }, y: { dir: -1, range: () => [-0.5, last + 0.5] } },
    axes: [{ ...axisStyle(), size: 30, values: (u, splits) => splits.map(onAxis), space: 70 },
      { ...axisStyle(), size: 110, splits: () => report.lanes.map((lane, index) => index),
        values: () => report.lanes.map((lane) => lane.name) }],
    series: [{}, {}],
    cursor: { sync: { key: "curves" }, points: { show: false }, y: false, drag: { x: true, y: false, setScale: false } },
    hooks: { draw: [drawLanes], setCursor: [tellEvents], setSelect: [zoomTo] },
  };
  return new uPlot(options, [wholeRange(), [null, null]], place);
}
