// From the state to everything the pictures show: the surface, each rule's run, prediction, limits and best lr.

import { RULES, isAdaptive, isLinear } from "./rules.js";
import { DoubleWell, Quadratic, Rosenbrock } from "./problems.js";
import { articleCount, simulate } from "./simulate.js";
import { afresh, bestLr, frozenLimit, maxStableLr, predict } from "./theory.js";
import { roundUp } from "./axes.js";

const WORK = 100000; // eigenvalues x updates of one run: what a slider may cost
const BOX = 5; // the article's
const memory = new Map();

/** Remember the answer to a question; the oldest go first. */
export function remember(key, answer) {
  if (memory.has(key)) return memory.get(key);
  if (memory.size > 400) memory.delete(memory.keys().next().value);
  const value = answer();
  memory.set(key, value);
  return value;
}

const rooms = new Map();

/** Arrays for the racer at a place, used again by the next picture: a slider's move leaves nothing to sweep up. */
const roomFor = (place) => (name, length) => {
  const key = `${place} ${name}`,
    had = rooms.get(key);
  if (had?.length === length) return had;
  rooms.set(key, new Float64Array(length));
  return rooms.get(key);
};

/** A text for the hyperparameters other than those named: what a cached answer depends on. */
export function keyOf(rule, p, values, ...without) {
  const told = Object.entries(p).map(([name, value]) => (without.includes(name) ? "" : `${name}${value}`));
  return `${rule}|${told}|${values.length > 8 ? fingerprint(values) : values}`;
}

function fingerprint(values) {
  let sum = values.length;
  for (const value of values) sum = (sum * 31 + value) % 1e12;
  return `${sum}:${values[0]}:${values[values.length - 1]}`;
}

/** The surface of a state, and the start on it. */
function surface(state, report) {
  if (report?.spectrum) return measured(report.spectrum, state.start);
  if (state.surface === "rosenbrock") return { problem: new Rosenbrock(), start: state.start };
  if (state.surface === "double-well") return { problem: new DoubleWell(), start: state.start };
  const { n, kappa } = state;
  const values = Float64Array.from({ length: n }, (_, i) => (i === n - 1 ? kappa : kappa ** (i / (n - 1))));
  const minimum = new Float64Array(n),
    components = new Float64Array(n).fill(-0.5);
  [minimum[0], minimum[n - 1]] = [0.8, 0.6];
  [components[0], components[n - 1]] = state.start;
  const problem = new Quadratic(values, minimum, (state.angle * Math.PI) / 180);
  return { problem, start: problem.point(components), components };
}

/** A measured spectrum as a quadratic: its positive directions, an error of 1 in each, weighted where it is a density;
 * the flattest and the sharpest as the state has them. */
function measured(spectrum, start) {
  const kept = [...spectrum.values.keys()].filter((i) => spectrum.values[i] > 0);
  const chosen = kept.length ? kept : [spectrum.values.length - 1];
  const values = Float64Array.from(chosen, (i) => spectrum.values[i]),
    n = values.length;
  const components = Float64Array.from(chosen, (i) => usual(spectrum, i)),
    problem = new Quadratic(values, new Float64Array(n));
  const reach = Math.max(components[0], components[n - 1]);
  if (start) [components[0], components[n - 1]] = start;
  return { problem, start: problem.point(components), components, spectrum, reach };
}

const usual = (spectrum, i) => (spectrum.covers === "density" ? Math.sqrt(spectrum.weights[i]) : 1);

/** Everything that is shown, from the state and the report that is open. */
export function compute(state, report) {
  const { problem, start, components, spectrum, reach } = surface(state, report),
    n = problem.n;
  const steps = Math.max(10, Math.min(state.steps, Math.floor(WORK / n)));
  const quadratic = problem instanceof Quadratic;
  const all = spectrum ? spectrum.values : problem.eigenvalues;
  const model = {
    state,
    report,
    problem,
    start,
    components,
    spectrum,
    reach,
    steps,
    quadratic,
    eigenvalues: all,
    racers: [],
  };
  model.racers = state.racers.map(({ rule, p }, i) => race(model, rule, p, roomFor(i)));
  model.shown = shownSteps(model);
  model.t = state.t === null ? model.shown : Math.min(state.t, model.shown);
  for (const racer of model.racers) {
    if (racer.run && racer.run.left === null && racer.run.last < model.shown)
      racer.run = run(model, racer, model.shown);
    judge(model, racer);
  }
  model.consider = (name, p) => judge(model, race(model, name, p));
  return model;
}

/** One rule: what is known before it runs, and its run. */
function race(model, name, given, room = afresh) {
  const { state, problem, spectrum, steps } = model;
  let rule = RULES[name],
    p = given,
    refused = null;
  if (spectrum) {
    const preconditioned = spectrum.operator === "preconditioned";
    if (preconditioned && !isAdaptive(rule)) {
      refused = `does not adapt, and this is the spectrum that ${spectrum.rule || "an adaptive rule"} sees`;
    } else if (preconditioned) {
      rule = frozen(rule);
      p = { ...p, weight_decay: p.decoupled ? p.weight_decay : 0 };
    }
  }
  const racer = { name, rule, p, given, refused, room, label: rule.label };
  if (refused) return racer;
  const options = { tolerance: state.tolerance, kept: 0, shown: 0, budget: 20 * WORK, room };
  const pull = model.quadratic ? pulls(problem) : null;
  racer.prediction =
    model.quadratic && p.lr > 0
      ? predict(rule, p, problem.eigenvalues, model.components, pull, {
          ...options,
          kept: steps,
          shown: problem.n < 8 ? Math.min(steps, 2000) : 0,
        })
      : null;
  const settled = racer.prediction?.settled;
  const horizon = settled != null && steps > 1000 ? Math.min(steps, Math.max(Math.ceil(settled * 1.2), 60)) : steps;
  racer.run = run(model, racer, horizon);
  racer.count = articleCount(racer.run);
  return racer;
}

/** A rule's run; what is predicted to have settled runs on only as far as it is shown. */
function run({ state, problem, start, spectrum }, { rule, p, room }, steps) {
  return simulate(rule, p, problem, start, { steps, tolerance: state.tolerance, box: spectrum ? 1e9 : BOX, room });
}

/** A racer with what its limits are at the update shown. */
function judge(model, racer) {
  if (racer.refused) return racer;
  const limit = limitOf(model, racer);
  racer.limit = knowsTop(model) ? limit : null;
  racer.atMost = limit; // where the largest eigenvalue is not known it may be larger, and the limit lower
  racer.best = settingsOf(model, racer);
  const wells = isLinear(racer.rule) && !isAdaptive(racer.rule) ? (model.problem.wells ?? []) : [];
  racer.wells = wells.map(({ label, sharpness }) => ({ label, limit: maxStableLr(racer.rule, racer.p, sharpness) }));
  return racer;
}

/** The components of (zero - minimum), where weight decay pulls to. */
function pulls(problem) {
  return problem.components(new Float64Array(problem.n), new Float64Array(problem.n));
}

/** An adaptive rule with its unit frozen into the spectrum: the filter alone, long after the first update. */
function frozen(rule) {
  const late = (p) => rule.coefficients(p, Infinity);
  return { ...rule, accumulate: undefined, adaptive: true, scales: () => 0, coefficients: late };
}

/** The eigenvalues that a rule's matrix is built from: the Hessian's, or for one that adapts those of P^-1/2 (H + wI)
 * P^-1/2 with its P at update t. null: there are none to build it from. */
export function effective(model, racer, t = model.t) {
  if (racer.refused || !isLinear(racer.rule)) return null;
  if (!isAdaptive(racer.rule)) return model.eigenvalues;
  if (!model.quadratic || model.spectrum) return null;
  const at = Math.max(1, Math.min(t, racer.run.last)),
    n = model.problem.n;
  if (racer.run.last < 1) return null;
  const decay = racer.p.decoupled ? 0 : racer.p.weight_decay;
  return model.problem.preconditioned(racer.run.units.subarray(at * n, (at + 1) * n), decay);
}

/** The largest stable lr for the largest eigenvalue that is known. */
function limitOf(model, racer) {
  const values = effective(model, racer);
  if (!values || !values.length) return null;
  let top = -Infinity;
  for (const value of values) top = Math.max(top, value);
  const plain = !isAdaptive(racer.rule),
    solve = plain ? maxStableLr : frozenLimit;
  if (!plain) return solve(racer.rule, racer.p, top);
  return remember(`limit${keyOf(racer.name, racer.p, [top], "lr")}`, () => solve(racer.rule, racer.p, top));
}

/** The best lr for the asymptotic rate; for plain rules on spectra of which both ends are known. */
function settingsOf(model, racer) {
  const values = effective(model, racer);
  if (!values || isAdaptive(racer.rule) || !knowsTop(model) || !knowsBottom(model)) return null;
  return remember(`best${keyOf(racer.name, racer.p, values, "lr")}`, () => bestLr(racer.rule, racer.p, values));
}

const covered = (model, ...parts) => !model.spectrum || parts.includes(model.spectrum.covers);
export const knowsTop = (model) => covered(model, "all", "top", "ends");
export const knowsBottom = (model) => covered(model, "all", "bottom", "ends");

/** How many updates the pictures show: until the last rule is done, rounded up. */
function shownSteps(model) {
  let needed = 20;
  for (const { run, prediction } of model.racers) {
    if (!run) continue;
    const last = run.lastAbove < run.last ? run.lastAbove + 1 : run.last;
    needed = Math.max(needed, (run.left ?? prediction?.settled ?? last) * 1.08);
  }
  return Math.min(roundUp(needed) < needed * 1.6 ? roundUp(needed) : Math.ceil(needed / 50) * 50, model.steps);
}

/** What became of a rule, in a few words. */
export function fate(model, racer) {
  if (racer.refused) return racer.refused;
  const { run, prediction } = racer;
  if (run.left !== null) return `left at step ${run.left.toLocaleString("en-US")}`;
  if (racer.p.lr === 0) return "lr 0: nothing moves";
  if (run.steps === null) return `not within ${run.last.toLocaleString("en-US")}`;
  const part = model.spectrum && model.spectrum.covers !== "all" ? " in the known directions" : "";
  if (prediction?.settled != null) return `settled at ${prediction.settled.toLocaleString("en-US")}${part}`;
  const within = run.last.toLocaleString("en-US");
  if (run.lastAbove >= run.last) return `above again at ${within}`;
  return `last above at ${Math.max(run.lastAbove, 0).toLocaleString("en-US")} within ${within}`;
}
