// The update rules, each written once as couple, scale and move: the arithmetic of Python's eigenstep.rules.

import { CATALOGUE } from "./catalogue.js";

/** torch.lerp: from a towards b by w, in the form that is exact at both ends. */
function lerp(a, b, w) {
  return w < 0.5 ? a + w * (b - a) : b - (b - a) * (1 - w);
}

/** sqrt(mean square) + eps, or sqrt(mean square + delta). */
function root(p, meanSquare) {
  return p.delta == null ? Math.sqrt(meanSquare) + p.eps : Math.sqrt(meanSquare + p.delta);
}

/** The point after decoupled weight decay. */
function shrink(p, x) {
  return p.decoupled && p.weight_decay !== 0 ? x * (1 - p.lr * p.weight_decay) : x;
}

const none = () => [1, 0];
const plain = () => 1;

/** The first moment's bias correction. */
function corrected(p, t) {
  return [t === Infinity ? 1 : 1 / (1 - p.beta1 ** t), 0];
}

function secondMoment(p, g, s, i) {
  s[0][i] = lerp(g * g, s[0][i], p.beta2);
}

/** What the second moment is divided by at update t. */
function correction(p, t) {
  return 1 - p.beta2 ** t;
}

function momentUnit(p, s, i, corrected) {
  return root(p, s[0][i] / corrected);
}

/** m <- b1 m + (1 - b1) g; x <- x - lr correction m / unit. */
function moveByMean(p, x, g, u, b, c, out) {
  out[1] = lerp(g, b, p.beta1);
  out[0] = shrink(p, x) + (-p.lr * c[0] * out[1]) / u;
}

const moments = {
  buffers: () => 1,
  scales: () => 1,
  coefficients: corrected,
  accumulate: secondMoment,
  correction,
  unit: momentUnit,
  move: moveByMean,
};
const filter = { scales: () => 0, coefficients: none, unit: plain };

/** NAdam's momentum weight at update t. */
function nadamWeight(p, t) {
  return p.beta1 * (1 - 0.5 * 0.96 ** (t * p.momentum_decay));
}

/** RAdam's rho: the length of the average at update t; Infinity gives its limit. */
function radamLength(p, t) {
  const top = 2 / (1 - p.beta2) - 1;
  return t === Infinity ? top : top - (2 * t * p.beta2 ** t) / (1 - p.beta2 ** t);
}

// fields, hyperparameters with torch's defaults, come from the catalogue. buffers, scales: how many of each a setting
// keeps. coefficients: all that depends on t (Infinity: the late limit). accumulate: takes a gradient into the scales s
// at i. unit: P there, with the correction for t. move: writes the next point and buffer to out. A rule without `move` is
// not linear: it has `jump` instead.
export const RULES = {
  "gradient-descent": {
    label: "gradient descent",
    ...filter,
    buffers: () => 0,
    move(p, x, g, u, b, c, out) {
      out[0] = shrink(p, x) - p.lr * g;
    },
  },
  "heavy-ball": {
    label: "heavy ball",
    ...filter,
    buffers: () => 1,
    move(p, x, g, u, b, c, out) {
      out[1] = b * p.momentum - p.lr * g;
      out[0] = shrink(p, x) + out[1];
    },
  },
  momentum: {
    label: "momentum (torch)",
    ...filter,
    buffers: () => 1,
    coefficients: (p, t) => [t === 1 || p.momentum === 0 ? 1 : 1 - p.dampening, 0],
    move(p, x, g, u, b, c, out) {
      out[1] = b * p.momentum + c[0] * g;
      out[0] = shrink(p, x) - p.lr * out[1];
    },
  },
  "ema-momentum": {
    label: "EMA momentum",
    ...filter,
    buffers: () => 1,
    move(p, x, g, u, b, c, out) {
      out[1] = lerp(g, b, p.momentum);
      out[0] = shrink(p, x) - p.lr * out[1];
    },
  },
  nesterov: {
    label: "Nesterov",
    ...filter,
    buffers: () => 1,
    move(p, x, g, u, b, c, out) {
      out[1] = b * p.momentum + g;
      out[0] = shrink(p, x) - p.lr * (g + p.momentum * out[1]);
    },
    iterate: (p, x, b) => x + p.lr * p.momentum * b, // from the look-ahead point that torch stores
  },
  adagrad: {
    label: "AdaGrad",
    buffers: () => 0,
    scales: () => 1,
    onlyGrows: true,
    coefficients: (p, t) => [t === Infinity ? Number(p.lr_decay === 0) : 1 / (1 + (t - 1) * p.lr_decay), 0],
    accumulate(p, g, s, i) {
      s[0][i] += g * g;
    },
    unit: (p, s, i) => root(p, s[0][i]),
    move(p, x, g, u, b, c, out) {
      out[0] = shrink(p, x) + (-p.lr * c[0] * g) / u;
    },
  },
  rmsprop: {
    label: "RMSProp",
    buffers: (p) => Number(p.momentum !== 0),
    scales: (p) => 1 + Number(p.centered),
    coefficients: none,
    accumulate(p, g, s, i) {
      s[0][i] = lerp(g * g, s[0][i], p.alpha);
      if (p.centered) s[1][i] = lerp(g, s[1][i], p.alpha);
    },
    unit: (p, s, i) => root(p, p.centered ? s[0][i] - s[1][i] ** 2 : s[0][i]),
    move(p, x, g, u, b, c, out) {
      out[1] = b * p.momentum + g / u;
      out[0] = shrink(p, x) - p.lr * out[1];
    },
  },
  adam: {
    label: "Adam",
    ...moments,
    scales: (p) => 1 + Number(p.amsgrad),
    accumulate(p, g, s, i) {
      secondMoment(p, g, s, i);
      if (p.amsgrad) s[1][i] = Math.max(s[1][i], s[0][i]);
    },
    unit: (p, s, i, corrected) => root(p, (p.amsgrad ? s[1][i] : s[0][i]) / corrected),
  },
  adamw: {
    label: "AdamW",
    ...moments,
  },
  adamax: {
    label: "Adamax",
    ...moments,
    accumulate(p, g, s, i) {
      s[0][i] = Math.max(s[0][i] * p.beta2, Math.abs(g) + p.eps);
    },
    unit: (p, s, i) => s[0][i],
  },
  nadam: {
    label: "NAdam",
    ...moments,
    coefficients(p, t, state) {
      if (t === Infinity) return [1 - p.beta1, p.beta1];
      const mu = nadamWeight(p, t),
        following = nadamWeight(p, t + 1);
      state.product = p.beta1 === 0 || p.beta1 ** t < 1e-18 ? 0 : state.product * mu;
      return [(1 - mu) / (1 - state.product), following / (1 - state.product * following)];
    },
    move(p, x, g, u, b, c, out) {
      out[1] = lerp(g, b, p.beta1);
      out[0] = shrink(p, x) + (-p.lr * c[0] * g) / u + (-p.lr * c[1] * out[1]) / u;
    },
  },
  radam: {
    label: "RAdam",
    ...moments,
    coefficients(p, t) {
      if (t === Infinity) return [1, 0];
      const rho = radamLength(p, t),
        top = radamLength(p, Infinity);
      const squared = ((rho - 4) * (rho - 2) * top) / ((top - 4) * (top - 2) * rho);
      return [(rho > 5 ? Math.sqrt(squared) : 1) / (1 - p.beta1 ** t), 0];
    },
    correction: (p, t) => (radamLength(p, t) > 5 ? correction(p, t) : 0), // 0: not rectified, and no unit
    unit(p, s, i, corrected) {
      if (corrected === 0) return 1;
      return p.delta == null ? root(p, s[0][i]) / Math.sqrt(corrected) : root(p, s[0][i] / corrected);
    },
  },
  "sign-descent": {
    label: "sign descent",
    buffers: () => 0,
    scales: () => 0,
    jump(p, x, g, b, out) {
      out[0] = x - p.lr * Math.sign(g);
    },
  },
  lion: {
    label: "Lion",
    buffers: () => 1,
    scales: () => 0,
    jump(p, x, g, b, out) {
      out[0] = x * (1 - p.lr * p.weight_decay) - p.lr * Math.sign(lerp(g, b, p.beta1));
      out[1] = lerp(g, b, p.beta2);
    },
  },
};
for (const [name, rule] of Object.entries(RULES)) rule.fields = CATALOGUE[name].fields;
RULES.adamw.scales = RULES.adam.scales;
RULES.adamw.accumulate = RULES.adam.accumulate;
RULES.adamw.unit = RULES.adam.unit;

/** Whether the rule is a linear filter once its unit is known. */
export const isLinear = (rule) => Boolean(rule.move);

/** Whether the rule measures its step in a unit that the gradients set. */
export const isAdaptive = (rule) => Boolean(rule.accumulate);

/** The hyperparameters of a rule: its defaults with some of them changed; a given delta takes eps's place. */
export function settings(name, changes = {}) {
  const p = { ...RULES[name].fields, ...changes };
  if (p.delta != null) p.eps = null;
  return p;
}

/** The momentum-like field of a rule, if it has one. */
export function momentumField(rule) {
  return ["beta1", "momentum"].find((field) => field in rule.fields);
}

/** The state of a rule before its first update, for n coordinates. */
export function begin(rule, p, n) {
  const scales = Array.from({ length: rule.scales(p) }, () => new Float64Array(n));
  scales[0]?.fill(p.initial_accumulator_value ?? 0);
  return { t: 0, product: 1, buffer: new Float64Array(n), scales, unit: new Float64Array(n).fill(1) };
}

const OUT = new Float64Array(2);

/** One update of the stored point x (n) with this gradient, in place. */
export function update(rule, p, x, grad, state) {
  const t = ++state.t,
    n = x.length,
    b = state.buffer,
    s = state.scales;
  if (!rule.move) {
    for (let i = 0; i < n; i++) {
      rule.jump(p, x[i], grad[i], b[i], OUT);
      x[i] = OUT[0];
      b[i] = OUT[1];
    }
    return;
  }
  const c = rule.coefficients(p, t, state),
    { accumulate, unit, move } = rule;
  const coupled = p.decoupled ? 0 : p.weight_decay,
    corrected = rule.correction ? rule.correction(p, t) : 1;
  for (let i = 0; i < n; i++) {
    const g = coupled === 0 ? grad[i] : grad[i] + coupled * x[i];
    let u = 1;
    if (accumulate) {
      accumulate(p, g, s, i);
      u = state.unit[i] = unit(p, s, i, corrected);
    }
    move(p, x[i], g, u, b[i], c, OUT);
    x[i] = OUT[0];
    b[i] = OUT[1];
  }
}

/** The method's iterate along coordinate i: the stored point itself, unless that is a look-ahead point. */
export function iterateOf(rule, p, x, b) {
  return rule.iterate ? rule.iterate(p, x, b) : x;
}
