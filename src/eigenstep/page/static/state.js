// What the page shows, as plain data; and the same as the text behind # in the address, so that a link is a figure.

import { HALF_OPEN } from "./catalogue.js";
import { RULES, settings } from "./rules.js";

export const SURFACES = { quadratic: "quadratic bowl", rosenbrock: "Rosenbrock's valley", "double-well": "two wells" };
export const SIZES = [2, 10, 50, 200];
const TABS = ["lr", "map"],
  SCALES = ["log", "signed"];

const START = { quadratic: [-0.8, -0.6], rosenbrock: [-1.2, 1], "double-well": [1.5, 0.5] };

/** The state of a fresh page, with some of it changed. `start`: eigencomponents of the error on the quadratic (so that
 * turning it keeps them), else coordinates. t: the update that the pictures stop at; null: the last. */
export function fresh(changes = {}) {
  const surface = changes.surface ?? "quadratic";
  return {
    preset: null,
    surface,
    kappa: 100,
    n: 2,
    angle: 0,
    start: START[surface],
    tolerance: 1e-6,
    steps: 10000,
    racers: [racer("gradient-descent", { lr: 2 / 101 })],
    selected: 0,
    tab: "lr",
    scale: "log",
    t: null,
    ...changes,
  };
}

/** One rule in the race. */
export function racer(rule, changes = {}) {
  return { rule, p: settings(rule, changes) };
}

const OWN = { kappa: [1, 1e6], angle: [-180, 180], tolerance: [1e-300, 1e3], steps: [10, 50000] };
const MOST = 1e12; // a hyperparameter beyond it trains nothing, and pictures of it would overflow

/** How far each number may go, what a link, a slider or a box may set: [low, high, whether high itself may be]. */
function range(name) {
  if (Object.hasOwn(OWN, name)) return [...OWN[name], true];
  const [low, high] = HALF_OPEN[name] ?? [null, null];
  return [low ?? -MOST, high ?? MOST, high === null];
}

/** The same in words. */
export function rangeWords(name) {
  const [low, high, closed] = range(name);
  return closed ? `from ${low} to ${high}` : `of at least ${low} and below ${high}`;
}

/** The number that a text holds if it lies in the range of that name, else undefined. */
export function inRange(name, text) {
  const value = typeof text === "number" ? text : Number(String(text).trim().replace("−", "-"));
  const [low, high, closed] = range(name);
  const inside = value >= low && (closed ? value <= high : value < high);
  return String(text).trim() !== "" && inside ? value : undefined;
}

/** The state as text, only what differs from the defaults. */
export function encode(state) {
  const parts = [],
    plain = fresh({ surface: state.surface });
  const put = (name, value) =>
    parts.push(`${name}=${encodeURIComponent(value).replace(/%2C/g, ",").replace(/%3D/g, "=")}`);
  if (state.preset) put("preset", state.preset);
  if (state.surface !== "quadratic") put("surface", state.surface);
  for (const name of ["kappa", "n", "angle", "tolerance", "steps"]) {
    if (state[name] !== plain[name]) put(name, state[name]);
  }
  if (String(state.start) !== String(plain.start)) put("start", state.start.join(","));
  for (const { rule, p } of state.racers) {
    const fields = RULES[rule].fields,
      told = [];
    for (const name of Object.keys(fields)) {
      if (p[name] === fields[name] || p[name] == null) continue;
      told.push(`${name}=${p[name]}`);
    }
    put("rule", [rule, ...told].join(","));
  }
  if (state.selected) put("selected", state.selected);
  if (state.tab !== "lr") put("tab", state.tab);
  if (state.scale !== "log") put("scale", state.scale);
  if (state.t !== null) put("t", state.t);
  return parts.join("&");
}

/** The state that a text tells; whatever it says wrongly is left at its default. */
export function decode(text) {
  const said = new URLSearchParams(text.replace(/^#/, "")),
    surface = said.get("surface");
  const state = fresh(Object.hasOwn(SURFACES, surface ?? "") ? { surface } : {});
  for (const name of ["kappa", "angle", "tolerance", "steps"]) {
    if (said.has(name)) state[name] = inRange(name, said.get(name)) ?? state[name];
  }
  state.steps = Math.round(state.steps);
  if (SIZES.includes(Number(said.get("n")))) state.n = Number(said.get("n"));
  const start = (said.get("start") ?? "").split(",").map(Number);
  if (start.length === 2 && start.every((v) => Math.abs(v) < 5)) state.start = start;
  const racers = said.getAll("rule").slice(0, 14).map(decodeRacer).filter(Boolean);
  if (racers.length) state.racers = racers;
  const selected = Number(said.get("selected") ?? 0);
  if (Number.isInteger(selected) && selected >= 0 && selected < state.racers.length) state.selected = selected;
  if (TABS.includes(said.get("tab"))) state.tab = said.get("tab");
  if (SCALES.includes(said.get("scale"))) state.scale = said.get("scale");
  const t = Number(said.get("t") ?? NaN);
  if (Number.isInteger(t) && t >= 0) state.t = t;
  state.preset = said.get("preset");
  return state;
}

function decodeRacer(text) {
  const [rule, ...parts] = text.split(",");
  if (!Object.hasOwn(RULES, rule)) return null;
  const fields = RULES[rule].fields,
    changes = {};
  for (const part of parts) {
    const [name, value] = part.split("=");
    if (!Object.hasOwn(fields, name)) continue;
    if (typeof fields[name] === "boolean") changes[name] = value === "true";
    else changes[name] = inRange(name, value ?? "") ?? fields[name];
  }
  return racer(rule, changes);
}
