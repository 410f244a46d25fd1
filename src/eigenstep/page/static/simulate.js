// One run of a rule on a surface: points, losses, eigencomponents, and the counts that eigenstep.simulate gives.

import { begin, isAdaptive, iterateOf, update } from "./rules.js";

/** Run for `steps` updates from `start`, until the iterate leaves (-box, box) or is no longer finite.
 *
 * steps: first update with a loss at or below the tolerance; lastAbove: last update above it (-1: never); left: the
 * update after which it was outside. Nothing is null that happened. points: (last + 1, n) iterates, or of what is
 * `stored`; components the same in the eigenbasis of a quadratic; units the P of an adaptive rule; losses (last + 1). */
export function simulate(rule, p, problem, start, { steps, tolerance = 1e-6, box = Infinity, stored = false }) {
  const n = problem.n, x = Float64Array.from(start), seen = new Float64Array(n), grad = new Float64Array(n);
  const state = begin(rule, p, n), scratch = new Float64Array(n), spectral = Boolean(problem.components);
  const run = {
    n, steps: null, lastAbove: -1, left: null, last: 0,
    points: new Float64Array(n * (steps + 1)), losses: new Float64Array(steps + 1),
    components: spectral ? new Float64Array(n * (steps + 1)) : null,
    units: isAdaptive(rule) ? new Float64Array(n * (steps + 1)).fill(1) : null,
  };
  for (let t = 0; t <= steps; t++) {
    if (t > 0) update(rule, p, x, grad, state);
    let size = 0;
    for (let i = 0; i < n; i++) {
      seen[i] = stored ? x[i] : iterateOf(rule, p, x[i], state.buffer[i]);
      size = Math.max(size, Math.abs(seen[i]));
    }
    const loss = problem.lossAndGradient(seen, grad);
    if (rule.iterate && !stored) problem.lossAndGradient(x, grad);
    if (!(size < box && Number.isFinite(loss))) {
      run.left = t;
      if (!Number.isFinite(loss) || !Number.isFinite(size)) break;
    }
    run.last = t;
    run.losses[t] = loss;
    if (spectral) problem.components(seen, scratch);
    for (let i = 0, at = t * n; i < n; i++, at++) {
      run.points[at] = seen[i];
      if (spectral) run.components[at] = scratch[i];
      if (run.units) run.units[at] = state.unit[i];
    }
    if (run.left !== null) break;
    if (loss <= tolerance) run.steps ??= t;
    else run.lastAbove = t;
  }
  if (run.left !== null) run.lastAbove = steps;
  return run;
}

/** Passes of the article's loop, which tests the loss before each step: updates + 1, or the update that left. */
export function articleCount(run) {
  return run.steps === null ? run.left : run.steps + 1;
}
