// The page: one state, computed and drawn once a frame after whatever changed it.

import { pytorch } from "./code.js";
import { figure } from "./axes.js";
import { compute, fate } from "./model.js";
import { decode, encode } from "./state.js";
import { TOUR } from "./tour.js";
import { BadReport, readReport } from "./report.js";
import { drawControls } from "./controls.js";
import { make } from "./dom.js";
import { buildRules, drawRacers, drawRules } from "./racers.js";
import { raceFor } from "./race.js";
import { readTheme } from "./theme.js";
import { drawLandscape, onCanvas } from "./landscape.js";
import { drawMap, drawRadii, drawRates } from "./rates.js";
import { drawComponents, drawLoss } from "./curves.js";
import { drawYours, paintYours, savedYours } from "./yours.js";
import { Player } from "./hands.js";
import { bindPoints, chosen } from "./points.js";
import { copy, saveView, tools } from "./save.js";

const $ = (id) => document.getElementById(id);
const calm = matchMedia("(prefers-reduced-motion: reduce)"),
  dark = matchMedia("(prefers-color-scheme: dark)");

const app = {
  state: decode(location.hash),
  report: null,
  model: null,
  charts: [],
  together: false,
  places: {},
  /** Change the state, and draw at the next frame. */
  change(edit) {
    edit(app.state);
    schedule();
  },
  /** Tell the user something. */
  say(text, bad = false) {
    $("message").textContent = text;
    $("message").className = bad ? "bad" : "";
  },
  tools: (id) => tools(id, save),
};

const VIEWS = {
  landscape: drawLandscape,
  loss: drawLoss,
  components: drawComponents,
  radii: drawRadii,
  settings: (...given) => (app.state.tab === "map" ? drawMap : drawRates)(...given),
};

let theme = readTheme(dark.matches),
  waiting = false,
  idle = null;

function schedule() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    draw();
  });
}

/** Compute and draw everything. */
function draw() {
  const began = performance.now();
  app.model = compute(app.state, app.report);
  drawControls(app);
  drawRacers(app);
  drawCharts();
  app.drawn = (app.drawn ?? 0) + 1;
  app.milliseconds = performance.now() - began;
  clearTimeout(idle);
  idle = setTimeout(settle, 120);
}

function drawCharts() {
  for (const [id, view] of Object.entries(VIEWS)) {
    onCanvas($(id).querySelector("canvas"), (pen, width, height) => {
      app.places[id] = view(pen, theme, width, height, app.model);
    });
  }
  drawClock();
}

function resized() {
  if (!app.model) return;
  drawCharts();
  paintYours(app, theme);
}

function drawClock() {
  const { model } = app,
    scrub = $("scrub");
  scrub.max = model.shown;
  scrub.value = model.t;
  $("clock").textContent = `update ${figure(model.t)} of ${figure(model.shown)}`;
  scrub.setAttribute("aria-valuetext", `update ${model.t}`);
}

/** What need not follow a slider at once: the address, descriptions, the report's charts. */
function settle() {
  const { state, model } = app,
    hash = `#${encode(state)}`;
  if (hash !== location.hash) {
    try {
      history.replaceState(null, "", hash);
    } catch {
      location.replace(hash);
    }
  }
  drawRules(app);
  for (const button of document.querySelectorAll("[data-tab]"))
    button.setAttribute("aria-pressed", String(button.dataset.tab === state.tab));
  for (const button of document.querySelectorAll("[data-scale]"))
    button.setAttribute("aria-pressed", String(button.dataset.scale === state.scale));
  const fates = model.racers.map((r) => `${r.label}: ${fate(model, r)}`).join("; ");
  const at = `start at ${figure(model.start[0], 3)}, ${figure(model.start[model.start.length - 1], 3)}`;
  const describe = (id, words) => $(id).querySelector("canvas").setAttribute("aria-label", words);
  describe("landscape", `Landscape, ${at}; arrow keys move the start. ${fates}`);
  describe("loss", `Loss over ${model.shown} updates. ${fates}`);
  const chosen = model.racers[state.selected];
  const rate = chosen.prediction ? `rate ${figure(chosen.prediction.rate)} per update` : "simulated, not predicted";
  for (const id of ["components", "radii"])
    describe(id, `${$(id).querySelector("h3").textContent} of ${chosen.label}: ${rate}`);
  const keys = state.tab === "map" ? "the lr and the momentum" : "the lr";
  describe("settings", `R against the settings of ${chosen.label}: ${rate}; arrow keys move ${keys}`);
  drawYours(app, theme);
}

/** Show a stop of the tour. */
function visit(id, play = true) {
  const stop = TOUR.find((each) => each.id === id);
  if (!stop) return;
  closeReport();
  app.state = { ...stop.state(), preset: id };
  tell(stop);
  app.say("");
  schedule();
  if (play && !calm.matches) requestAnimationFrame(() => playFrom(0));
}

function tell(stop) {
  $("tour").value = stop?.id ?? "";
  $("title").textContent = stop?.title ?? "Your own figure";
  $("says").textContent = stop?.says ?? "Drag the start, move a slider, race another rule.";
  $("try").textContent = stop ? `Try: ${stop.try[0].toLowerCase()}${stop.try.slice(1)}` : "";
}

function stepTour(by) {
  const at = TOUR.findIndex((stop) => stop.id === app.state.preset);
  visit(TOUR[(at + by + TOUR.length) % TOUR.length].id);
}

// Playback -----------------------------------------------------------------------------------------------------------

function show(t) {
  app.state.t = t >= app.model.shown ? null : Math.max(t, 0);
  app.model.t = app.state.t ?? app.model.shown;
  const adapts = app.model.racers.some((r) => r.run?.units && !app.model.spectrum);
  if (adapts)
    schedule(); // its limit follows the unit
  else drawCharts();
  clearTimeout(idle);
  idle = setTimeout(settle, 200);
}

const player = new Player(
  (share) => show(Math.floor(share * app.model.shown)),
  (playing) => {
    $("play").textContent = playing ? "❚❚" : "▶";
    $("play").setAttribute("aria-label", playing ? "Pause" : "Play");
  },
);

function playFrom(t) {
  if (calm.matches) return show(app.model.shown);
  return player.play(t / app.model.shown, 1500 + 1500 * Math.min(1, app.model.shown / 500));
}

/** Stop playing, then do as told. */
const still = (act) => (event) => {
  player.stop();
  act(event);
};

// Reports ------------------------------------------------------------------------------------------------------------

function openReport(text, name) {
  try {
    app.report = readReport(text, name);
  } catch (error) {
    app.say(error instanceof BadReport ? error.message : "The file cannot be read as a report of eigenstep.", true);
    return;
  }
  player.stop();
  const { report } = app;
  if (report.spectrum) app.state = raceFor(report);
  tell(null);
  $("title").textContent = "Your model";
  $("says").textContent =
    "The measured spectrum has taken the toy's place: move the lr, and see which measured directions the rule can bear.";
  app.say(`Opened ${report.name || "the report"}; it stays on this machine.`);
  schedule();
}

function closeReport() {
  app.report = null;
  $("yours").hidden = true;
  $("landscape").hidden = false;
}

async function readFile(file) {
  if (!file) return;
  if (file.size > 100e6) return app.say("The file is larger than 100 MB; save fewer steps, or a spectrum alone.", true);
  openReport(await file.text(), file.name);
}

function save(id, format) {
  const { clientWidth, clientHeight } = $(id).querySelector("canvas"),
    draw = (pen, width, height) => VIEWS[id](pen, theme, width, height, app.model);
  return saveView(id, format, theme.card, ...(savedYours(app, theme, id) ?? [[clientWidth, clientHeight], draw]));
}

async function offer(text, what) {
  app.copied = text;
  await copy(text);
  app.say(`Copied ${what}: ${text.trim().split("\n").at(-1)}`);
}

// Wiring -------------------------------------------------------------------------------------------------------------

$("tour").append(
  make("option", { value: "", disabled: true, hidden: true }, "your own figure"),
  ...TOUR.map((stop, i) => make("option", { value: stop.id }, `${i + 1}. ${stop.title}`)),
);
$("tour").addEventListener("change", (event) => visit(event.target.value));
$("previous").addEventListener("click", () => stepTour(-1));
$("next").addEventListener("click", () => stepTour(1));
$("open").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", async (event) => {
  await readFile(event.target.files[0]);
  event.target.value = "";
});
$("close").addEventListener("click", () => visit(TOUR[0].id, false));
$("code").addEventListener("click", () => offer(pytorch(chosen(app).rule, chosen(app).p), "the code"));
$("link").addEventListener("click", () => offer(`${location.href.split("#")[0]}#${encode(app.state)}`, "the link"));
bindPoints(app, $("landscape").querySelector("canvas"), $("settings").querySelector("canvas"), () => player.stop());
$("play").addEventListener("click", () => (player.playing ? player.stop() : playFrom(app.state.t ?? 0)));
$("back").addEventListener(
  "click",
  still(() => show(app.model.t - 1)),
);
$("forth").addEventListener(
  "click",
  still(() => show(app.model.t + 1)),
);
$("scrub").addEventListener(
  "input",
  still((event) => show(Number(event.target.value))),
);
for (const button of document.querySelectorAll("[data-tab]"))
  button.addEventListener("click", () => app.change((s) => (s.tab = button.dataset.tab)));
for (const button of document.querySelectorAll("[data-scale]"))
  button.addEventListener("click", () => app.change((s) => (s.scale = button.dataset.scale)));
for (const id of Object.keys(VIEWS)) $(id).querySelector("figcaption").append(app.tools(id));
for (const type of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(type, (event) => {
    event.preventDefault();
    document.body.classList.toggle("dropping", type === "dragover");
    if (type === "drop") readFile(event.dataTransfer.files[0]);
  });
}
window.addEventListener("hashchange", () => {
  if (location.hash === `#${encode(app.state)}`) return;
  closeReport();
  app.state = decode(location.hash);
  tell(TOUR.find((each) => each.id === app.state.preset));
  schedule();
});
new ResizeObserver(resized).observe(document.querySelector("main"));
dark.addEventListener("change", () => {
  theme = readTheme(dark.matches);
  schedule();
});

buildRules(app);
globalThis.explorer = app; // for the tests and the console
const given = $("report");
if (given) openReport(JSON.parse(given.textContent).text, JSON.parse(given.textContent).name);
else if (location.hash.length > 1) tell(TOUR.find((each) => each.id === app.state.preset));
else visit(TOUR.find((each) => each.id === "adam").id);
draw();
app.first = performance.now(); // milliseconds from the start of loading to the first picture
document.documentElement.dataset.ready = "true";
