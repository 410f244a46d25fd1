// The settings as code: torch.optim where torch has the rule, eigenstep's own optimizer where it has not.

import { RULES } from "./rules.js";

const number = String;
const CLASSES = {
  "gradient-descent": "GradientDescent",
  "heavy-ball": "HeavyBall",
  momentum: "Momentum",
  "ema-momentum": "EMAMomentum",
  nesterov: "Nesterov",
  adagrad: "AdaGrad",
  rmsprop: "RMSProp",
  adam: "Adam",
  adamw: "AdamW",
  adamax: "Adamax",
  nadam: "NAdam",
  radam: "RAdam",
  "sign-descent": "SignDescent",
  lion: "Lion",
};
const TORCH = {
  "gradient-descent": "SGD",
  "heavy-ball": "SGD",
  momentum: "SGD",
  nesterov: "SGD",
  adagrad: "Adagrad",
  rmsprop: "RMSprop",
  adam: "Adam",
  adamw: "AdamW",
  adamax: "Adamax",
  nadam: "NAdam",
  radam: "RAdam",
};
const NOTES = {
  "heavy-ball": "  # the article's heavy ball, as long as the lr is constant",
};

/** Hyperparameters as keyword arguments; betas as the pair that torch takes. */
function keywords(rule, p, all) {
  const fields = RULES[rule].fields,
    told = [`lr=${number(p.lr)}`];
  if ("beta1" in fields) told.push(`betas=(${number(p.beta1)}, ${number(p.beta2)})`);
  for (const [name, value] of Object.entries(p)) {
    if (["lr", "beta1", "beta2"].includes(name) || value == null || !(name in fields)) continue;
    if (name === "eps" && p.delta != null) continue;
    if (!all && value === fields[name]) continue;
    told.push(`${name}=${typeof value === "boolean" ? (value ? "True" : "False") : number(value)}`);
  }
  return told;
}

/** Whether torch.optim has exactly this. */
function inTorch(rule, p) {
  if (!(rule in TORCH) || p.delta != null) return false;
  if (rule === "adamw") return p.decoupled;
  if (["nadam", "radam", "adam"].includes(rule)) return true;
  return !(p.decoupled && p.weight_decay > 0);
}

/** Lines that make an optimizer of `model`. */
export function pytorch(rule, p) {
  if (!inTorch(rule, p)) {
    const told = keywords(rule, p, false).join(", ");
    return `import eigenstep as es\n\noptimizer = es.Optimizer(model.parameters(), es.${CLASSES[rule]}(${told}))\n`;
  }
  const named = keywords(rule, { ...p, decoupled: undefined }, false);
  if (["heavy-ball", "nesterov"].includes(rule) && p.momentum === RULES[rule].fields.momentum)
    named.splice(1, 0, `momentum=${number(p.momentum)}`);
  if (rule === "nesterov") named.push("nesterov=True");
  if (rule === "adamw" && !named.some((n) => n.startsWith("weight_decay")))
    named.push(`weight_decay=${number(p.weight_decay)}`);
  if (["nadam", "radam", "adam"].includes(rule) && p.decoupled) named.push("decoupled_weight_decay=True");
  return `import torch\n\noptimizer = torch.optim.${TORCH[rule]}(model.parameters(), ${named.join(", ")})${NOTES[rule] ?? ""}\n`;
}
