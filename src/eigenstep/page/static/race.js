// The race that a report calls for.

import { compute } from "./model.js";
import { RULES } from "./rules.js";
import { fresh, racer } from "./state.js";

/** The state that races the report's own rule at its own lr, and others at half of what the largest known eigenvalue allows. */
export function raceFor(report) {
  const { spectrum } = report;
  const adapts = spectrum.operator === "preconditioned",
    own = report.rule ?? { name: "", changes: {} };
  const known = RULES[own.name] && Boolean(RULES[own.name].accumulate) === adapts;
  const others = adapts ? (known ? [] : ["adam"]) : ["gradient-descent", "nesterov", ...(known ? [] : ["heavy-ball"])];
  const racers = [
    ...(known ? [racer(own.name, own.changes)] : []),
    ...others.filter((n) => n !== own.name || !known).map((n) => racer(n)),
  ];
  const state = fresh({ racers, steps: 2000, tab: "lr", start: null });
  const probe = compute(state, report);
  probe.racers.forEach((r, i) => {
    const half = r.atMost > 0 && r.atMost < Infinity ? r.atMost / 2 : 0.01,
      told = [report.lr, own.changes.lr].find((lr) => lr > 0);
    racers[i].p.lr = i === 0 && told ? told : Number(half.toPrecision(4));
  });
  state.start = [probe.components[0], probe.components[probe.components.length - 1]];
  return state;
}
