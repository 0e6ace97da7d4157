"use strict";
// Controls of the page: which runs, over which axis, how smooth, which theme.

(() => {
  const byId = (id) => document.getElementById(id);
  const made = [];

  function render() {
    const charts = byId("charts");
    if (!charts) return;
    for (const one of made.splice(0)) one.plot.destroy();
    charts.replaceChildren();
    tip.hidden = true;
    for (const chart of report.charts) {
      const figure = put("figure", null, charts, "chart");
      figure.id = `chart-${chart.key}`;
      put("figcaption", chart.title, figure);
      const hints = [chart.hint, legendOf(chart)].filter(Boolean).join("; ");
      put("span", hints, figure.firstChild, "hint");
      const place = put("div", null, figure);
      const plot = makeChart(chart, place, place.clientWidth);
      if (plot) made.push({ plot, place }); else put("p", "No run with these numbers is shown.", place, "note");
    }
    const line = byId("timeline");
    line.replaceChildren();
    const plot = makeTimeline(line, line.clientWidth);
    if (plot) made.push({ plot, place: line });
    for (const { plot: one } of made) {
      one.over.addEventListener("mouseleave", () => { tip.hidden = true; });
      one.over.addEventListener("dblclick", () => { state.zoom = null; render(); });
    }
  }

  function legendOf(chart) {
    const words = { main: "bold", exact: "bold", pale: "pale", points: "with dots", dashed: "dashed" };
    const lines = chart.lines.filter((line) => visibleRuns().some((run) => line.column in run.y || line.column in run.measured.y));
    const named = lines.length > 1 ? lines.map((line) => `${line.label}: ${words[line.style]}`) : lines.map((line) => line.label);
    if (report.runs.some((run) => chart.key in run.planned)) named.push("planned: dotted");
    return named.filter(Boolean).join(", ");
  }

  function soon(action) {
    let waiting = 0;
    return () => { cancelAnimationFrame(waiting); waiting = requestAnimationFrame(action); };
  }

  function bindRuns(renderSoon) {
    const chips = byId("runs");
    if (report.runs.length < 2) { chips.remove(); return; }
    for (const run of report.runs) {
      const chip = put("button", null, chips, "chip");
      chip.type = "button";
      chip.setAttribute("aria-pressed", "true");
      put("i", null, chip, `swatch run-${report.runs.indexOf(run) % NUM_COLOURS}`);
      put("span", run.name, chip);
      chip.addEventListener("click", () => {
        if (state.hidden.has(run)) state.hidden.delete(run); else state.hidden.add(run);
        chip.setAttribute("aria-pressed", String(!state.hidden.has(run)));
        renderSoon();
      });
    }
  }

  function bindControls(renderSoon) {
    byId("axis").addEventListener("change", (event) => { state.axis = event.target.value; state.zoom = null; renderSoon(); });
    const slider = byId("smoothing");
    if (Math.max(...report.runs.map((run) => run.x.step.length)) < FEW_POINTS) slider.value = "0";
    const smoothed = () => { state.smoothing = Number(slider.value); byId("smoothed").textContent = state.smoothing.toFixed(2); };
    slider.addEventListener("input", () => { smoothed(); renderSoon(); });
    smoothed();
    byId("log").addEventListener("change", (event) => { state.log = event.target.checked; renderSoon(); });
    byId("marks").addEventListener("change", (event) => { state.marks = event.target.checked; renderSoon(); });
    byId("whole").addEventListener("click", () => { state.zoom = null; renderSoon(); });
    document.addEventListener("zoomed", renderSoon);
  }

  function bindTheme() {
    const themes = ["auto", "light", "dark"], button = byId("theme");
    button.addEventListener("click", () => {
      const next = themes[(themes.indexOf(document.documentElement.dataset.theme ?? "auto") + 1) % themes.length];
      if (next === "auto") delete document.documentElement.dataset.theme; else document.documentElement.dataset.theme = next;
      button.textContent = `theme: ${next}`;
      render();
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", render);
  }

  bindTheme();
  if (!byId("charts")) return;
  const renderSoon = soon(render);
  bindRuns(renderSoon);
  bindControls(renderSoon);
  render();
  addEventListener("resize", soon(() => { for (const { plot, place } of made) plot.setSize({ width: place.clientWidth, height: plot.height }); }));
})();
