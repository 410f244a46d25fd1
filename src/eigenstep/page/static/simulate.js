// One run of a rule on a surface: points, losses, eigencomponents, and the counts that eigenstep.simulate gives.

import { begin, isAdaptive, iterateOf, update } from "./rules.js";
import { afresh } from "./theory.js";

/** Run for `steps` updates from `start`, until the iterate leaves (-box, box) or is no longer finite.
 *
 * steps: first update with a loss at or below the tolerance; lastAbove: last update above it (-1: never); left: the
 * update after which it was outside; null for what did not happen. Up to update `last`: points, the first and the last
 * coordinate of the iterates (or of what is `stored`); losses; components (n a row), the errors in the eigenbasis of a
 * quadratic; units (n a row), the P of an adaptive rule. */
export function simulate(
  rule,
  p,
  problem,
  start,
  { steps, tolerance = 1e-6, box = Infinity, stored = false, room = afresh },
) {
  const n = problem.n,
    x = Float64Array.from(start),
    grad = new Float64Array(n),
    state = begin(rule, p, n);
  const ahead = Boolean(rule.iterate) && !stored,
    seen = ahead ? new Float64Array(n) : x;
  const run = {
    n,
    steps: null,
    lastAbove: -1,
    left: null,
    last: 0,
    points: room("points", 2 * (steps + 1)),
    losses: room("run", steps + 1),
    components: problem.errors ? room("components", n * (steps + 1)) : null,
    units: isAdaptive(rule) ? room("units", n * (steps + 1)) : null,
  };
  const further = iterateOf(rule, p, 0, 1); // how much of the buffer lies between the stored point and the iterate
  for (let t = 0; t <= steps; t++) {
    if (t > 0) update(rule, p, x, grad, state);
    let loss = problem.lossAndGradient(x, grad),
      size = 0;
    if (ahead) {
      for (let i = 0; i < n; i++) seen[i] = x[i] + further * state.buffer[i];
      loss = problem.loss(seen);
    }
    for (let i = 0; i < n; i++) size = Math.max(size, Math.abs(seen[i]));
    if (!(size < box && Number.isFinite(loss))) {
      run.left = t;
      if (!Number.isFinite(loss) || !Number.isFinite(size)) break;
    }
    run.last = t;
    run.losses[t] = loss;
    run.points[2 * t] = seen[0];
    run.points[2 * t + 1] = seen[n - 1];
    if (run.components) keep(run.components, problem.errors, t);
    if (run.units) keep(run.units, state.unit, t);
    if (run.left !== null) break;
    if (loss <= tolerance) run.steps ??= t;
    else run.lastAbove = t;
  }
  if (run.left !== null) run.lastAbove = steps;
  return run;
}

/** Write row t. */
function keep(rows, values, t) {
  const n = values.length;
  for (let i = 0, at = t * n; i < n; i++, at++) rows[at] = values[i];
}

/** Passes of the article's loop, which tests the loss before each step: updates + 1, or the update that left. */
export function articleCount(run) {
  return run.steps === null ? run.left : run.steps + 1;
}
