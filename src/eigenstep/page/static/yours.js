// Your model: a report's sentences and charts; Plotly.js, which draws them, is loaded when the first one is opened.

import { common, lossChart, ratioChart, spectrumChart } from "./charts.js";
import { make } from "./dom.js";

let loading = null;

/** Plotly, from the script inside an exported page or beside a served one. */
function plotly() {
  loading ??= new Promise((resolve, reject) => {
    const inside = document.getElementById("plotly"),
      script = document.createElement("script");
    if (inside) script.textContent = inside.textContent;
    else {
      script.src = "plotly.min.js";
      script.onload = () => resolve(globalThis.Plotly);
      script.onerror = () => reject(new Error("Plotly.js is not beside this page; `eigenstep explore` brings it."));
    }
    document.head.append(script);
    if (inside) resolve(globalThis.Plotly);
  });
  return loading;
}

const CONFIG = { displayModeBar: false, responsive: true };

/** Write the sentences and draw the charts of the report that is open. */
export async function drawYours(app, theme) {
  const { report, model } = app,
    section = document.getElementById("yours");
  section.hidden = !report;
  document.getElementById("landscape").hidden = Boolean(report) && model.problem.n < 2;
  if (!report) return;
  document.getElementById("report-title").textContent = `${report.name ? `${report.name}: ` : ""}${report.title}`;
  const notes = [...report.notes, ...assumptions(model)];
  document.getElementById("report-notes").replaceChildren(...notes.map((note) => make("li", {}, note)));
  const charts = [];
  if (report.spectrum)
    charts.push(["spectrum", `Spectrum of the ${report.spectrum.what}`, spectrumChart(model, report, theme)]);
  if (report.runs.length) charts.push(["recorded", "Recorded loss, predicted dashed", lossChart(model, report, theme)]);
  if (report.ratio) charts.push(["ratio", "Stability ratio along training", ratioChart(report, theme)]);
  const place = document.getElementById("report-charts");
  if (place.dataset.kind !== charts.map((c) => c[0]).join()) {
    place.dataset.kind = charts.map((c) => c[0]).join();
    place.replaceChildren(
      ...charts.map(([id, title]) =>
        make(
          "div",
          {},
          make("div", { className: "caption" }, make("h3", {}, title), app.tools(`yours-${id}`)),
          make("div", { id: `yours-${id}`, className: "plot", role: "img", "aria-label": title }),
        ),
      ),
    );
  }
  let library;
  try {
    library = await plotly();
  } catch (error) {
    app.say(error.message, true);
    return;
  }
  if (app.report !== report) return;
  for (const [id, title, [data, layout]] of charts) {
    const element = document.getElementById(`yours-${id}`);
    if (!element) continue;
    element.setAttribute("aria-label", `${title}. ${report.title}`);
    await library.react(element, data, { ...common(theme), ...layout }, CONFIG);
  }
}

/** Save one of the charts; `format` is png or svg. */
export async function saveYours(id, format) {
  const library = await plotly(),
    element = document.getElementById(id);
  const scale = format === "png" ? 2 : 1;
  return library.toImage(element, { format, width: 900, height: 420, scale });
}

function assumptions(model) {
  const { spectrum } = model,
    notes = [];
  if (!spectrum) return notes;
  const below = spectrum.values.filter((v) => v <= 0).length;
  if (below)
    notes.push(
      `${below} known eigenvalue${below > 1 ? "s are" : " is"} not positive: a rule leaves along them, or stays; the race runs on the others.`,
    );
  if (spectrum.covers !== "all")
    notes.push(
      `The spectrum covers “${spectrum.covers}”${spectrum.dimension ? ` of ${spectrum.dimension.toLocaleString("en-US")}` : ""}: predicted losses are those of the known directions alone.`,
    );
  if (spectrum.operator !== "preconditioned")
    notes.push("Rules that adapt run as if the eigenvectors were the coordinates.");
  return notes;
}
