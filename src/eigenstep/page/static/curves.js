// The curves over updates: loss, predicted under simulated with its counts; eigencomponents, each at its own pace.

import { figure, frame, sentence } from "./axes.js";
import { fate } from "./model.js";
import { radius } from "./theory.js";

/** [x, y] pairs of a series, at most about two a pixel: the largest and smallest of each bucket; `at(k)` is x of the kth. */
export function thinned(length, value, sx, sy, width, at = (k) => k) {
  const points = [],
    bucket = Math.max(1, Math.floor(length / Math.max(width, 1)));
  for (let from = 0; from < length; from += bucket) {
    let low = from,
      high = from;
    for (let k = from; k < Math.min(from + bucket, length); k++) {
      if (value(k) < value(low)) low = k;
      if (value(k) > value(high)) high = k;
    }
    for (const k of low <= high ? [low, high] : [high, low]) {
      points.push(sx(at(k)), sy(value(k)));
      if (bucket === 1) break;
    }
  }
  return points;
}

/** The loss of every rule. */
export function drawLoss(pen, theme, width, height, model) {
  const { tolerance } = model.state,
    racers = model.racers.filter((r) => r.run);
  let top = tolerance * 10,
    least = tolerance;
  for (const { run } of racers) {
    for (let k = 0; k <= Math.min(run.last, model.shown); k++) {
      if (run.losses[k] > top) top = run.losses[k];
      if (run.losses[k] > 0 && run.losses[k] < least) least = run.losses[k];
    }
  }
  least = Math.max(least, tolerance * 1e-4);
  const y = { low: least / 2, high: Math.min(top * 3, 1e12), log: true, label: "loss" };
  const { sx, sy, box } = frame(pen, theme, width, height, { low: 0, high: model.shown, label: "updates" }, y);
  const ends = [];
  pen.within(box.x, box.y, box.w, box.h, () => {
    pen.line([box.x, sy(tolerance), box.x + box.w, sy(tolerance)], theme.ink, { width: 1, dash: [5, 4] });
    for (const { prediction, name } of racers) {
      if (!prediction) continue;
      const length = Math.min(prediction.losses.length, model.shown + 1);
      pen.line(
        thinned(length, (k) => prediction.losses[k], sx, sy, box.w),
        theme.colors[name],
        { width: 7, alpha: 0.28 },
      );
    }
    for (const [i, racer] of model.racers.entries()) {
      const { run } = racer;
      if (!run) continue;
      const color = theme.colors[racer.name],
        chosen = i === model.state.selected;
      pen.line(
        thinned(Math.min(run.last, model.shown) + 1, (k) => run.losses[k], sx, sy, box.w),
        color,
        { width: chosen ? 1.9 : 1.3 },
      );
      if (run.left !== null) {
        ends.push([run.left, Math.min(run.losses[Math.min(run.last, run.left)], y.high), racer]);
        continue;
      }
      if (run.steps !== null) pen.dot(sx(run.steps), sy(tolerance), 4, theme.card, { stroke: color, width: 2 });
      const settled = racer.prediction?.settled ?? (run.lastAbove < run.last ? run.lastAbove + 1 : null);
      if (settled !== null && settled !== run.steps)
        pen.rect(sx(settled) - 4, sy(tolerance) - 4, 8, 8, color, { stroke: theme.card });
    }
    if (model.t < model.shown) pen.line([sx(model.t), box.y, sx(model.t), box.y + box.h], theme.ink, { width: 1 });
  });
  for (const [step, loss, racer] of ends) {
    const x = sx(Math.min(step, model.shown)),
      left = x > box.x + box.w * 0.5;
    pen.dot(x, Math.max(sy(loss), box.y + 4), 4, theme.bad);
    pen.text(fate(model, racer), x + (left ? -8 : 8), Math.max(sy(loss), box.y + 8), theme.bad, {
      align: left ? "right" : "left",
      weight: 600,
      halo: theme.card,
    });
  }
  pen.text(`tolerance ${figure(tolerance)}`, box.x + box.w - 4, sy(tolerance) - 8, theme.muted, {
    align: "right",
    halo: theme.card,
  });
}

const MOST = 24;

/** The error along each eigenvector for the selected rule, the predicted pace dashed. */
export function drawComponents(pen, theme, width, height, model) {
  const racer = model.racers[model.state.selected],
    { run } = racer;
  if (!run?.components) {
    const why = racer.refused
      ? `${racer.label} ${racer.refused}.`
      : "Eigencomponents belong to the quadratic; here curvature changes with the place.";
    return sentence(pen, theme, width, height, why);
  }
  const n = run.n,
    length = Math.min(run.last, model.shown) + 1,
    signed = model.state.scale === "signed";
  const chosen = Array.from({ length: Math.min(n, MOST) }, (_, i) =>
    Math.round((i * (n - 1)) / Math.max(Math.min(n, MOST) - 1, 1)),
  );
  let top = 0,
    least = Infinity;
  for (const i of chosen) {
    for (let k = 0; k < length; k++) {
      const size = Math.abs(run.components[k * n + i]);
      if (size > top) top = size;
      if (size > 0 && size < least) least = size;
    }
  }
  if (!(top > 0)) top = 1;
  least = Math.max(Math.min(least, top / 10), top * 1e-9);
  const last = signed ? Math.min(model.shown, Math.max(60, Math.ceil(model.shown / 4))) : model.shown;
  const y = signed
    ? { low: -top * 1.1, high: top * 1.1, label: "error along eigenvectors" }
    : { low: least / 2, high: top * 3, log: true, label: "|error| along eigenvectors" };
  const { sx, sy, box } = frame(pen, theme, width, height, { low: 0, high: last, label: "updates" }, y);
  const value = (i) => (signed ? (k) => run.components[k * n + i] : (k) => Math.abs(run.components[k * n + i]) || NaN);
  const { prediction } = racer;
  pen.within(box.x, box.y, box.w, box.h, () => {
    for (const [rank, i] of chosen.entries()) {
      const color = theme.ramp(chosen.length < 2 ? 1 : rank / (chosen.length - 1)),
        wide = n < 8;
      if (prediction && wide) {
        const many = Math.min(prediction.shown, last) + 1;
        const foretold = (k) => (signed ? prediction.errors[k * n + i] : Math.abs(prediction.errors[k * n + i]) || NaN);
        pen.line(thinned(many, foretold, sx, sy, box.w), color, { width: 7, alpha: 0.28 });
      }
      pen.line(thinned(Math.min(length, last + 1), value(i), sx, sy, box.w), color, {
        width: wide ? 1.6 : 0.9,
        alpha: wide ? 1 : 0.6,
      });
      if (prediction && !signed && wide) {
        const r = radius(racer.rule, racer.p, model.problem.eigenvalues[i]),
          begin = Math.abs(model.components[i]) || top;
        if (r > 0) pen.line(slope(begin, r, last, sx, sy, y), color, { width: 1, dash: [4, 3] });
      }
    }
    if (model.t < last) pen.line([sx(model.t), box.y, sx(model.t), box.y + box.h], theme.ink, { width: 1 });
  });
  const growth = peakOf(run, chosen, length);
  if (growth.by > 1.5 && run.left === null) {
    const left = sx(growth.at) > box.x + box.w * 0.6,
      y = signed ? box.y + 10 : Math.max(sy(growth.size) - 10, box.y + 9);
    pen.text(`first grows ${figure(growth.by, 3)} times`, sx(growth.at) + (left ? -6 : 6), y, theme.ink, {
      align: left ? "right" : "left",
      weight: 600,
      halo: theme.card,
    });
  }
  const names =
    n <= 6
      ? chosen.map((i) => `λ = ${figure(model.problem.eigenvalues[i], 3)}`)
      : [`λ = ${figure(model.problem.eigenvalues[0], 3)}`, `λ = ${figure(model.problem.eigenvalues[n - 1], 3)}`];
  names.forEach((name, i) => {
    const color = theme.ramp(names.length < 2 ? 1 : i / (names.length - 1));
    pen.text(name, box.x + box.w - 5, box.y + 9 + 14 * i, color, { align: "right", weight: 600, halo: theme.card });
  });
  if (n > chosen.length)
    pen.text(`${chosen.length} of ${n} lines`, box.x + 5, box.y + box.h - 9, theme.muted, { halo: theme.card });
}

/** The largest growth of one component from its start: by how much, to what size, at which update. */
function peakOf(run, chosen, length) {
  let found = { by: 1, size: 0, at: 0 };
  for (const i of chosen) {
    const begun = Math.abs(run.components[i]);
    for (let k = 1; begun > 0 && k < length; k++) {
      const size = Math.abs(run.components[k * run.n + i]);
      if (size / begun > found.by) found = { by: size / begun, size, at: k };
    }
  }
  return found;
}

/** The straight line of begin * r^k on the logarithmic axis, cut where the axis ends. */
function slope(begin, r, last, sx, sy, y) {
  const bottom = Math.log(y.low / 10),
    height = Math.log(begin),
    fall = Math.log(r);
  const end =
    fall < 0
      ? Math.min(last, (bottom - height) / fall)
      : Math.min(last, (Math.log(y.high * 10) - height) / Math.max(fall, 1e-12));
  return [sx(0), sy(begin), sx(Math.max(end, 0)), sy(Math.exp(height + fall * Math.max(end, 0)))];
}
