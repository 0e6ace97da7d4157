"use strict";
// Curves of all runs over each other, one uPlot per chart, and the value that each run has under the pointer.

const report = JSON.parse(document.getElementById("data").textContent);
const state = { axis: "step", smoothing: 0.8, log: false, marks: true, hidden: new Set(), zoom: null };
const AXES = { step: "optimizer step", seen: "tokens", time: "time of training" };
const NUM_COLOURS = 8;
const FEW_POINTS = 60;
const NEAR_PIXELS = 6;
const POWERS_OF_2 = Array.from({ length: 50 }, (_, place) => 2 ** place);

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const runColour = (run) => colour(`run-${report.runs.indexOf(run) % NUM_COLOURS}`);
const visibleRuns = () => report.runs.filter((run) => !state.hidden.has(run));

// ---- words

function short(value, digits = 4) {
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e7)) return value.toExponential(digits - 2).replace(/\.?0+e/, "e");
  return Number(value.toPrecision(size >= 10 ** digits ? Math.ceil(Math.log10(size)) : digits)).toLocaleString("en-US",
    { maximumFractionDigits: 10 });
}

function inUnits(value, units, size) {
  let place = 0;
  while (place < units.length - 1 && Math.abs(value) >= size) { value /= size; place += 1; }
  return `${short(value, 3)} ${units[place]}`;
}

function clock(seconds) {
  if (Math.abs(seconds) < 1) return `${short(seconds * 1000, 3)} ms`;
  if (seconds < 120) return `${short(seconds, 3)} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 120 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")}`;
}

const WRITTEN = {
  number: (value) => short(value),
  loss: (value) => short(value),
  percent: (value) => `${short(value * 100, 3)}%`,
  seconds: clock,
  bytes: (value) => inUnits(value, ["B", "KiB", "MiB", "GiB", "TiB"], 1024),
  rate: (value) => `${short(value, 4)}`,
};

const onAxis = (value) => (state.axis === "time" ? clock(value)
  : state.axis === "seen" ? inUnits(value, ["", "K", "M", "B", "T"], 1000).trim() : Math.round(value).toLocaleString("en-US"));

// ---- numbers

// The place of the last of the sorted values that is not above the wanted one; -1 if all are.
function placeOf(sorted, wanted) {
  let low = 0, high = sorted.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (sorted[middle] <= wanted) low = middle + 1; else high = middle;
  }
  return low - 1;
}

function nearest(sorted, wanted) {
  const before = Math.max(placeOf(sorted, wanted), 0), after = Math.min(before + 1, sorted.length - 1);
  return wanted - sorted[before] <= sorted[after] - wanted ? before : after;
}

// Where a step lies on the axis that is shown: steps of one stretch share their last one's place.
function xOfStep(run, step) {
  if (state.axis === "step") return step;
  const place = placeOf(run.x.step, step);
  return place < 0 ? 0 : run.x[state.axis][place];
}

// Exponential moving average, corrected for its start as Adam's moments are; gaps stay gaps.
function smooth(values, weight) {
  let average = 0, kept = 1;
  return values.map((value) => {
    if (value === null) return null;
    average = weight * average + (1 - weight) * value;
    kept *= weight;
    return average / (1 - kept);
  });
}

const positive = (values, log) => (log ? values.map((value) => (value !== null && value > 0 ? value : null)) : values);

// What is drawn of one line of one run: values, style and, of thinned lines, what lies between smallest and largest.
function layersOf(run, line, log) {
  const evaluated = line.column in run.measured.y;
  if (evaluated) {
    const x = run.measured.step.map((step) => xOfStep(run, step));
    return [{ x, y: positive(run.measured.y[line.column], log), style: "points", line, run, told: true }];
  }
  if (!(line.column in run.y)) return [];
  const x = run.x[state.axis], y = run.y[line.column], layers = [];
  const smoothed = line.style === "main" && state.smoothing > 0 && y.length > 2;
  if (line.column in run.bands) {
    const [low, high] = run.bands[line.column];
    layers.push({ x, y: positive(high, log), style: "edge", line, run }, { x, y: positive(low, log), style: "edge", line, run });
  } else if (smoothed) layers.push({ x, y: positive(y, log), style: "faint", line, run });
  layers.push({ x, y: positive(smoothed ? smooth(y, state.smoothing) : y, log), style: line.style, line, run, told: true });
  return layers;
}

// ---- drawing

const STYLES = {
  main: { width: 2 },
  exact: { width: 1.75 },
  pale: { width: 1, alpha: "70" },
  faint: { width: 1, alpha: "45" },
  edge: { width: 0, alpha: "00" },
  dashed: { width: 1.5, dash: [6, 4] },
  points: { width: 1.5, dots: true },
};

function seriesOf(layer) {
  const style = STYLES[layer.style], few = layer.y.filter((value) => value !== null).length < FEW_POINTS;
  const stroke = () => runColour(layer.run) + (style.alpha ?? "");
  const dots = layer.style !== "edge" && layer.style !== "faint" && (style.dots ? true : few);
  return {
    stroke, width: style.width, dash: style.dash, spanGaps: style.dots ?? false,
    points: { show: dots, size: style.dots ? 6 : 4, stroke, fill: stroke, width: 0 },
  };
}

function wholeRange() {
  const ends = visibleRuns().flatMap((run) => run.x[state.axis].slice(-1));
  return [0, Math.max(...ends, 1e-3)];
}

function axisStyle() {
  return { stroke: () => colour("quiet"), grid: { stroke: () => colour("grid"), width: 1 },
    ticks: { stroke: () => colour("grid"), width: 1, size: 4 }, font: "11px system-ui, sans-serif" };
}

function yScale(chart, log) {
  if (log) return { distr: 3, range: (u, low, high) => (low === null ? [1, 10] : [low / 1.25, high * 1.25]) };
  if (!chart.from_zero) return {};
  return { range: (u, low, high) => [0, high === null || high <= 0 ? 1 : high * 1.06] };
}

// Straight through a chart: what was planned, and between what nine of ten runs are measured.
function drawPlanned(u, chart) {
  if (state.hidden.size === report.runs.length) return;
  const { ctx, bbox } = u;
  ctx.save();
  ctx.beginPath();
  ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
  ctx.clip();
  for (const run of visibleRuns()) {
    const planned = run.planned[chart.key];
    if (!planned) continue;
    const y = planned.map((value) => u.valToPos(value, "y", true));
    ctx.strokeStyle = report.runs.length === 1 ? colour("planned") : runColour(run);
    ctx.lineWidth = devicePixelRatio;
    ctx.setLineDash([3 * devicePixelRatio, 4 * devicePixelRatio]);
    ctx.beginPath();
    ctx.moveTo(bbox.left, y[0]);
    ctx.lineTo(bbox.left + bbox.width, y[0]);
    ctx.stroke();
    if (report.runs.length === 1) {
      ctx.fillStyle = colour("planned") + "14";
      ctx.fillRect(bbox.left, Math.min(y[1], y[2]), bbox.width, Math.abs(y[2] - y[1]));
    }
  }
  ctx.restore();
}

function drawMarks(u) {
  if (!state.marks) return;
  const { ctx, bbox } = u;
  ctx.save();
  ctx.lineWidth = devicePixelRatio;
  for (const run of visibleRuns()) {
    for (const mark of run.events) {
      const x = u.valToPos(xOfStep(run, mark.step), "x", true);
      if (x < bbox.left || x > bbox.left + bbox.width) continue;
      const quiet = mark.weight === "quiet";
      ctx.strokeStyle = quiet ? colour("quiet") : mark.weight === "bad" ? colour("bad") : colour("notable");
      ctx.setLineDash(quiet ? [] : [4 * devicePixelRatio, 3 * devicePixelRatio]);
      ctx.beginPath();
      ctx.moveTo(x, bbox.top + (quiet ? bbox.height - 5 * devicePixelRatio : 0));
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
    }
  }
  ctx.restore();
}

// On a logarithmic axis the first tick is where the axis begins, anywhere between the others.
const isRound = (value) => Math.abs(Number(value.toPrecision(1)) / value - 1) < 1e-9;

function makeChart(chart, place, width) {
  const log = state.log ? !chart.from_zero || chart.log : chart.log;
  const layers = visibleRuns().flatMap((run) => chart.lines.flatMap((line) => layersOf(run, line, log)));
  if (layers.length === 0) return null;
  const bands = layers.flatMap((layer, index) => (layer.style === "edge" && layers[index + 1]?.style === "edge"
    && layers[index + 1].line === layer.line && layers[index + 1].run === layer.run
    ? [{ series: [index + 1, index + 2], fill: () => `${runColour(layer.run)}38` }] : []));
  const written = WRITTEN[chart.unit];
  const options = {
    width, height: 240, bands, legend: { show: false }, padding: [10, 28, 0, 4],
    scales: { x: { time: false, range: () => state.zoom ?? wholeRange() }, y: yScale(chart, log) },
    axes: [{ ...axisStyle(), size: 30, values: (u, splits) => splits.map(onAxis), space: 70 },
      { ...axisStyle(), size: 62, ...(chart.unit === "bytes" && !log ? { incrs: POWERS_OF_2 } : {}), values: (u, splits) => splits.map((value) => (value === null || (log && !isRound(value)) ? "" : written(value))) }],
    series: [{}, ...layers.map(seriesOf)],
    cursor: { sync: { key: "curves" }, points: { show: false }, y: false, drag: { x: true, y: false, setScale: false } },
    hooks: {
      drawAxes: [(u) => drawPlanned(u, chart)],
      draw: [drawMarks],
      setCursor: [(u) => tellValues(u, chart, layers.filter((layer) => layer.told), written)],
      setSelect: [zoomTo],
    },
  };
  return new uPlot(options, uPlot.join(layers.map((layer) => [layer.x, layer.y])), place);
}

function zoomTo(u) {
  if (u.select.width < NEAR_PIXELS) return;
  state.zoom = [u.posToVal(u.select.left, "x"), u.posToVal(u.select.left + u.select.width, "x")];
  u.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
  document.dispatchEvent(new CustomEvent("zoomed"));
}
