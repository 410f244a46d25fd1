// The charts of a report, as data and layout for Plotly.js.

import { figure } from "./axes.js";
import { isAdaptive, isLinear } from "./rules.js";
import { largestStableEigenvalue, predict } from "./theory.js";

/** Plotly reads a little markup in its texts: ours are shown as they are. */
const literal = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

/** What the charts share. */
export function common(theme) {
  const axis = {
    gridcolor: theme.grid,
    linecolor: theme.axis,
    zeroline: false,
    automargin: true,
    exponentformat: "power",
  };
  return {
    paper_bgcolor: theme.card,
    plot_bgcolor: theme.card,
    font: { color: theme.ink, size: 11, family: "system-ui, sans-serif" },
    margin: { l: 52, r: 12, t: 8, b: 40 },
    showlegend: true,
    xaxis: { ...axis },
    yaxis: { ...axis },
    shapes: [],
    annotations: [],
    legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, font: { size: 10.5 } },
    hovermode: "closest",
  };
}

/** The eigenvalues or the density, what is not measured, and what each rule at its lr can bear. */
export function spectrumChart(model, report, theme) {
  const s = report.spectrum,
    layout = common(theme),
    values = [...s.values],
    density = s.covers === "density";
  const x = [],
    y = [],
    floor = density ? Math.max(Math.min(...s.weights.filter((w) => w > 0)), 1e-9) / 2 : 0;
  values.forEach((value, i) => {
    x.push(value, value, null);
    y.push(floor, density ? Math.max(s.weights[i], floor) : s.weights[i], null);
  });
  const data = [
    { x, y, mode: "lines", line: { color: theme.accent, width: 2 }, hoverinfo: "skip", showlegend: false },
    {
      x: values,
      y: density ? s.weights.map((w) => Math.max(w, floor)) : s.weights,
      mode: "markers",
      name: density ? "nodes" : "eigenvalues",
      marker: { color: theme.accent, size: density ? 4 : 7 },
      error_x: density ? undefined : { type: "data", array: s.bounds, color: theme.accent, thickness: 1.5 },
      hovertemplate: density ? "%{x:.4g}, share %{y:.2g}<extra></extra>" : "%{x:.5g}<extra></extra>",
    },
  ];
  const top = Math.max(...values),
    least = Math.min(...values),
    edges = [];
  for (const racer of model.racers) {
    const adapts = isAdaptive(racer.rule);
    if (racer.refused || !isLinear(racer.rule) || adapts || !(racer.p.lr > 0)) continue;
    const bears = largestStableEigenvalue(racer.rule, racer.p);
    if (Number.isFinite(bears))
      edges.push([bears, `${racer.label} bears ${figure(bears, 3)}`, theme.colors[racer.name]]);
  }
  for (const { label, eigenvalue } of report.limits)
    if (eigenvalue > 0) edges.push([eigenvalue, `${label}: ${figure(eigenvalue, 3)}`, theme.muted]);
  const far = edges
    .filter(([at]) => at < 20 * Math.max(top, 1e-300))
    .sort((a, b) => a[0] - b[0])
    .slice(0, 8);
  const right = Math.max(top, ...far.map(([at]) => at)),
    span = Math.max(right - Math.min(least, 0), 1e-300);
  layout.xaxis = {
    ...layout.xaxis,
    title: { text: `eigenvalue of the ${s.what}` },
    range: [Math.min(least, 0) - 0.04 * span, right + 0.06 * span],
  };
  layout.showlegend = false;
  for (const group of together(far, span / 22)) {
    const [at, , color] = group[0];
    for (const [x0, , c] of group)
      layout.shapes.push({
        type: "line",
        xref: "x",
        yref: "paper",
        x0,
        x1: x0,
        y0: 0,
        y1: 1,
        line: { color: c, width: 2, dash: "dash" },
      });
    layout.annotations.push({
      x: at,
      y: 1,
      yref: "paper",
      xanchor: "right",
      yanchor: "top",
      textangle: -90,
      showarrow: false,
      text: group.map((g) => literal(g[1])).join("<br>"),
      font: { color: group.length > 1 ? theme.ink : color, size: 10.5 },
      align: "right",
    });
  }
  layout.yaxis = density
    ? { ...layout.yaxis, type: "log", title: { text: "share of directions" } }
    : { ...layout.yaxis, title: { text: "multiplicity" }, rangemode: "tozero", dtick: 1 };
  const [from, to] = layout.xaxis.range,
    hidden = { top: [from, least], bottom: [top, to], ends: [least, top] }[s.covers];
  if (hidden) {
    layout.shapes.push({
      type: "rect",
      xref: "x",
      yref: "paper",
      x0: hidden[0],
      x1: hidden[1],
      y0: 0,
      y1: 1,
      fillcolor: theme.muted,
      opacity: 0.13,
      line: { width: 0 },
    });
    if (hidden[1] - hidden[0] > 0.15 * (to - from))
      layout.annotations.push({
        x: (hidden[0] + hidden[1]) / 2,
        y: 0.5,
        yref: "paper",
        text: "not measured",
        showarrow: false,
        font: { color: theme.muted },
      });
  }
  return [data, layout];
}

/** Recorded losses, and those predicted from the known directions, scaled to the first recorded one. */
export function lossChart(model, report, theme) {
  const layout = common(theme),
    data = [],
    chosen = model.racers[model.state.selected];
  const palette = report.runs.map((_, i) => theme.ramp(report.runs.length < 2 ? 0 : i / (report.runs.length - 1)));
  report.runs.forEach((run, i) => {
    data.push({
      x: run.steps,
      y: run.values.map((v) => (Number.isFinite(v) ? v : null)),
      mode: "lines",
      name: literal(run.label),
      line: { color: palette[i], width: 2 },
    });
    const first = run.values.findIndex((v) => Number.isFinite(v) && v > 0),
      lr = run.lr ?? report.lr ?? chosen?.p.lr;
    if (!model.spectrum || !chosen || chosen.refused || first < 0 || !(lr > 0) || !model.quadratic) return;
    const length = Math.min(run.steps.at(-1) - run.steps[first], 2000);
    const foretold = predict(
      chosen.rule,
      { ...chosen.p, lr },
      model.problem.eigenvalues,
      model.components,
      new Float64Array(model.problem.n),
      { tolerance: 0, kept: length, shown: 0, budget: 0 },
    );
    if (!foretold || !(length > 0)) return;
    const per = run.values[first] / foretold.losses[0],
      ceiling = 1e4 * run.values[first],
      y = [];
    for (const loss of foretold.losses) y.push(loss * per > 0 && loss * per < ceiling ? loss * per : null);
    data.push({
      x: y.map((_, k) => run.steps[first] + k),
      y,
      mode: "lines",
      name: `predicted at lr ${figure(lr, 3)}`,
      line: { color: palette[i], width: 1.5, dash: "dash" },
      showlegend: report.runs.length < 4,
    });
  });
  const known = rangeOf(report);
  layout.xaxis = { ...layout.xaxis, title: { text: "update" } };
  layout.yaxis = { ...layout.yaxis, type: "log", title: { text: "loss" }, range: known };
  return [data, layout];
}

/** Marks that lie too close for a label each, in groups. */
function together(marks, near) {
  const groups = [];
  for (const mark of marks) {
    const last = groups.at(-1);
    if (last && mark[0] - last[0][0] < near) last.push(mark);
    else groups.push([mark]);
  }
  return groups;
}

/** The logarithmic range of what was recorded, with room. */
function rangeOf(report) {
  const all = report.runs.flatMap((run) => run.values.filter((v) => Number.isFinite(v) && v > 0));
  if (!all.length) return undefined;
  const [low, high] = all.reduce(([a, b], v) => [Math.min(a, v), Math.max(b, v)], [Infinity, 0]);
  return [Math.log10(low) - 0.3, Math.log10(high) + 0.3];
}

/** The stability ratio along training, its interval, the edge, the alarms. */
export function ratioChart(report, theme) {
  const { steps, values, low, high } = report.ratio,
    layout = common(theme),
    data = [];
  if (low.some(Number.isFinite)) {
    const clean = (list) => list.map((v, i) => (Number.isFinite(v) ? v : values[i]));
    data.push({
      x: [...steps, ...[...steps].reverse()],
      y: [...clean(low), ...clean(high).reverse()],
      fill: "toself",
      fillcolor: theme.accent,
      opacity: 0.18,
      line: { width: 0 },
      name: "interval",
      hoverinfo: "skip",
    });
  }
  data.push({
    x: steps,
    y: values,
    mode: "lines+markers",
    name: "stability ratio",
    line: { color: theme.accent, width: 2 },
    marker: { size: 4 },
  });
  const told = report.alarms.filter((a) => a.step !== null).slice(0, 200);
  if (told.length)
    data.push({
      x: told.map((a) => a.step),
      y: told.map(() => 1),
      mode: "markers",
      name: "alarms",
      marker: { color: theme.bad, size: 9, symbol: "triangle-up" },
      text: told.map((a) => literal(a.sentence.slice(0, 120))),
      hovertemplate: "%{text}<extra></extra>",
    });
  layout.shapes.push({
    type: "line",
    xref: "paper",
    x0: 0,
    x1: 1,
    y0: 1,
    y1: 1,
    line: { color: theme.bad, width: 1.5 },
  });
  layout.annotations.push({
    xref: "paper",
    x: 1,
    xanchor: "right",
    y: 1,
    yanchor: "bottom",
    text: "the edge",
    showarrow: false,
    font: { color: theme.bad },
  });
  layout.xaxis = { ...layout.xaxis, title: { text: "update" } };
  layout.yaxis = { ...layout.yaxis, title: { text: "stability ratio" }, rangemode: "tozero" };
  return [data, layout];
}
