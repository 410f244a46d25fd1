// One small matrix per eigenvalue, read off the rule's own `move`: radii, limits, best settings, exact counts.

import { isAdaptive, isLinear, iterateOf } from "./rules.js";

const DECADES = 9,
  PER_DECADE = 40,
  BLOCK = 256;
const OUT = new Float64Array(2);

/** What one update does to (stored point, buffer) along an eigenvector: [a, b, c, d], row by row; b, c, d without a
 * buffer are 0. The eigenvalue is the Hessian's, or for an adaptive rule that of P^-1/2 (H + wI) P^-1/2. */
export function matrix(rule, p, eigenvalue, t = Infinity) {
  const c = rule.coefficients(p, t, { product: 1 }),
    buffered = rule.buffers(p) > 0;
  const coupled = isAdaptive(rule) || p.decoupled ? 0 : p.weight_decay;
  rule.move(p, 1, eigenvalue + coupled, 1, 0, c, OUT);
  const a = OUT[0],
    below = OUT[1];
  if (!buffered) return [a, 0, 0, 0];
  rule.move(p, 0, 0, 1, 1, c, OUT);
  return [a, OUT[0], below, OUT[1]];
}

/** The largest modulus of a matrix's eigenvalues. */
export function radiusOf([a, b, c, d]) {
  const discriminant = (a - d) ** 2 + 4 * b * c;
  if (discriminant < 0) return Math.sqrt(Math.max(a * d - b * c, 0));
  return (Math.abs(a + d) + Math.sqrt(discriminant)) / 2;
}

/** The factor by which the error along an eigenvector finally shrinks at each update. */
export const radius = (rule, p, eigenvalue) => radiusOf(matrix(rule, p, eigenvalue));

/** Whether a direction contracts: Jury's conditions, exact at the edge. */
function stable(rule, p, eigenvalue) {
  const [a, b, c, d] = matrix(rule, p, eigenvalue);
  return (1 - a) * (1 - d) - b * c > 0 && (1 + a) * (1 + d) - b * c > 0 && a * d - b * c < 1;
}

/** R: the largest radius over the eigenvalues. */
export function rate(rule, p, eigenvalues) {
  let largest = 0;
  for (const value of eigenvalues) largest = Math.max(largest, radius(rule, p, value));
  return largest;
}

/** The lr below which a direction is stable, with the unit of an adaptive rule frozen; the rule's lr is ignored. */
export function frozenLimit(rule, p, eigenvalue) {
  const decay = p.weight_decay ?? 0;
  if (eigenvalue === 0 && decay === 0) return Infinity;
  const tried = { ...p };
  return edge(
    (lr) => {
      tried.lr = lr;
      return stable(rule, tried, eigenvalue);
    },
    1 / Math.max(Math.abs(eigenvalue), decay),
  );
}

/** The curvature below which a rule is stable at its own lr. */
export function largestStableEigenvalue(rule, p) {
  return edge((eigenvalue) => stable(rule, p, eigenvalue), 1 / p.lr);
}

/** The upper end of what is good: scanned within nine decades of a scale, then bisected to rounding. */
function edge(good, scale) {
  const at = (step) => scale * 10 ** (step / PER_DECADE);
  let step = DECADES * PER_DECADE;
  if (good(at(step))) return Infinity;
  while (step > -DECADES * PER_DECADE && !good(at(step))) step--;
  if (!good(at(step))) return 0;
  let low = at(step),
    high = at(step + 1);
  for (let i = 0; i < 60 && high - low > 4e-16 * high; i++) {
    const middle = (low + high) / 2;
    if (good(middle)) low = middle;
    else high = middle;
  }
  return (low + high) / 2;
}

/** The largest stable lr: infinite for AdaGrad, whose unit only grows. */
export function maxStableLr(rule, p, eigenvalue) {
  return rule.onlyGrows ? Infinity : frozenLimit(rule, p, eigenvalue);
}

/** Both ends and up to 62 of the eigenvalues in between, ascending. */
export function probes(eigenvalues, most = 64) {
  const sorted = Float64Array.from(eigenvalues).sort(),
    n = sorted.length;
  if (n <= most) return sorted;
  return Float64Array.from({ length: most }, (_, i) => sorted[Math.round((i * (n - 1)) / (most - 1))]);
}

/** The lr with the smallest R, by zooming in log(lr); where a whole interval is equally good, its middle. null where
 * no lr makes every direction contract. */
export function bestLr(rule, p, eigenvalues) {
  const values = probes(eigenvalues),
    limit = frozenLimit(rule, p, values[values.length - 1]);
  if (!(limit > 0 && limit < Infinity)) return null;
  const tried = { ...p },
    points = 33;
  const rateAt = (lr) => {
    tried.lr = lr;
    return rate(rule, tried, values);
  };
  let low = Math.log(limit * 1e-6),
    high = Math.log(limit),
    best = NaN,
    least = Infinity;
  while (high - low > 1e-14 * Math.max(1, Math.abs(high))) {
    const step = (high - low) / (points - 1);
    let at = 0;
    least = Infinity;
    for (let i = 0; i < points; i++) {
      const found = rateAt(Math.exp(low + i * step));
      if (found < least) [least, at] = [found, i];
    }
    best = Math.exp(low + at * step);
    [low, high] = [low + Math.max(at - 1, 0) * step, low + Math.min(at + 1, points - 1) * step];
  }
  if (!(least < 1)) return null;
  const asGood = (outside) => {
    let inside = best;
    for (let i = 0; i < 50; i++) {
      const middle = (inside + outside) / 2;
      if (rateAt(middle) <= least + 1e-9) inside = middle;
      else outside = middle;
    }
    return inside;
  };
  const from = asGood(0),
    to = asGood(limit),
    plateau = to - from > 1e-4 * best;
  return { lr: plateau ? (from + to) / 2 : best, rate: least, interval: [from, to], limit };
}

/** The exact motion of a plain rule on a quadratic: per eigenvalue the errors at updates 0, 1, ..., from rest.
 * `pull` holds the components of (zero - minimum), where weight decay pulls to. */
export class Flow {
  constructor(rule, p, eigenvalues, start, pull) {
    this.n = eigenvalues.length;
    this.eigenvalues = eigenvalues;
    this.rule = rule;
    this.p = p;
    this.pull = pull;
    this.late = this.matrices(Infinity);
    this.drives = this.drive(Infinity);
    this.x = Float64Array.from(start, (value, i) => value - pull[i]);
    this.b = new Float64Array(this.n);
    this.error = Float64Array.from(start);
    this.t = 0;
  }

  /** The matrices at update t, four numbers each. */
  matrices(t) {
    const out = new Float64Array(4 * this.n);
    for (let i = 0; i < this.n; i++) out.set(matrix(this.rule, this.p, this.eigenvalues[i], t), 4 * i);
    return out;
  }

  /** What the constant gradient at the place of the pull adds to the state in one update, two numbers each. */
  drive(t) {
    const c = this.rule.coefficients(this.p, t, { product: 1 }),
      out = new Float64Array(2 * this.n);
    for (let i = 0; i < this.n; i++) {
      this.rule.move(this.p, 0, this.eigenvalues[i] * this.pull[i], 1, 0, c, OUT);
      out.set(this.rule.buffers(this.p) > 0 ? OUT : [OUT[0], 0], 2 * i);
    }
    return out;
  }

  /** Make one update; the errors are in `error`, the loss is returned. */
  step() {
    const first = this.t++ === 0,
      { n, x, b, error, eigenvalues, pull } = this;
    const m = first ? this.matrices(1) : this.late,
      drives = first ? this.drive(1) : this.drives;
    const ahead = iterateOf(this.rule, this.p, 0, 1); // the iterate is x + ahead * buffer
    let loss = 0;
    for (let i = 0; i < n; i++) {
      const u = x[i],
        v = b[i];
      x[i] = m[4 * i] * u + m[4 * i + 1] * v + drives[2 * i];
      b[i] = m[4 * i + 2] * u + m[4 * i + 3] * v + drives[2 * i + 1];
      error[i] = x[i] + ahead * b[i] + pull[i];
      loss += 0.5 * eigenvalues[i] * error[i] * error[i];
    }
    return loss;
  }

  /** A bound on the loss at every later update, from sum e_t^2 = s' G s with M' G M - G + see see' = 0. */
  bound() {
    const ahead = iterateOf(this.rule, this.p, 0, 1);
    this.grams ??= Array.from(this.eigenvalues, (value) => gram(matrix(this.rule, this.p, value), ahead));
    let loss = 0;
    for (let i = 0; i < this.n; i++) {
      if (this.pull[i] !== 0 && this.p.weight_decay) return Infinity;
      const [u, v, w] = this.grams[i],
        x = this.x[i] + this.pull[i],
        y = this.b[i];
      loss += 0.5 * Math.abs(this.eigenvalues[i]) * Math.max(u * x * x + 2 * v * x * y + w * y * y, 0);
    }
    return loss;
  }
}

/** The symmetric [u, v; v, w] with M' G M - G + (1, see)(1, see)' = 0, by Cramer's rule. */
function gram([a, b, c, d], see) {
  const rows = [
    [1 - a * a, -2 * a * c, -c * c, 1],
    [-a * b, 1 - a * d - b * c, -c * d, see],
    [-b * b, -2 * b * d, 1 - d * d, see * see],
  ];
  const det = (i, j, k) =>
    rows[0][i] * (rows[1][j] * rows[2][k] - rows[1][k] * rows[2][j]) -
    rows[0][j] * (rows[1][i] * rows[2][k] - rows[1][k] * rows[2][i]) +
    rows[0][k] * (rows[1][i] * rows[2][j] - rows[1][j] * rows[2][i]);
  const whole = det(0, 1, 2);
  return [det(3, 1, 2) / whole, det(0, 3, 2) / whole, det(0, 1, 3) / whole];
}

/** Room for numbers, where nobody offers what can be used again. */
export const afresh = (name, length) => new Float64Array(length);

/** Predicted counts of updates until the loss is at most `tolerance`: first crossing, and settled for good; the losses
 * of the first `kept` updates, the errors of the first `shown`; the peak growth of one component. */
export function predict(rule, p, eigenvalues, start, pull, { tolerance, kept, shown, budget, room = afresh }) {
  if (!isLinear(rule) || isAdaptive(rule)) return null;
  const flow = new Flow(rule, p, eigenvalues, start, pull),
    n = flow.n,
    R = rate(rule, p, eigenvalues);
  let loss = 0;
  for (let i = 0; i < n; i++) loss += 0.5 * eigenvalues[i] * start[i] * start[i];
  const losses = room("losses", kept + 1).fill(NaN),
    errors = room("errors", n * (shown + 1)).fill(NaN);
  const begun = loss,
    found = { rate: R, steps: null, settled: null, losses, errors, shown };
  let last = -1;
  for (let t = 0; ; t++) {
    if (t > 0) loss = flow.step();
    if (t <= kept) losses[t] = loss;
    if (t <= shown) for (let i = 0; i < n; i++) errors[t * n + i] = flow.error[i];
    if (loss <= tolerance) found.steps ??= t;
    else last = t;
    const enough = t >= kept && t >= shown;
    if (R < 1 && enough && t % BLOCK === 0 && loss <= tolerance && flow.bound() <= tolerance) {
      found.settled = last + 1;
      break;
    }
    if (enough && (R >= 1 || t * n > budget)) break;
    if (!(Math.abs(loss) < 1e12 * Math.abs(begun) + 1)) break;
  }
  return found;
}
