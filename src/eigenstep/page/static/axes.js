// Scales, ticks and frames for the charts; numbers as people read them.

import { textWidth } from "./pen.js";

/** A number in about `digits` significant digits: 1,265, 0.0198, 1.3e-9. */
export function figure(value, digits = 4) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  if (Number.isInteger(value) && Math.abs(value) < 1e7) return value.toLocaleString("en-US").replace("-", "−");
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-4)
    return value
      .toExponential(Math.max(digits - 2, 1))
      .replace("e+", "e")
      .replace(/\.?0+e/, "e")
      .replace(/^-/, "−");
  return String(Number(value.toPrecision(digits))).replace("-", "−");
}

/** A scale from [low, high] to pixels [from, to]; the logarithmic one gives NaN for what is not positive. */
export function scale(low, high, from, to, log = false) {
  const map = log ? Math.log10 : (v) => v;
  const [a, b] = [map(low), map(high)],
    slope = (to - from) / (b - a || 1);
  const place = (value) => (log && !(value > 0) ? NaN : from + (map(value) - a) * slope);
  place.invert = (pixel) => {
    const at = a + (pixel - from) / slope;
    return log ? 10 ** at : at;
  };
  Object.assign(place, { low, high, log, from, to });
  return place;
}

/** Round places for ticks: 1, 2 or 5 times a power of ten; on a logarithmic scale powers of ten where there are many,
 * else 1, 2, 5 or 1, 3 times such. `whole`: whole numbers alone. */
export function ticks(s, wanted = 5) {
  if (s.log) {
    const [a, b] = [Math.floor(Math.log10(s.low)), Math.ceil(Math.log10(s.high))];
    for (const steps of [[1, 2, 5], [1, 3], [1]]) {
      const out = [];
      for (let e = a; e <= b; e++)
        for (const m of steps) {
          const at = Number(`${m}e${e}`);
          if (at >= s.low * (1 - 1e-9) && at <= s.high * (1 + 1e-9)) out.push(at);
        }
      if (out.length > 1 && out.length <= wanted + 1) return out;
      if (steps.length === 1 && out.length > wanted + 1) {
        const stride = Math.ceil(out.length / (wanted + 1));
        return out.filter((_, k) => (out.length - 1 - k) % stride === 0);
      }
    }
  }
  const power = 10 ** Math.floor(Math.log10((s.high - s.low) / wanted));
  const round = [1, 2, 5, 10].map((m) => m * power).find((v) => v >= ((s.high - s.low) / wanted) * 0.999);
  const step = s.whole ? Math.max(1, round) : round;
  const out = [];
  for (let v = Math.ceil(s.low / step - 1e-9) * step; v <= s.high + step * 1e-9; v += step) {
    out.push(Math.abs(v) < step * 1e-9 ? 0 : v);
  }
  return out;
}

const SUPERSCRIPT = { "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };

/** The texts of ticks: in as many digits as tell neighbours apart, and powers of ten where the scale is of such. */
function tickTexts(values, log) {
  const apart = Math.abs(values.at(-1) - values[0]) / Math.max(values.length - 1, 1);
  const largest = Math.max(...values.map(Math.abs)),
    digits = Math.max(3, Math.ceil(Math.log10(largest / (apart || largest || 1)) + 1e-9) + 1);
  return values.map((value) => {
    if (!log || (value >= 0.001 && value < 1e4)) return figure(value, Math.min(digits, 12));
    const power = Math.floor(Math.log10(value) + 1e-9),
      times = Number((value / 10 ** power).toPrecision(2));
    return `${times === 1 ? "" : `${times}·`}10${[...String(power)].map((sign) => SUPERSCRIPT[sign]).join("")}`;
  });
}

const MARGINS = { left: 52, right: 14, top: 10, bottom: 36 };

/** The box, the scales and the ticks of a frame; room is made on the left for the longest text. x, y: {low, high, log,
 * whole, label}. */
export function layout(width, height, x, y, margins = {}) {
  const { left, right, top, bottom } = { ...MARGINS, ...margins },
    h = height - top - bottom;
  const sy = Object.assign(scale(y.low, y.high, top + h, top, y.log), { whole: y.whole });
  const yTicks = ticks(sy, Math.max(2, Math.floor(h / 42))),
    yTexts = tickTexts(yTicks, y.log);
  const from = Math.max(left, 28 + Math.max(...yTexts.map((text) => textWidth(text)), 0)),
    box = { x: from, y: top, w: width - from - right, h };
  const sx = Object.assign(scale(x.low, x.high, box.x, box.x + box.w, x.log), { whole: x.whole });
  const xTicks = ticks(sx, Math.max(2, Math.floor(box.w / 64)));
  return { box, sx, sy, xTicks, xTexts: tickTexts(xTicks, x.log), yTicks, yTexts };
}

/** Draw a frame with ticks and labels, and return its box and scales. */
export function frame(pen, theme, width, height, x, y, margins = {}) {
  const { box, sx, sy, xTicks, xTexts, yTicks, yTexts } = layout(width, height, x, y, margins);
  for (const [i, value] of xTicks.entries()) {
    const at = sx(value);
    pen.line([at, box.y, at, box.y + box.h], theme.grid, { width: 1 });
    pen.text(xTexts[i], Math.min(at, width - textWidth(xTexts[i]) / 2 - 3), box.y + box.h + 11, theme.muted, {
      align: "center",
    });
  }
  for (const [i, value] of yTicks.entries()) {
    const at = sy(value);
    pen.line([box.x, at, box.x + box.w, at], theme.grid, { width: 1 });
    pen.text(yTexts[i], box.x - 6, at, theme.muted, { align: "right" });
  }
  pen.line([box.x, box.y, box.x, box.y + box.h, box.x + box.w, box.y + box.h], theme.axis, { width: 1 });
  pen.text(x.label, box.x + box.w / 2, height - 8, theme.ink, { align: "center", size: 11.5 });
  pen.text(y.label, 11, box.y + box.h / 2, theme.ink, { align: "center", size: 11.5, turn: -90 });
  return { box, sx, sy };
}

/** Segments [x0, y0, x1, y1, NaN, NaN, ...] of the level line of values (rows x columns) at `level`, in grid units. */
export function levelLine(values, columns, rows, level) {
  const out = [];
  const cut = (a, b) => (level - a) / (b - a);
  for (let j = 0; j + 1 < rows; j++) {
    for (let i = 0; i + 1 < columns; i++) {
      const k = j * columns + i;
      const a = values[k],
        b = values[k + 1],
        c = values[k + columns + 1],
        d = values[k + columns];
      const kind = (a > level) + 2 * (b > level) + 4 * (c > level) + 8 * (d > level);
      if (kind === 0 || kind === 15) continue;
      const at = [];
      if (a > level !== b > level) at.push(i + cut(a, b), j);
      if (b > level !== c > level) at.push(i + 1, j + cut(b, c));
      if (d > level !== c > level) at.push(i + cut(d, c), j + 1);
      if (a > level !== d > level) at.push(i, j + cut(a, d));
      for (let m = 0; m + 3 < at.length; m += 4) out.push(at[m], at[m + 1], at[m + 2], at[m + 3], NaN, NaN);
    }
  }
  return out;
}

/** The smallest of 1, 2, 5 times a power of ten that is at least `value`. */
export function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((m) => m * power).find((v) => v >= value * (1 - 1e-12));
}

/** A sentence in the middle of a picture, in place of a chart. */
export function sentence(pen, theme, width, height, text) {
  const lines = [""];
  for (const word of text.split(" ")) {
    if (lines.at(-1).length + word.length > Math.max(20, width / 7.6)) lines.push("");
    lines[lines.length - 1] += `${word} `;
  }
  const top = height / 2 - (lines.length - 1) * 9;
  lines.forEach((line, i) =>
    pen.text(line.trim(), width / 2, top + i * 18, theme.muted, { size: 12.5, align: "center" }),
  );
}
