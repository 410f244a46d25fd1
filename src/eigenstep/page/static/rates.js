// The rates: |r| over eigenvalues, R against lr with its best point, the (lr, momentum) map with the stability edge.

import { figure, frame, sentence } from "./axes.js";
import { isAdaptive, isLinear, momentumField } from "./rules.js";
import { frozenLimit, probes, radius, rate } from "./theory.js";
import { effective, keyOf, knowsBottom, knowsTop, remember } from "./model.js";

/** The racers that share the selected one's axis: plain ones on eigenvalues of H, one that adapts on its own. */
function company(model) {
  const chosen = model.racers[model.state.selected];
  const values = effective(model, chosen);
  if (!values) return { reason: reasonFor(model, chosen) };
  if (isAdaptive(chosen.rule)) return { values, racers: [chosen], own: true };
  return {
    values,
    racers: model.racers.filter((r) => !r.refused && isLinear(r.rule) && !isAdaptive(r.rule)),
    own: false,
  };
}

function reasonFor(model, { refused, rule, label }) {
  if (refused) return `${label} ${refused}.`;
  if (!isLinear(rule)) return `${label} keeps only signs: it has no rate and no exact limit. Watch it run.`;
  if (model.spectrum) return `${label} measures in its own units: open a spectrum measured with --preconditioned.`;
  return `${label}'s unit moves along the way; off the quadratic it is simulated, not predicted.`;
}

const axisName = (own, t, model) =>
  own
    ? `eigenvalue of P⁻¹H, P as after update ${figure(t)}`
    : `eigenvalue λ of the ${model.spectrum?.what ?? "Hessian"}`;

/** |r(lambda)| for each rule, the eigenvalues as marks on it. */
export function drawRadii(pen, theme, width, height, model) {
  const { values, racers, own, reason } = company(model);
  if (reason) return sentence(pen, theme, width, height, reason);
  const marks = probes(values, 240),
    top = Math.max(marks[marks.length - 1], 1e-300),
    least = marks[0];
  const log = least > 0 && top / least > 30;
  const low = log ? least / 2 : Math.min(0, least * 1.15),
    high = log ? top * 2 : top * 1.3;
  const { sx, sy, box } = frame(
    pen,
    theme,
    width,
    height,
    { low, high, log, label: axisName(own, model.t, model) },
    { low: 0, high: 1.35, label: "|r|, factor per update" },
  );
  pen.within(box.x, box.y, box.w, box.h, () => {
    pen.rect(box.x, box.y, box.w, sy(1) - box.y, theme.bad, { alpha: 0.08 });
    unknown(pen, theme, model, sx, box, marks);
    pen.line([box.x, sy(1), box.x + box.w, sy(1)], theme.bad, { width: 1.2 });
    for (const racer of racers) {
      const color = theme.colors[racer.name],
        chosen = racer === model.racers[model.state.selected];
      const curve = [];
      for (let x = box.x; x <= box.x + box.w; x += 2) curve.push(x, sy(radius(racer.rule, racer.p, sx.invert(x))));
      pen.line(curve, color, { width: chosen ? 2.2 : 1.4, alpha: chosen ? 1 : 0.8 });
      for (const value of marks) {
        const r = radius(racer.rule, racer.p, value),
          fill = r >= 1 ? theme.bad : color;
        const [u, v] = [sx(value), Math.max(sy(Math.min(r, 1.34)), box.y + 4)];
        if (marks.length > 40) pen.rect(u - 1.5, v - 1.5, 3, 3, fill);
        else pen.dot(u, v, chosen ? 3.6 : 2.8, fill, { stroke: theme.card, width: 1 });
      }
    }
  });
  pen.text("unstable", box.x + box.w - 5, box.y + 10, theme.bad, { align: "right", weight: 600 });
}

/** Hatch what a partial spectrum does not cover. */
function unknown(pen, theme, model, sx, box, marks) {
  if (!model.spectrum || model.spectrum.covers === "all") return;
  const bands = {
    top: [[box.x, sx(marks[0])]],
    bottom: [[sx(marks[marks.length - 1]), box.x + box.w]],
    ends: [[sx(marks[0]), sx(marks[marks.length - 1])]],
    density: [],
  };
  for (const [from, to] of bands[model.spectrum.covers]) {
    if (!(to - from > 6)) continue;
    pen.rect(from, box.y, to - from, box.h, theme.muted, { alpha: 0.1 });
    const lines = [];
    for (let x = from - box.h; x < to; x += 9)
      lines.push(
        Math.max(x, from),
        box.y + box.h - Math.max(from - x, 0),
        Math.min(x + box.h, to),
        box.y + box.h - Math.min(box.h, to - x),
        NaN,
        NaN,
      );
    pen.line(lines, theme.muted, { width: 0.6, alpha: 0.5 });
    if (to - from > 60)
      pen.text("not measured", (from + to) / 2, box.y + box.h / 2, theme.muted, {
        align: "center",
        weight: 600,
        halo: theme.card,
      });
  }
}

/** The lr range of the charts: wide enough for every rule's limit and lr. */
function lrRange(model, racers) {
  const limits = racers.map((r) => r.atMost).filter((v) => v > 0 && v < Infinity);
  if (!limits.length) return null;
  const top = Math.max(...limits),
    wide = conditionOf(model) > 30;
  return { low: wide ? Math.min(...limits) / 100 : 1e-9, high: top * (wide ? 1.7 : 1.3), log: wide };
}

function conditionOf(model) {
  const values = model.eigenvalues,
    least = Math.min(...probes(values, 2));
  return least > 0 ? Math.max(...probes(values, 2)) / least : Infinity;
}

/** R against lr, where one may drag; returns the scale of lr. */
export function drawRates(pen, theme, width, height, model) {
  const { values, racers, own, reason } = company(model);
  if (reason) return sentence(pen, theme, width, height, reason);
  const range = lrRange(model, racers),
    chosen = model.racers[model.state.selected];
  if (!range)
    return sentence(pen, theme, width, height, `${chosen.label} is stable at every lr here: its unit only grows.`);
  const shown = probes(positive(values), 24),
    points = 180,
    partial = !knowsTop(model) || !knowsBottom(model);
  const at = (i) =>
    range.log
      ? range.low * (range.high / range.low) ** (i / points)
      : range.low + ((range.high - range.low) * i) / points;
  const curveOf = (racer, some, name) => {
    const compute = () =>
      Float64Array.from({ length: points + 1 }, (_, i) => rate(racer.rule, { ...racer.p, lr: at(i) }, some));
    return own
      ? compute()
      : remember(`rates${name}${keyOf(racer.name, racer.p, some, "lr")}${range.low}|${range.high}|${partial}`, compute);
  };
  const curves = racers.map((racer) => curveOf(racer, shown, ""));
  const least = Math.min(...curves.map((curve) => Math.min(...curve))),
    low = least < 0.7 ? 0 : Math.max(0, 1 - (1 - least) * 1.4);
  const high = 1 + (1 - low) * 0.4,
    label = own ? "lr, with P frozen" : "lr";
  const { sx, sy, box } = frame(
    pen,
    theme,
    width,
    height,
    { ...range, label },
    { low, high, label: partial ? "R of the known λ > 0" : "R, rate of the whole" },
  );
  pen.within(box.x, box.y, box.w, box.h, () => {
    pen.rect(box.x, box.y, box.w, sy(1) - box.y, theme.bad, { alpha: 0.08 });
    pen.line([box.x, sy(1), box.x + box.w, sy(1)], theme.bad, { width: 1.2 });
    if (shown.length === 2) {
      for (const end of shown)
        pen.line(placed(curveOf(chosen, Float64Array.of(end), `one${end}`), at, sx, sy), theme.colors[chosen.name], {
          width: 1.1,
          dash: [4, 3],
          alpha: 0.7,
        });
    }
    racers.forEach((racer, i) =>
      pen.line(placed(curves[i], at, sx, sy), theme.colors[racer.name], {
        width: racer === chosen ? 2.4 : 1.5,
        alpha: racer === chosen ? 1 : 0.8,
      }),
    );
  });
  for (const racer of racers) {
    const color = theme.colors[racer.name],
      now = rate(racer.rule, racer.p, shown),
      x = sx(racer.p.lr),
      y = Math.max(sy(Math.min(now, high)), box.y);
    if (racer.best && racer === chosen) {
      pen.line([sx(racer.best.lr), sy(racer.best.rate), sx(racer.best.lr), box.y + box.h], color, {
        width: 1,
        dash: [2, 3],
      });
      pen.dot(sx(racer.best.lr), sy(racer.best.rate), 4, theme.card, { stroke: color, width: 2 });
      const left = sx(racer.best.lr) > box.x + box.w / 2;
      pen.text(
        `best: lr ${figure(racer.best.lr, 3)}, R ${figure(racer.best.rate, 4)}`,
        sx(racer.best.lr) + (left ? -8 : 8),
        box.y + box.h - 10,
        theme.ink,
        { align: left ? "right" : "left", halo: theme.card },
      );
    }
    if (x >= box.x && x <= box.x + box.w)
      pen.dot(x, y, racer === chosen ? 6 : 4, color, { stroke: theme.card, width: 2 });
  }
  return { sx, box };
}

/** The positive eigenvalues: along the others there is no best lr. All, if there are none. */
function positive(values) {
  const kept = values.filter((value) => value > 0);
  return kept.length ? kept : values;
}

function placed(curve, at, sx, sy) {
  const points = new Float64Array(2 * curve.length);
  for (let i = 0; i < curve.length; i++) [points[2 * i], points[2 * i + 1]] = [sx(at(i)), sy(curve[i])];
  return points;
}

const COLUMNS = 72,
  ROWS = 48;

/** The (lr, momentum) map of R for the selected rule, its edge of stability, and the point now; returns the scales. */
export function drawMap(pen, theme, width, height, model) {
  const { values, own, reason } = company(model),
    chosen = model.racers[model.state.selected];
  const field = momentumField(chosen.rule);
  if (reason || !field)
    return sentence(
      pen,
      theme,
      width,
      height,
      reason ?? `${chosen.label} has no momentum: choose a rule that has, such as the heavy ball.`,
    );
  const some = probes(positive(values), 8),
    top = some[some.length - 1];
  if (!(top > 0)) return sentence(pen, theme, width, height, "No positive curvature is known here: there is no limit.");
  const base = { ...chosen.p, lr: 1, [field]: 0 },
    reach = isAdaptive(chosen.rule) || chosen.name === "ema-momentum" || chosen.rule.adaptive ? 45 : 4.4;
  const x = { low: 2e-3 / top, high: reach / top, log: true, label: own ? "lr, with P frozen" : "lr" };
  const y = { low: 0, high: 0.99, label: field === "beta1" ? "β₁" : "momentum β" };
  const { sx, sy, box } = frame(pen, theme, width, height, x, y);
  const grid = remember(`map${keyOf(chosen.name, base, some)}${theme.name}`, () =>
    mapOf(chosen.rule, base, field, some, x, y, theme),
  );
  pen.image(grid.picture, box.x, box.y, box.w, box.h);
  pen.within(box.x, box.y, box.w, box.h, () =>
    pen.line(
      grid.edge.map((v, i) => (i % 2 ? sy(v) : sx(v))),
      theme.bad,
      { width: 2 },
    ),
  );
  pen.text("unstable", box.x + box.w - 6, box.y + box.h - 12, theme.bad, {
    align: "right",
    weight: 600,
    halo: theme.halo,
  });
  const now = [Math.min(Math.max(sx(chosen.p.lr), box.x), box.x + box.w), Math.max(sy(chosen.p[field]), box.y)];
  if (grid.least < 1) {
    const [u, v] = [sx(grid.best[0]), sy(grid.best[1])];
    pen.text("★", u, v, theme.ink, { size: 15, align: "center", halo: theme.halo });
    if (u - now[0] > 130 || Math.abs(v - now[1]) > 40)
      pen.text(`best R ${figure(grid.least, 3)}`, u - 10, v, theme.ink, { align: "right", halo: theme.halo });
  }
  const [u, v] = now;
  pen.dot(u, v, 8, theme.colors[chosen.name], { stroke: theme.card, width: 2.5 });
  pen.text(`R ${figure(rate(chosen.rule, chosen.p, some), 4)}`, u - 13, Math.max(v, box.y + 8), theme.ink, {
    align: "right",
    weight: 600,
    halo: theme.halo,
  });
  return { sx, sy, box, field };
}

/** R on a grid: the edge of stability, the smallest R and where it is, and a picture. */
function mapOf(rule, base, field, values, x, y, theme) {
  const rates = new Float64Array(COLUMNS * ROWS),
    canvas = document.createElement("canvas");
  const p = { ...base };
  const edge = [],
    top = values[values.length - 1];
  let least = Infinity,
    best = null;
  for (let j = 0; j < ROWS; j++) {
    p[field] = y.high - ((y.high - y.low) * j) / (ROWS - 1);
    edge.push(frozenLimit(rule, p, top), p[field]);
    for (let i = 0; i < COLUMNS; i++) {
      p.lr = x.low * (x.high / x.low) ** (i / (COLUMNS - 1));
      const R = (rates[j * COLUMNS + i] = rate(rule, p, values));
      if (R < least) [least, best] = [R, [p.lr, p[field]]];
    }
  }
  [canvas.width, canvas.height] = [COLUMNS, ROWS];
  const context = canvas.getContext("2d"),
    data = context.createImageData(COLUMNS, ROWS);
  const slow = Math.log(1e-4),
    fast = Math.log(Math.max(1 - least, 2e-4));
  for (let k = 0; k < rates.length; k++) {
    const depth = rates[k] >= 1 ? 0 : Math.min(Math.max((Math.log(1 - rates[k]) - slow) / (fast - slow), 0), 1);
    const [from, to] = rates[k] >= 1 ? [theme.off, theme.off] : [theme.mapLow, theme.mapHigh];
    for (let c = 0; c < 3; c++) data.data[4 * k + c] = from[c] + (to[c] - from[c]) * depth;
    data.data[4 * k + 3] = 255;
  }
  context.putImageData(data, 0, 0);
  return { edge, least, best, picture: canvas };
}
