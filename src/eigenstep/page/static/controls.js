// The control bar: native sliders with a box beside each, the surface, further settings.

import { figure } from "./axes.js";
import { make } from "./dom.js";
import { isAdaptive, isLinear, momentumField } from "./rules.js";
import { SIZES, SURFACES, fresh, inRange, rangeWords } from "./state.js";

const logarithmic = (low, high) => ({
  to: (value) => (1000 * Math.log(Math.max(value, low) / low)) / Math.log(high / low),
  from: (place) => low * (high / low) ** (place / 1000),
  low: 0,
  high: 1000,
  step: 1,
});
const towardsOne = (nines) => ({
  to: (value) => -Math.log10(1 - value),
  from: (place) => 1 - 10 ** -place,
  low: 0,
  high: nines,
  step: 0.01,
});
const straight = (low, high, step) => ({ to: (v) => v, from: (v) => v, low, high, step });

/** The reach of the lr slider: about the rule's limit; fixed for rules that have none of their own. */
function lrScale(racer) {
  const own =
    !isAdaptive(racer.rule) && isLinear(racer.rule) && !racer.refused && racer.atMost > 0 && racer.atMost < Infinity;
  const highest = Math.max(racer.atMost, ...(racer.wells ?? []).map((well) => well.limit));
  const [low, high] = own ? [racer.atMost / 300, highest * 2.5] : [1e-5, 1];
  return logarithmic(Math.min(low, racer.given.lr || low), Math.max(high, racer.given.lr));
}

/** The controls that the selected rule and the surface have. */
function wanted(app) {
  const { state, model } = app,
    chosen = model.racers[state.selected],
    { p } = state.racers[state.selected];
  const own = (name, label, scale) => ({
    name,
    label,
    scale,
    get: () => p[name],
    set: (value) => app.change((s) => (s.racers[s.selected].p[name] = value)),
  });
  const list = [
    { ...own("lr", "lr", lrScale(chosen)), set: (value) => app.change((s) => setLr(s, value, app.together)) },
  ];
  const momentum = momentumField(chosen.rule);
  if (momentum) list.push(own(momentum, momentum === "beta1" ? "β₁" : "momentum β", towardsOne(3)));
  const second = ["beta2", "alpha"].find((name) => name in chosen.rule.fields);
  if (second) list.push(own(second, second === "beta2" ? "β₂" : "α", towardsOne(4)));
  if (!model.spectrum && state.surface === "quadratic") {
    const toy = (name, label, scale) => ({
      name,
      label,
      scale,
      get: () => state[name],
      set: (v) => app.change((s) => (s[name] = v)),
    });
    list.push(toy("kappa", "condition", logarithmic(1, 1e4)), toy("angle", "rotation °", straight(0, 90, 1)));
  }
  return list;
}

function setLr(state, value, together) {
  for (const [i, each] of state.racers.entries()) if (together || i === state.selected) each.p.lr = value;
}

/** Build the bar anew only when its make-up changes; otherwise move what is there. */
export function drawControls(app) {
  const bar = document.getElementById("controls"),
    list = wanted(app),
    { state, model } = app;
  const chosen = model.racers[state.selected];
  const kind = `${list.map((c) => c.name)}|${chosen.name}|${state.surface}|${Boolean(model.spectrum)}`;
  if (bar.dataset.kind !== kind) {
    bar.dataset.kind = kind;
    const open = bar.querySelector("details")?.open ?? false;
    bar.replaceChildren(...list.map((c) => build(app, c)), surfaceChoice(app), more(app, open));
  }
  bar.style.setProperty("--rule", `var(--${chosen.name})`);
  bar.querySelector(".badge").textContent = chosen.label;
  for (const control of list) move(bar, control, chosen);
  refreshMore(app, bar);
}

function build(app, control) {
  const { name, label } = control,
    id = `slider-${name}`;
  const current = () => wanted(app).find((c) => c.name === name);
  const range = make("input", { type: "range", id });
  range.addEventListener("input", () => {
    const c = current();
    c.set(tidy(c.scale.from(Number(range.value)), name));
  });
  const box = make("input", {
    type: "text",
    id: `box-${name}`,
    inputMode: "decimal",
    autocomplete: "off",
    "aria-label": `${label}, as a number`,
  });
  box.addEventListener("change", () => {
    const value = inRange(name, box.value);
    box.setAttribute("aria-invalid", String(value === undefined));
    if (value === undefined) app.say(`${label} must be a number ${rangeWords(name)}.`, true);
    else current().set(value);
  });
  const title = make("label", { for: id }, label);
  const top = make("div", { className: "top" }, title);
  if (name === "lr") {
    title.append(" of ", make("span", { className: "badge" }));
    const all = make("input", { type: "checkbox", id: "together", checked: app.together });
    all.addEventListener("change", () => (app.together = all.checked));
    top.append(make("label", { className: "check" }, all, "same for all"));
  }
  top.append(box);
  const whole = make("div", { className: `control ${name}` }, top, range);
  if (name === "lr") whole.append(make("div", { className: "marks", "aria-hidden": "true" }));
  return whole;
}

/** Round what a slider gives to what a person would have typed. */
function tidy(value, name) {
  return name === "angle" ? value : Number(value.toPrecision(name === "lr" || name === "kappa" ? 4 : 5));
}

function move(bar, control, chosen) {
  const range = bar.querySelector(`#slider-${control.name}`),
    box = bar.querySelector(`#box-${control.name}`);
  const { scale } = control,
    value = control.get();
  Object.assign(range, { min: scale.low, max: scale.high, step: scale.step });
  range.value = scale.to(value);
  range.setAttribute("aria-valuetext", `${figure(value)}${control.name === "lr" ? lrWords(chosen) : ""}`);
  if (document.activeElement !== box) box.value = figure(value, 4);
  if (control.name !== "lr") return;
  const marks = [];
  const place = (lr, text, className) => {
    const at = scale.to(lr) / 10;
    if (lr > 0 && lr < Infinity && at >= 0 && at <= 100)
      marks.push(make("span", { className, style: `left:${at}%` }, text));
  };
  if (!isAdaptive(chosen.rule)) {
    const near = chosen.best && scale.to(chosen.limit) - scale.to(chosen.best.lr) < 70;
    if (chosen.best && !(chosen.wells?.length > 1)) place(chosen.best.lr, "best", near ? "best near" : "best");
    if (chosen.wells?.length > 1) for (const well of chosen.wells) place(well.limit, `edge of ${well.label}`, "edge");
    else if (chosen.limit !== null) place(chosen.limit, "edge", near ? "edge near" : "edge");
    else if (chosen.atMost) place(chosen.atMost, "edge, at most", "edge");
  }
  bar.querySelector(".marks").replaceChildren(...marks);
}

function lrWords({ limit, p }) {
  if (limit === null || limit === undefined || !Number.isFinite(limit)) return "";
  return `, ${p.lr < limit ? "stable" : "unstable"}; the largest stable is ${figure(limit)}`;
}

function choice(label, options, get, set) {
  const select = make(
    "select",
    { "aria-label": label },
    ...options.map(([value, text]) => make("option", { value }, text)),
  );
  select.addEventListener("change", () => set(select.value));
  select.value = get();
  return select;
}

function surfaceChoice(app) {
  if (app.model.spectrum) return make("span");
  const change = (value) =>
    app.change((s) => Object.assign(s, { surface: value, start: fresh({ surface: value }).start, t: null }));
  const select = choice("Surface", Object.entries(SURFACES), () => app.state.surface, change);
  return make("div", { className: "control" }, make("div", { className: "top" }, make("label", {}, "surface")), select);
}

/** The settings that are rarely touched. */
function more(app, open) {
  const { state, model } = app,
    rule = model.racers[state.selected].rule,
    fields = make("div", { className: "fields" });
  const taken = ["lr", "beta1", "beta2", "alpha", momentumField(rule)];
  const chosen = () => app.state.racers[app.state.selected];
  const field = (name, label, get, set) => {
    const box = make("input", { type: "text", inputMode: "decimal", autocomplete: "off" });
    box.addEventListener("change", () => {
      const value = box.value.trim() === "" && name === "delta" ? null : inRange(name, box.value);
      box.setAttribute("aria-invalid", String(value === undefined));
      if (value === undefined) app.say(`${label} must be a number ${rangeWords(name)}.`, true);
      else set(value);
    });
    box.shown = () => (get() == null ? "" : figure(get()).replace(/,/g, ""));
    fields.append(make("label", {}, label, box));
  };
  const guard = (name, value) =>
    app.change(() =>
      Object.assign(
        chosen().p,
        name === "delta" && value === null
          ? { delta: null, eps: rule.fields.eps }
          : name === "delta"
            ? { delta: value, eps: null }
            : { eps: value, ...("delta" in rule.fields ? { delta: null } : {}) },
      ),
    );
  for (const [name, usual] of Object.entries(rule.fields)) {
    if (taken.includes(name)) continue;
    if (typeof usual === "boolean") {
      const box = make("input", { type: "checkbox" });
      box.addEventListener("change", () => app.change(() => (chosen().p[name] = box.checked)));
      box.mark = () => chosen().p[name];
      fields.append(make("label", {}, box, name.replace(/_/g, " ")));
    } else if (name === "eps" || name === "delta") {
      field(
        name,
        name === "eps" ? "eps (outside the root)" : "delta (inside it)",
        () => chosen().p[name],
        (v) => guard(name, v),
      );
    } else
      field(
        name,
        name.replace(/_/g, " "),
        () => chosen().p[name],
        (v) => app.change(() => (chosen().p[name] = v)),
      );
  }
  field(
    "tolerance",
    "tolerance on the loss",
    () => app.state.tolerance,
    (v) => app.change((s) => (s.tolerance = v)),
  );
  field(
    "steps",
    "updates at most",
    () => app.state.steps,
    (v) => app.change((s) => (s.steps = Math.round(v))),
  );
  if (!model.spectrum && state.surface === "quadratic") {
    const set = (v) => app.change((s) => (s.n = Number(v)));
    const select = choice(
      "Number of eigenvalues",
      SIZES.map((v) => [v, v]),
      () => app.state.n,
      set,
    );
    fields.append(make("label", {}, "eigenvalues", select));
  }
  return make("details", { className: "more", open }, make("summary", {}, "more settings"), fields);
}

function refreshMore(app, bar) {
  for (const box of bar.querySelectorAll(".fields input")) {
    if (box.mark) box.checked = box.mark();
    else if (document.activeElement !== box) box.value = box.shown();
  }
  const sizes = bar.querySelector(".fields select"),
    surface = bar.querySelector(".control > select");
  if (sizes) sizes.value = app.state.n;
  if (surface) surface.value = app.state.surface;
}
