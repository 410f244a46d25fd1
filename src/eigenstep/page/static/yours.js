// Your model: a report's sentences and charts, and what a point of a chart says to a pointer or to arrow keys.

import { chartsOf } from "./charts.js";
import { make } from "./dom.js";
import { onCanvas } from "./landscape.js";
import { drawPlot, nearest, placeOf, plotHeight } from "./plot.js";

/** Write the sentences of the report that is open and make its charts. */
export function drawYours(app, theme) {
  const { report, model } = app;
  document.getElementById("yours").hidden = !report;
  document.getElementById("landscape").hidden = Boolean(report) && model.problem.n < 2;
  app.charts = report ? chartsOf(model, report, theme) : [];
  if (!report) return;
  document.getElementById("report-title").textContent = `${report.name ? `${report.name}: ` : ""}${report.title}`;
  const notes = [...report.notes, ...assumptions(model)];
  document.getElementById("report-notes").replaceChildren(...notes.map((note) => make("li", {}, note)));
  const place = document.getElementById("report-charts"),
    kinds = app.charts.map((chart) => chart.id).join();
  if (place.dataset.kinds !== kinds) {
    place.dataset.kinds = kinds;
    place.replaceChildren(...app.charts.map((chart) => figureOf(app, chart.id)));
  }
  for (const chart of app.charts) {
    const figure = document.getElementById(`yours-${chart.id}`);
    figure.querySelector("h3").textContent = chart.title;
    figure
      .querySelector("canvas")
      .setAttribute("aria-label", `${chart.title}. ${report.title} Arrow keys tell its points.`);
  }
  paintYours(app, theme);
}

/** Draw the charts at the size that the page gives them now. */
export function paintYours(app, theme) {
  for (const chart of app.charts) {
    const figure = document.getElementById(`yours-${chart.id}`),
      canvas = figure.querySelector("canvas");
    canvas.style.height = `${plotHeight(chart, canvas.clientWidth)}px`;
    onCanvas(canvas, (pen, width, height) => {
      app.places[figure.id] = drawPlot(pen, theme, width, height, chart);
    });
    point(figure, null);
  }
}

const SAVED = [900, 420]; // CSS pixels: the size at which a chart is saved, however small the page is

/** [size, draw] for saving the chart of that element; null where it is none. */
export function savedYours(app, theme, id) {
  const chart = app.charts.find((each) => `yours-${each.id}` === id);
  return chart ? [SAVED, (pen, width, height) => drawPlot(pen, theme, width, height, chart)] : null;
}

function figureOf(app, id) {
  const canvas = make("canvas", { tabIndex: 0, role: "application" }),
    ring = make("span", { className: "ring", hidden: true }),
    tip = make("output", { className: "tip", hidden: true });
  const figure = make(
    "figure",
    { id: `yours-${id}` },
    make("figcaption", {}, make("h3"), app.tools(`yours-${id}`)),
    make("div", { className: "plot" }, canvas, ring, tip),
  );
  const chart = () => app.charts.find((each) => each.id === id),
    place = () => app.places[figure.id];
  let at = null;
  const show = (found) => {
    at = found;
    point(figure, found);
  };
  for (const type of ["pointermove", "pointerdown"])
    canvas.addEventListener(type, (event) => show(nearest(chart(), place(), event.offsetX, event.offsetY)));
  for (const type of ["pointerleave", "blur"]) canvas.addEventListener(type, () => show(null));
  canvas.addEventListener("keydown", (event) => {
    if (event.key === "Escape") return show(null);
    const found = walk(chart().series, place(), at, event.key, event.shiftKey ? 10 : 1);
    if (!found) return;
    event.preventDefault();
    show(found);
  });
  return figure;
}

/** The point that a key leads to from one: left and right along its series, up and down to the other series. */
function walk(series, place, from, key, by) {
  const along = { ArrowLeft: -by, ArrowRight: by, Home: -Infinity, End: Infinity }[key],
    across = { ArrowUp: -1, ArrowDown: 1 }[key];
  if (along === undefined && across === undefined) return null;
  const drawn = series
    .map((one) => one.x.map((_, k) => placeOf(place, one, k)).filter(Boolean))
    .filter((p) => p.length);
  const row = from ? drawn.findIndex((points) => points[0].one === from.one) : -1;
  if (row < 0) return drawn[0]?.[0] ?? null;
  if (across) {
    const other = drawn[(row + across + drawn.length) % drawn.length];
    return other.reduce((a, b) => (Math.abs(b.x - from.x) < Math.abs(a.x - from.x) ? b : a));
  }
  const now = drawn[row].findIndex((p) => p.k === from.k);
  return drawn[row][Math.min(Math.max(now + along, 0), drawn[row].length - 1)];
}

/** Show what a point says, beside it; null shows nothing. */
function point(figure, found) {
  const [ring, tip] = [figure.querySelector(".ring"), figure.querySelector(".tip")];
  ring.hidden = tip.hidden = !found;
  if (!found) return;
  const { one, k, x, y } = found,
    { clientWidth: width } = figure.querySelector("canvas");
  tip.textContent = one.tell(k);
  ring.style.transform = `translate(${x}px, ${y}px)`;
  tip.style.top = `${y}px`;
  tip.style.left = `${Math.min(Math.max(x, tip.offsetWidth / 2 + 2), width - tip.offsetWidth / 2 - 2)}px`;
}

function assumptions(model) {
  const { spectrum } = model,
    notes = [];
  if (!spectrum) return notes;
  const below = spectrum.values.filter((v) => v <= 0).length;
  if (below)
    notes.push(
      `${below} known eigenvalue${below > 1 ? "s are" : " is"} not positive: a rule diverges along them, or stays; the race runs on the others.`,
    );
  if (spectrum.covers !== "all")
    notes.push(
      `The spectrum covers “${spectrum.covers}”${spectrum.dimension ? ` of ${spectrum.dimension.toLocaleString("en-US")}` : ""}: predicted losses are those of the known directions alone.`,
    );
  if (spectrum.operator !== "preconditioned")
    notes.push("Rules that adapt run as if the eigenvectors were the coordinates.");
  return notes;
}
