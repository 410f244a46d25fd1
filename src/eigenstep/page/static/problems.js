// The surfaces to run on: quadratics of any dimension turned in one plane, Rosenbrock's valley, the double well.

/** 1/2 sum lambda c^2 about a minimum, c the eigencomponents. Coordinates 0 and n - 1 are turned by `angle` radians
 * in their plane, so that eigenvectors 0 and n - 1 lie aslant; the others are axes. */
export class Quadratic {
  constructor(eigenvalues, minimum, angle = 0) {
    this.name = "quadratic";
    this.eigenvalues = Float64Array.from(eigenvalues);
    this.n = this.eigenvalues.length;
    this.minimum = Float64Array.from(minimum);
    this.minima = [[this.minimum[0], this.minimum[this.n - 1]]];
    this.cos = Math.cos(angle);
    this.sin = Math.sin(angle);
    this.turned = angle !== 0 && this.n > 1;
    this.errors = new Float64Array(this.n);
  }

  /** The eigencomponents of the error of a point, written to `out`. */
  components(x, out) {
    const last = this.n - 1;
    for (let i = 0; i <= last; i++) out[i] = x[i] - this.minimum[i];
    if (this.turned) {
      const a = out[0],
        b = out[last];
      out[0] = a * this.cos + b * this.sin;
      out[last] = b * this.cos - a * this.sin;
    }
    return out;
  }

  /** Vectors of eigencomponents to coordinates, in place. */
  unturn(v) {
    if (!this.turned) return v;
    const last = this.n - 1,
      a = v[0],
      b = v[last];
    v[0] = a * this.cos - b * this.sin;
    v[last] = a * this.sin + b * this.cos;
    return v;
  }

  /** The point with these eigencomponents of the error. */
  point(components) {
    return this.unturn(Float64Array.from(components)).map((value, i) => value + this.minimum[i]);
  }

  /** The loss; its gradient is written to `grad`, the eigencomponents to `errors`. */
  lossAndGradient(x, grad) {
    const loss = this.loss(x);
    for (let i = 0; i < this.n; i++) grad[i] = this.errors[i] * this.eigenvalues[i];
    this.unturn(grad);
    return loss;
  }

  /** The loss; the eigencomponents are written to `errors`. */
  loss(x) {
    const c = this.components(x, this.errors),
      { eigenvalues, n } = this;
    let loss = 0;
    for (let i = 0; i < n; i++) loss += c[i] * (c[i] * eigenvalues[i]);
    return loss / 2;
  }

  /** The loss over the plane of coordinates 0 and n - 1, the others at their minimum. */
  height(u, v) {
    const a = u - this.minimum[0],
      b = v - this.minimum[this.n - 1];
    const low = a * this.cos + b * this.sin,
      high = b * this.cos - a * this.sin;
    return (this.eigenvalues[0] * low * low + this.eigenvalues[this.n - 1] * high * high) / 2;
  }

  /** The eigenvalues of P^-1/2 (H + wI) P^-1/2 for a unit P per coordinate. */
  preconditioned(unit, decay) {
    const n = this.n,
      out = Float64Array.from(this.eigenvalues, (value, i) => (value + decay) / unit[i]);
    if (this.turned) {
      const low = this.eigenvalues[0],
        high = this.eigenvalues[n - 1],
        p = unit[0],
        q = unit[n - 1];
      const a = (low * this.cos ** 2 + high * this.sin ** 2 + decay) / p;
      const d = (low * this.sin ** 2 + high * this.cos ** 2 + decay) / q;
      const b = ((low - high) * this.cos * this.sin) / Math.sqrt(p * q);
      const half = Math.hypot((a - d) / 2, b);
      out[0] = (a + d) / 2 - half;
      out[n - 1] = (a + d) / 2 + half;
    }
    return out;
  }
}

/** (1 - x)^2 + 100 (y - x^2)^2: a curved valley, minimum at (1, 1). */
export class Rosenbrock {
  constructor() {
    this.name = "rosenbrock";
    this.n = 2;
    this.minima = [[1, 1]];
    this.eigenvalues = Float64Array.of(501 - Math.sqrt(250601), 501 + Math.sqrt(250601)).map(refined);
    this.wells = [{ label: "the minimum", sharpness: this.eigenvalues[1] }];
  }

  lossAndGradient(x, grad) {
    const short = 1 - x[0],
      above = x[1] - x[0] * x[0],
      slope = 200 * above;
    grad[0] = -2 * short - 2 * x[0] * slope;
    grad[1] = slope;
    return short * short + 100 * above * above;
  }

  loss(x) {
    return this.height(x[0], x[1]);
  }

  height(u, v) {
    return (1 - u) ** 2 + 100 * (v - u * u) ** 2;
  }
}

/** The small eigenvalue of [[802, -400], [-400, 200]] as determinant over the large one: no cancellation. */
function refined(value, i, both) {
  return i === 0 ? 400 / both[1] : value;
}

/** A flat well of sharpness 4 at (-1, 0) and a sharp one of 100 at (1, 0), joined smoothly; 1 across. */
export class DoubleWell {
  constructor() {
    this.name = "double-well";
    this.n = 2;
    this.flat = 4;
    this.sharp = 100;
    this.temperature = this.flat / 20;
    this.minima = [
      [-1, 0],
      [1, 0],
    ];
    this.eigenvalues = Float64Array.of(1, this.sharp);
    this.wells = [
      { label: "the sharp well", sharpness: this.sharp },
      { label: "the flat well", sharpness: this.flat },
    ];
  }

  lossAndGradient(x, grad) {
    const left = this.flat * (x[0] + 1),
      right = this.sharp * (x[0] - 1);
    const excess = (left * (x[0] + 1) - right * (x[0] - 1)) / (2 * this.temperature);
    const weight = 1 / (1 + Math.exp(-excess));
    grad[0] = left + weight * (right - left);
    grad[1] = x[1];
    return this.loss(x);
  }

  loss(x) {
    return this.height(x[0], x[1]);
  }

  height(u, v) {
    const left = this.flat * (u + 1) ** 2,
      right = this.sharp * (u - 1) ** 2;
    const excess = Math.abs(left - right) / (2 * this.temperature);
    return Math.min(left, right) / 2 - this.temperature * Math.log1p(Math.exp(-excess)) + (v * v) / 2;
  }
}
