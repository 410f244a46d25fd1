// The rule that a file is of, named there with all its hyperparameters; what an older file does not tell is assumed, and
// said.

import { CATALOGUE } from "./catalogue.js";
import { RULES } from "./rules.js";
import { inRange } from "./state.js";

const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const list = (value) => (Array.isArray(value) ? value.filter(isObject) : []);
const word = (value) => (typeof value === "string" ? value.slice(0, 60) : "");

/** {name, changes} of the rule of a diagnosis, a recommendation or a spectrum, of its first param group that moves;
 * null where the file names none that this page runs. `lr`: what the file itself says beside the rule. */
export function ruleOfResult(content, lr, notes) {
  const { limit, preconditioner } = content;
  const told = [content.rules, limit?.rules, preconditioner?.rules].map(list).find((rules) => rules.length);
  if (told) return read(firstMoving(told, notes), lr, notes);
  if (isObject(content.rule)) return read(content.rule, lr, notes);
  const name = Array.isArray(limit?.rules) ? limit.rules[0] : preconditioner?.rule;
  return word(name) ? read({ name, ...fromLimit(name, limit) }, lr, notes) : null;
}

/** The same for a monitor's log: of its last measured record, and its header. */
export function ruleOfRun(header, record, lr, notes) {
  const told = [record.rules, header.rules].map(list).find((rules) => rules.length);
  if (told) return read(firstMoving(told, notes), lr, notes);
  return read(
    fromWords(word(header.optimizer), String(record.settings ?? header.settings ?? "").slice(0, 300)),
    lr,
    notes,
  );
}

/** The first param group that moves; a note where others differ from it. */
function firstMoving(rules, notes) {
  const first = rules.find((rule) => rule.lr > 0) ?? rules[0];
  const differ = rules.some((rule) => JSON.stringify(rule) !== JSON.stringify(first));
  if (differ) notes.push(`Its ${rules.length} param groups differ: the first one that moves is drawn here.`);
  return first;
}

/** A rule as a file tells it, under the page's names; what is missing or cannot be is left at its default, and said. */
function read(told, lr, notes) {
  const name = word(told.name);
  if (!Object.hasOwn(CATALOGUE, name)) {
    if (name) notes.push(`Its rule, “${name}”, is not one that this page runs: others are raced in its place.`);
    return null;
  }
  const { fields } = CATALOGUE[name],
    changes = {},
    assumed = [];
  const [beta1, beta2] = Array.isArray(told.betas) ? told.betas : [];
  const given = { beta1, beta2, ...told };
  for (const [field, usual] of Object.entries(fields)) {
    const value = given[field];
    const usable = typeof usual === "boolean" ? typeof value === "boolean" : typeof value === "number";
    if (usable && (typeof value === "boolean" || inRange(field, value) !== undefined)) changes[field] = value;
    else assumed.push(field);
  }
  const matters = {
    lr: !(lr > 0),
    eps: changes.delta === undefined && changes.eps === undefined,
    delta: false,
    decoupled: (changes.weight_decay ?? fields.weight_decay) !== 0,
  };
  const missing = assumed.filter((field) => matters[field] ?? true);
  if (missing.length) {
    const values = missing.map((field) => `${field} ${field === "lr" ? "half its limit" : fields[field]}`);
    notes.push(
      `Check these hyperparameters of ${RULES[name].label}, which the file does not tell and which are assumed: ${values.join(", ")}.`,
    );
  }
  return { name, changes };
}

/** What an older file's limit tells of its rule: coupled decay w, and momentum, from lr (lambda + w) = 2 (1 + beta). */
function fromLimit(name, limit) {
  const { max_stable_lr: lr, sharpness, coupled_decay: decay } = isObject(limit) ? limit : {};
  const told = decay > 0 ? { weight_decay: decay, decoupled: false } : {};
  if (!["momentum", "heavy-ball"].includes(name) || !(lr > 0 && sharpness > 0)) return told;
  const beta = (lr * (sharpness + (told.weight_decay ?? 0))) / 2 - 1;
  return { ...told, momentum: Number(Math.min(Math.max(beta, 0), 0.99999).toPrecision(4)) };
}

/** The rule of a torch optimizer's class and settings in words, as older logs have them; of its first param group. */
function fromWords(optimizer, settings) {
  const words = settings.split("; ")[0],
    told = {};
  for (const [, name, value] of words.matchAll(/(\w+)=(\([^)]*\)|\S+)/g)) {
    if (value.startsWith("(")) told[name] = value.slice(1, -1).split(", ").map(Number);
    else if (value === "True" || value === "False") told[name] = value === "True";
    else if (value !== "" && !Number.isNaN(Number(value))) told[name] = Number(value);
  }
  if (optimizer !== "SGD") return { ...told, name: optimizer.toLowerCase() };
  return { ...told, name: !told.momentum ? "gradient-descent" : told.nesterov ? "nesterov" : "momentum" };
}
