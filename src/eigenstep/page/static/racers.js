// The table of racers, one chosen by a radio button, and the boxes that enter rules into the race.

import { figure } from "./axes.js";
import { make } from "./dom.js";
import { fate } from "./model.js";
import { RULES, isAdaptive, settings } from "./rules.js";
import { racer } from "./state.js";

/** The table: one row a racer, chosen by a radio button. */
export function drawRacers(app) {
  const body = document.getElementById("racers"),
    { state, model } = app;
  const kind = state.racers.map((r) => r.rule).join();
  if (body.dataset.kind !== kind) {
    body.dataset.kind = kind;
    body.replaceChildren(...state.racers.map((each, i) => row(app, each, i)));
  }
  [...body.rows].forEach((tr, i) => {
    const r = model.racers[i],
      count = (value) => (value === null || value === undefined ? "–" : value.toLocaleString("en-US"));
    tr.classList.toggle("selected", i === state.selected);
    tr.querySelector("input").checked = i === state.selected;
    const [, lr, edge, first, article, end] = tr.cells;
    lr.textContent = figure(r.p.lr);
    edge.textContent =
      r.limit == null
        ? r.atMost
          ? `≤ ${figure(r.atMost)}`
          : "–"
        : `${figure(r.limit)}${isAdaptive(r.rule) && r.limit < Infinity ? "*" : ""}`;
    edge.title = isAdaptive(r.rule) ? "with its unit frozen as after the update shown" : "";
    first.textContent = count(r.run?.steps);
    article.textContent = count(r.count);
    end.replaceChildren(make("span", { className: r.refused || r.run?.left != null ? "bad" : "" }, fate(model, r)));
  });
}

function row(app, { rule }, i) {
  const radio = make("input", { type: "radio", name: "selected", id: `racer-${i}` });
  radio.addEventListener("change", () => app.change((s) => (s.selected = i)));
  const name = make("td", {}, make("label", {}, radio, RULES[rule].label));
  const tr = make(
    "tr",
    {},
    name,
    ...Array.from({ length: 5 }, (_, k) => make("td", { className: k === 3 ? "count" : "" })),
  );
  tr.style.setProperty("--rule", `var(--${rule})`);
  tr.addEventListener("click", (event) => event.target === radio || app.change((s) => (s.selected = i)));
  return tr;
}

/** One box a rule: in the race or not. */
export function buildRules(app) {
  const field = document.getElementById("rules");
  for (const [name, rule] of Object.entries(RULES)) {
    const box = make("input", { type: "checkbox", value: name });
    box.addEventListener("change", () => app.change((s) => (box.checked ? enter(s, name, app.model) : leave(s, name))));
    const label = make("label", {}, box, rule.label);
    label.style.setProperty("--rule", `var(--${name})`);
    field.append(label);
  }
}

/** Enter a rule at its best lr where that is known, at half its edge where only that is, else at 0.02. */
function enter(state, name, model) {
  const changes = name === "momentum" ? { momentum: 0.9 } : {};
  const probe = model.consider(name, settings(name, { ...changes, lr: 0.02 }));
  const half = !isAdaptive(probe.rule) && probe.atMost > 0 && probe.atMost < Infinity ? probe.atMost / 2 : 0.02;
  const lr = probe.best?.lr ?? half;
  state.racers.push(racer(name, { ...changes, lr: Number(lr.toPrecision(4)) }));
  state.selected = state.racers.length - 1;
}

function leave(state, name) {
  if (state.racers.every((r) => r.rule === name)) return;
  state.racers = state.racers.filter((r) => r.rule !== name);
  state.selected = Math.min(state.selected, state.racers.length - 1);
}

export function drawRules(app) {
  const racing = app.state.racers.map((r) => r.rule);
  for (const box of document.querySelectorAll("#rules input")) box.checked = racing.includes(box.value);
}
