// The landscape: contours in a plane, every rule's way through it, the start that one drags.

import { CanvasPen } from "./pen.js";
import { levelLine, scale } from "./axes.js";
import { fate } from "./model.js";

const CELLS = 120;

/** The part of the plane in view: [centre, half-height]. */
function view(model) {
  if (model.spectrum) return [[0, 0], 1.7 * model.reach];
  if (model.problem.name === "rosenbrock") return [[0, 0.75], 1.85];
  if (model.problem.name === "double-well") return [[0.05, 0], 1.75];
  return [[0.55, 0.42], 1.45];
}

/** The scales of the plane, equal in both directions. */
export function plane(model, width, height) {
  const [[u, v], half] = view(model),
    per = (2 * half) / Math.min(height, width * 1.1);
  return {
    sx: scale(u - (per * width) / 2, u + (per * width) / 2, 0, width),
    sy: scale(v - (per * height) / 2, v + (per * height) / 2, height, 0),
  };
}

let ground = { key: null };

/** The shading and the contours of the view, and a picture of both; the last one is kept, so that only what moves is
 * drawn anew. */
function relief(model, theme, width, height, ratio) {
  const { problem, reach } = model,
    { eigenvalues, cos, minimum } = problem,
    most = eigenvalues[eigenvalues.length - 1];
  const key = [problem.name, eigenvalues[0], most, cos, minimum?.[0], reach, width, height, ratio, theme.name].join();
  if (ground.key === key) return ground;
  const { sx, sy } = plane(model, width, height),
    columns = CELLS,
    rows = Math.round((CELLS * height) / width);
  const heights = new Float64Array(columns * rows);
  let top = 0;
  for (let j = 0; j < rows; j++) {
    const v = sy.invert((j * height) / (rows - 1));
    for (let i = 0; i < columns; i++) {
      const at = Math.max(problem.height(sx.invert((i * width) / (columns - 1)), v), 0);
      heights[j * columns + i] = at;
      top = Math.max(top, at);
    }
  }
  const contours = Array.from({ length: 13 }, (_, k) => {
    const lines = levelLine(heights, columns, rows, top * 0.62 * 10 ** (-k * 0.36));
    return lines.map((at, i) => (i % 2 ? (at * height) / (rows - 1) : (at * width) / (columns - 1)));
  });
  const shading = shade(heights, columns, rows, top, theme),
    picture = document.createElement("canvas");
  ground = { key, shading, contours, picture };
  paint(new CanvasPen(picture, width, height, ratio), theme, width, height);
  return ground;
}

function paint(pen, theme, width, height) {
  pen.image(ground.shading, 0, 0, width, height);
  for (const lines of ground.contours) pen.line(lines, theme.contour, { width: 0.8 });
}

function shade(heights, columns, rows, top, theme) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [columns, rows];
  const context = canvas.getContext("2d"),
    data = context.createImageData(columns, rows);
  const [low, high] = [theme.low, theme.high];
  for (let k = 0; k < heights.length; k++) {
    const depth = Math.min(Math.max((Math.log10(heights[k] / top + 1e-12) + 4.2) / 4.2, 0), 1);
    for (let c = 0; c < 3; c++) data.data[4 * k + c] = low[c] + (high[c] - low[c]) * depth;
    data.data[4 * k + 3] = 255;
  }
  context.putImageData(data, 0, 0);
  return canvas;
}

/** Draw it. */
export function drawLandscape(pen, theme, width, height, model) {
  const { sx, sy } = plane(model, width, height),
    { problem, t } = model;
  const { picture } = relief(model, theme, width, height, pen.ratio ?? 1);
  if (pen.ratio) pen.image(picture, 0, 0, width, height);
  else paint(pen, theme, width, height);
  axes(pen, theme, width, height, sx, sy, model);
  for (const [x, y] of problem.minima) {
    const [u, v] = [sx(x), sy(y)];
    pen.line([u - 5, v - 5, u + 5, v + 5, NaN, NaN, u - 5, v + 5, u + 5, v - 5], theme.ink, { width: 2 });
  }
  const labels = [];
  model.racers.forEach((racer, i) => {
    if (!racer.run) return;
    const chosen = i === model.state.selected;
    way(pen, theme, racer, model, { sx, sy, t, chosen, width, height, labels });
  });
  const [u, v] = startAt(model, sx, sy);
  pen.dot(u, v, 9, theme.card, { stroke: theme.ink, width: 2.5 });
  pen.dot(u, v, 3.5, theme.ink);
  const right = u < width - 110;
  pen.text("drag the start", u + (right ? 15 : -15), v, theme.ink, {
    size: 12,
    weight: 600,
    align: right ? "left" : "right",
    halo: theme.halo,
  });
}

/** Where the start lies on the picture. */
export function startAt(model, sx, sy) {
  const { start } = model;
  return [sx(start[0]), sy(start[start.length - 1])];
}

function axes(pen, theme, width, height, sx, sy, model) {
  const named = ["along the flattest known direction", "along the sharpest"];
  if (model.spectrum) {
    pen.text(named[0], width - 8, height - 12, theme.muted, { align: "right", halo: theme.halo });
    return pen.text(named[1], 8, 12, theme.muted, { halo: theme.halo });
  }
  for (let value = Math.ceil(sx.low); value <= sx.high; value++) {
    pen.line([sx(value), height, sx(value), height - 5], theme.axis, { width: 1 });
    if (value !== Math.ceil(sx.low))
      pen.text(String(value).replace("-", "−"), sx(value), height - 12, theme.muted, {
        align: "center",
        halo: theme.halo,
      });
  }
  for (let value = Math.ceil(sy.low); value <= sy.high; value++) {
    pen.line([0, sy(value), 5, sy(value)], theme.axis, { width: 1 });
    if (sy(value) < height - 22)
      pen.text(String(value).replace("-", "−"), 9, sy(value), theme.muted, { halo: theme.halo });
  }
  pen.text("w₁", width - 8, height - 12, theme.muted, { align: "right", halo: theme.halo });
  pen.text("w₂", 8, 12, theme.muted, { halo: theme.halo });
}

/** A rule's way up to update t, its place now, and its label where it left. */
function way(pen, theme, racer, model, { sx, sy, t, chosen, width, height, labels }) {
  const { run } = racer,
    last = Math.min(t, run.last),
    color = theme.colors[racer.name];
  const points = new Float64Array(2 * (last + 1));
  let far = 0;
  for (let k = 0; k <= last; k++) {
    points[2 * k] = sx(run.points[2 * k]);
    points[2 * k + 1] = sy(run.points[2 * k + 1]);
    if (Math.abs(points[2 * k]) < 1e5 && Math.abs(points[2 * k + 1]) < 1e5) far = k;
  }
  const drawn = points.subarray(0, 2 * (far + 1));
  const crowded = far > 100;
  pen.line(drawn, color, {
    width: (chosen ? 1.8 : 1.3) * (crowded ? 0.55 : 1),
    alpha: (chosen ? 1 : 0.75) * (crowded ? 0.7 : 1),
  });
  const dots = Math.min(far, 60);
  for (let k = 1; k <= dots; k++) pen.dot(points[2 * k], points[2 * k + 1], chosen ? 2.1 : 1.6, color);
  const inside = (k) =>
    points[2 * k] >= 0 && points[2 * k] <= width && points[2 * k + 1] >= 0 && points[2 * k + 1] <= height;
  if (run.left !== null && t >= run.left) {
    let k = far;
    while (k > 0 && !inside(k)) k--;
    let y = Math.min(Math.max(points[2 * k + 1], 30), height - 30);
    while (labels.some((other) => Math.abs(other - y) < 17)) y += 17;
    labels.push(y);
    const left = points[2 * k] < width / 2;
    pen.text(
      `${racer.label}: ${fate(model, racer)}`,
      left ? Math.max(points[2 * k] + 12, 12) : Math.min(points[2 * k] - 12, width - 12),
      y,
      theme.bad,
      {
        size: 12,
        weight: 600,
        align: left ? "left" : "right",
        halo: theme.halo,
      },
    );
  } else {
    pen.dot(points[2 * far], points[2 * far + 1], chosen ? 5.5 : 4.5, color, { stroke: theme.card, width: 1.5 });
  }
}

/** Draw on a canvas element at its size on the page. */
export function onCanvas(canvas, draw) {
  const width = canvas.clientWidth,
    height = canvas.clientHeight;
  if (width > 0 && height > 0) draw(new CanvasPen(canvas, width, height), width, height);
}
