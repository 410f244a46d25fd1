// The settings as code: torch.optim where torch has the rule, eigenstep's own optimizer where it has not.

import { CATALOGUE } from "./catalogue.js";

const python = (value) => (typeof value === "boolean" ? (value ? "True" : "False") : String(value));

/** Hyperparameters that differ from these defaults as keyword arguments; lr and betas always, the pair as one. */
function keywords(p, defaults, renamed = {}) {
  const told = [`lr=${python(p.lr)}`];
  if ("beta1" in defaults) told.push(`betas=(${python(p.beta1)}, ${python(p.beta2)})`);
  for (const [name, usual] of Object.entries(defaults)) {
    if (["lr", "beta1", "beta2"].includes(name) || p[name] == null || p[name] === usual) continue;
    told.push(`${renamed[name] ?? name}=${python(p[name])}`);
  }
  return told;
}

/** Whether torch.optim has exactly this: what it has no argument for is as it always is there. */
function inTorch({ torch }, p) {
  if (!torch || (torch.always.nesterov && p.momentum === 0)) return false; // torch refuses Nesterov without momentum
  return Object.entries(torch.fixed).every(
    ([name, value]) => p[name] === value || (name === "decoupled" && p.weight_decay === 0),
  );
}

/** Lines that make an optimizer of `model`. */
export function pytorch(rule, p) {
  const known = CATALOGUE[rule];
  if (!inTorch(known, p)) {
    const told = keywords(p, known.fields).join(", ");
    return `import eigenstep as es\n\noptimizer = es.Optimizer(model.parameters(), es.${known.python}(${told}))\n`;
  }
  const { name, defaults, renamed, always, note } = known.torch,
    given = p.weight_decay === 0 ? { ...p, decoupled: defaults.decoupled } : p;
  const told = keywords(given, defaults, renamed);
  for (const [argument, value] of Object.entries(always)) told.push(`${argument}=${python(value)}`);
  const line = `optimizer = torch.optim.${name}(model.parameters(), ${told.join(", ")})`;
  return `import torch\n\n${line}${note ? `  # ${note}` : ""}\n`;
}
