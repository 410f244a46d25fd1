// The charts of a report as plain data: axes, series, limits and what each point says; `plot.js` draws them.

import { figure } from "./axes.js";
import { isAdaptive, isLinear } from "./rules.js";
import { largestStableEigenvalue, predict } from "./theory.js";

// A chart: {id, title, x, y, series, marks, hidden, between, level}.
// x, y     axes for `frame`: {low, high, log, whole, label}
// series   [{name, named, kind, color, width, dash, x, y, bounds, tell}]; kind: lines, stems or alarms; `named` ones
//          stand in the legend; tell(i) says point i in words
// marks    [{at, text, color}]: limits on the x axis, each beside its dashed line
// hidden   [from, to] on the x axis, which nobody has measured, or null
// between  {x, low, high}: an interval to shade, or null
// level    {at, text}: a line across, or null

/** Beyond this a range would overflow; such values are drawn at it, and told as they are. */
const FAR = 1e300;
const within = (value) => Math.min(Math.max(value, -FAR), FAR);

/** The charts that this report calls for. */
export function chartsOf(model, report, theme) {
  return [
    report.spectrum && spectrumChart(model, report, theme),
    report.runs.length > 0 && lossChart(model, report, theme),
    report.ratio && ratioChart(report, theme),
  ].filter(Boolean);
}

const plain = { marks: [], hidden: null, between: null, level: null };

/** The eigenvalues or the density, what is not measured, and up to where each rule at its lr is stable. */
function spectrumChart(model, report, theme) {
  const s = report.spectrum,
    density = s.covers === "density";
  const values = Array.from(s.values),
    weights = Array.from(s.weights);
  const floor = density ? Math.max(Math.min(...weights.filter((w) => w > 0)), 1e-9) / 2 : 0;
  const top = Math.max(...values),
    least = Math.min(...values);
  const marks = limitsOf(model, report, theme)
    .filter(({ at }) => at < 20 * Math.max(top, 1e-300))
    .sort((a, b) => a.at - b.at)
    .slice(0, 8);
  const right = within(Math.max(top, 0, ...marks.map(({ at }) => at))),
    left = within(Math.min(least, 0)),
    span = Math.max(right - left, 1e-300);
  const x = { low: left - 0.04 * span, high: right + 0.06 * span, label: `eigenvalue of the ${s.what}` };
  const most = Math.max(...weights);
  return {
    ...plain,
    id: "spectrum",
    title: `Spectrum of the ${s.what}`,
    x,
    y: density
      ? { low: floor, high: Math.max(most, floor) * 2, log: true, label: "share of directions" }
      : { low: 0, high: Math.max(most, 1) * 1.25, whole: true, label: "multiplicity" },
    series: [
      {
        kind: "stems",
        name: density ? "nodes" : "eigenvalues",
        color: theme.accent,
        x: values.map(within),
        y: density ? weights.map((w) => Math.max(w, floor)) : weights,
        bounds: density ? null : s.bounds,
        tell: (i) =>
          density
            ? `${figure(values[i])}, share ${figure(weights[i], 2)}`
            : `${figure(values[i], 5)}${s.bounds[i] > 0 ? ` ± ${figure(s.bounds[i], 2)}` : ""}` +
              (weights[i] === 1 ? "" : `, ${figure(weights[i])} times`),
      },
    ],
    marks,
    hidden: { top: [x.low, least], bottom: [top, x.high], ends: [least, top] }[s.covers] ?? null,
  };
}

/** Up to which eigenvalue the race's rules and those of the report are stable. */
function limitsOf(model, report, theme) {
  const marks = [];
  for (const racer of model.racers) {
    if (racer.refused || !isLinear(racer.rule) || isAdaptive(racer.rule) || !(racer.p.lr > 0)) continue;
    const at = largestStableEigenvalue(racer.rule, racer.p);
    if (Number.isFinite(at))
      marks.push({ at, text: `${racer.label}: stable up to ${figure(at, 3)}`, color: theme.colors[racer.name] });
  }
  for (const { label, eigenvalue } of report.limits)
    if (eigenvalue > 0) marks.push({ at: eigenvalue, text: `${label}: ${figure(eigenvalue, 3)}`, color: theme.muted });
  return marks;
}

/** Recorded losses, from the smallest lr to the largest, and those predicted from the known directions, scaled to the
 * first recorded one. */
function lossChart(model, report, theme) {
  const runs = [...report.runs].sort((a, b) => (a.lr ?? 0) - (b.lr ?? 0)),
    series = [];
  runs.forEach((run, i) => {
    const color = theme.ramp(runs.length < 2 ? 0 : i / (runs.length - 1));
    series.push({
      kind: "lines",
      name: run.label,
      named: true,
      color,
      width: 2,
      dash: [],
      x: run.steps,
      y: run.values,
      tell: (k) => `${run.label}: loss ${figure(run.values[k])} at update ${figure(run.steps[k])}`,
    });
    const foretold = predicted(model, report, run);
    if (!foretold) return;
    const name = `predicted at lr ${figure(foretold.lr, 3)}`;
    series.push({
      kind: "lines",
      name,
      named: runs.length < 4,
      color,
      width: 1.5,
      dash: [5, 4],
      x: foretold.x,
      y: foretold.y,
      tell: (k) => `${name}: loss ${figure(foretold.y[k])} at update ${figure(foretold.x[k])}`,
    });
  });
  const steps = runs.flatMap((run) => [run.steps[0], run.steps.at(-1)]);
  const first = least(steps),
    last = most(steps);
  return {
    ...plain,
    id: "recorded",
    title: series.some((each) => each.dash.length) ? "Recorded loss, predicted dashed" : "Recorded loss",
    x: { low: first, high: last > first ? last : first + 1, label: "update" },
    y: { ...lossRange(runs), label: "loss" },
    series,
  };
}

/** The loss that the known directions foretell for one run: {lr, x, y}; null where they foretell none. */
function predicted(model, report, run) {
  const chosen = model.racers[model.state.selected],
    first = run.values.findIndex((v) => Number.isFinite(v) && v > 0),
    lr = run.lr ?? report.lr ?? chosen?.p.lr;
  if (!model.spectrum || !chosen || chosen.refused || first < 0 || !(lr > 0) || !model.quadratic) return null;
  const length = Math.min(run.steps.at(-1) - run.steps[first], 2000);
  const foretold = predict(
    chosen.rule,
    { ...chosen.p, lr },
    model.problem.eigenvalues,
    model.components,
    new Float64Array(model.problem.n),
    { tolerance: 0, kept: length, shown: 0, budget: 0 },
  );
  if (!foretold || !(length > 0)) return null;
  const per = run.values[first] / foretold.losses[0],
    ceiling = 1e4 * run.values[first];
  const y = Array.from(foretold.losses, (loss) => (loss * per > 0 && loss * per < ceiling ? loss * per : NaN));
  return { lr, x: y.map((_, k) => run.steps[first] + k), y };
}

const least = (list) => list.reduce((a, b) => Math.min(a, b), Infinity);
const most = (list) => list.reduce((a, b) => Math.max(a, b), -Infinity);

/** The range of what was recorded, with room: logarithmic where every loss is positive. */
function lossRange(runs) {
  const all = runs.flatMap((run) => run.values.filter(Number.isFinite)).map(within);
  if (!all.length) return { low: 0, high: 1 };
  const [low, high] = [least(all), most(all)];
  if (low > 0) return { low: low / 2, high: high * 2, log: true };
  const room = (high - low || Math.abs(high) || 1) * 0.08;
  return { low: low - room, high: high + room };
}

/** The stability ratio along training, its interval, the edge, the alarms. */
function ratioChart(report, theme) {
  const { steps, values, low, high } = report.ratio;
  const alarms = report.alarms.filter((a) => a.step !== null).slice(0, 200);
  const known = (list) => list.map((v, i) => (Number.isFinite(v) ? v : values[i]));
  const between = low.some(Number.isFinite) ? { x: steps, low: known(low), high: known(high) } : null;
  const ends = [...steps, ...alarms.map((a) => a.step)],
    top = within(most([1, ...values, ...(between?.high ?? [])])),
    first = least(ends),
    last = most(ends);
  const told = (i) =>
    between && between.low[i] < between.high[i] ? `, ${[low[i], high[i]].map((v) => figure(v, 3)).join(" to ")},` : "";
  const series = [
    {
      kind: "lines",
      name: between ? "stability ratio, its interval shaded" : "stability ratio",
      named: true,
      color: theme.accent,
      width: 2,
      dash: [],
      x: steps,
      y: values,
      tell: (i) => `stability ratio ${figure(values[i])}${told(i)} at update ${figure(steps[i])}`,
    },
  ];
  if (alarms.length)
    series.push({
      kind: "alarms",
      name: "alarms",
      named: true,
      color: theme.bad,
      x: alarms.map((a) => a.step),
      y: alarms.map(() => 1),
      tell: (i) => alarms[i].sentence,
    });
  return {
    ...plain,
    id: "ratio",
    title: "Stability ratio along training",
    x: { low: first, high: last > first ? last : first + 1, label: "update" },
    y: { low: within(least([0, ...values])), high: top * 1.12, label: "stability ratio" },
    series,
    between,
    level: { at: 1, text: "the edge" },
  };
}
