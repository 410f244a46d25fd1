// What the page repeats of Python. Written by `python docs/catalogue.py`: change it there, not here.

export const CATALOGUE = {
  "gradient-descent": {
    python: "GradientDescent",
    fields: { lr: 0.001, weight_decay: 0, decoupled: false },
    torch: {
      name: "SGD",
      defaults: { lr: 0.001, weight_decay: 0 },
      fixed: { decoupled: false },
      renamed: {},
      always: {},
    },
  },
  "heavy-ball": {
    python: "HeavyBall",
    fields: { lr: 0.001, momentum: 0.9, weight_decay: 0, decoupled: false },
    torch: {
      name: "SGD",
      defaults: { lr: 0.001, momentum: 0, dampening: 0, weight_decay: 0 },
      fixed: { decoupled: false },
      renamed: {},
      always: {},
      note: "the article's heavy ball, as long as the lr is constant",
    },
  },
  momentum: {
    python: "Momentum",
    fields: { lr: 0.001, momentum: 0, dampening: 0, weight_decay: 0, decoupled: false },
    torch: {
      name: "SGD",
      defaults: { lr: 0.001, momentum: 0, dampening: 0, weight_decay: 0 },
      fixed: { decoupled: false },
      renamed: {},
      always: {},
    },
  },
  "ema-momentum": {
    python: "EMAMomentum",
    fields: { lr: 0.001, momentum: 0.9, weight_decay: 0, decoupled: false },
    torch: null,
  },
  nesterov: {
    python: "Nesterov",
    fields: { lr: 0.001, momentum: 0.9, weight_decay: 0, decoupled: false },
    torch: {
      name: "SGD",
      defaults: { lr: 0.001, momentum: 0, weight_decay: 0 },
      fixed: { decoupled: false },
      renamed: {},
      always: { nesterov: true },
    },
  },
  adagrad: {
    python: "AdaGrad",
    fields: {
      lr: 0.01,
      lr_decay: 0,
      initial_accumulator_value: 0,
      weight_decay: 0,
      decoupled: false,
      eps: 1e-10,
      delta: null,
    },
    torch: {
      name: "Adagrad",
      defaults: { lr: 0.01, lr_decay: 0, initial_accumulator_value: 0, weight_decay: 0, eps: 1e-10 },
      fixed: { decoupled: false, delta: null },
      renamed: {},
      always: {},
    },
  },
  rmsprop: {
    python: "RMSProp",
    fields: {
      lr: 0.01,
      alpha: 0.99,
      momentum: 0,
      centered: false,
      weight_decay: 0,
      decoupled: false,
      eps: 1e-8,
      delta: null,
    },
    torch: {
      name: "RMSprop",
      defaults: { lr: 0.01, alpha: 0.99, momentum: 0, centered: false, weight_decay: 0, eps: 1e-8 },
      fixed: { decoupled: false, delta: null },
      renamed: {},
      always: {},
    },
  },
  adam: {
    python: "Adam",
    fields: {
      lr: 0.001,
      beta1: 0.9,
      beta2: 0.999,
      amsgrad: false,
      weight_decay: 0,
      decoupled: false,
      eps: 1e-8,
      delta: null,
    },
    torch: {
      name: "Adam",
      defaults: { lr: 0.001, beta1: 0.9, beta2: 0.999, amsgrad: false, weight_decay: 0, decoupled: false, eps: 1e-8 },
      fixed: { delta: null },
      renamed: { decoupled: "decoupled_weight_decay" },
      always: {},
    },
  },
  adamw: {
    python: "AdamW",
    fields: {
      lr: 0.001,
      beta1: 0.9,
      beta2: 0.999,
      amsgrad: false,
      weight_decay: 0.01,
      decoupled: true,
      eps: 1e-8,
      delta: null,
    },
    torch: {
      name: "AdamW",
      defaults: { lr: 0.001, beta1: 0.9, beta2: 0.999, amsgrad: false, weight_decay: 0.01, eps: 1e-8 },
      fixed: { decoupled: true, delta: null },
      renamed: {},
      always: {},
    },
  },
  adamax: {
    python: "Adamax",
    fields: { lr: 0.002, beta1: 0.9, beta2: 0.999, weight_decay: 0, decoupled: false, eps: 1e-8 },
    torch: {
      name: "Adamax",
      defaults: { lr: 0.002, beta1: 0.9, beta2: 0.999, weight_decay: 0, eps: 1e-8 },
      fixed: { decoupled: false },
      renamed: {},
      always: {},
    },
  },
  nadam: {
    python: "NAdam",
    fields: {
      lr: 0.002,
      beta1: 0.9,
      beta2: 0.999,
      momentum_decay: 0.004,
      weight_decay: 0,
      decoupled: false,
      eps: 1e-8,
      delta: null,
    },
    torch: {
      name: "NAdam",
      defaults: {
        lr: 0.002,
        beta1: 0.9,
        beta2: 0.999,
        momentum_decay: 0.004,
        weight_decay: 0,
        decoupled: false,
        eps: 1e-8,
      },
      fixed: { delta: null },
      renamed: { decoupled: "decoupled_weight_decay" },
      always: {},
    },
  },
  radam: {
    python: "RAdam",
    fields: { lr: 0.001, beta1: 0.9, beta2: 0.999, weight_decay: 0, decoupled: false, eps: 1e-8, delta: null },
    torch: {
      name: "RAdam",
      defaults: { lr: 0.001, beta1: 0.9, beta2: 0.999, weight_decay: 0, decoupled: false, eps: 1e-8 },
      fixed: { delta: null },
      renamed: { decoupled: "decoupled_weight_decay" },
      always: {},
    },
  },
  "sign-descent": { python: "SignDescent", fields: { lr: 0.001 }, torch: null },
  lion: { python: "Lion", fields: { lr: 0.0001, beta1: 0.9, beta2: 0.99, weight_decay: 0 }, torch: null },
};

export const HALF_OPEN = {
  alpha: [0, 1],
  beta1: [0, 1],
  beta2: [0, 1],
  dampening: [null, null],
  delta: [0, null],
  eps: [0, null],
  initial_accumulator_value: [0, null],
  lr: [0, null],
  lr_decay: [0, null],
  momentum: [0, 1],
  momentum_decay: [0, null],
  weight_decay: [0, null],
};

export const FILES = {
  format: "eigenstep",
  version: 1,
  most: 100000000,
  kinds: ["spectrum", "measurement", "density", "limit", "diagnosis", "recommendation", "monitor"],
  instead: { "critical sharpness": "it is of the next step alone; give limit_now(objective, optimizer).save(file)" },
};

export const COVERS = ["all", "top", "bottom", "ends", "density"];

export const OPERATORS = { hessian: "Hessian", ggn: "Gauss-Newton matrix", preconditioned: "preconditioned Hessian" };
