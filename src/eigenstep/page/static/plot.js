// A chart of a report, on either pen: names and limits in its headroom, then the data; and which point is nearest.

import { frame, layout } from "./axes.js";
import { thinned } from "./curves.js";
import { textWidth } from "./pen.js";

const ROW = 15,
  SIZE = 10.5,
  BASE = 196; // CSS pixels: the height of a chart whose headroom is empty
const DOTTED = 60; // points: up to so many, each has its dot

/** The height in CSS pixels that a chart of that width needs. */
export function plotHeight(chart, width) {
  return BASE + headroom(chart, width).top;
}

/** Where names and limits are written: `row` counts upwards from the plot for limits, downwards from the top for names. */
function headroom(chart, width) {
  const { sx, box } = layout(width, BASE, chart.x, chart.y),
    end = box.x + box.w;
  const names = [];
  let at = box.x,
    row = 0;
  for (const one of chart.series.filter((each) => each.named)) {
    const text = fitted(one.name, box.w - 24),
      needs = 24 + textWidth(text, SIZE);
    if (at > box.x && at + needs > end) {
      at = box.x;
      row++;
    }
    names.push({ one, text, at, row });
    at += needs + 14;
  }
  const limits = limitRows(chart.marks, sx, box);
  const rows = [(names.at(-1)?.row ?? -1) + 1, most(limits.map((limit) => limit.row + 1))];
  return { names, limits, top: 10 + ROW * (rows[0] + rows[1]) + (rows[0] && rows[1] ? 4 : 0) };
}

const most = (list) => list.reduce((a, b) => Math.max(a, b), 0);

/** Each label beside its line, right of it or left, or over it where there is room for neither; row by row from the plot
 * up, so that a label stands where no line goes on upwards, as far as that can be. */
function limitRows(marks, sx, box) {
  const [from, to] = [box.x, box.x + box.w + 10];
  let waiting = marks.map((mark) => {
    const text = fitted(mark.text, box.w - 8),
      needs = textWidth(text, SIZE),
      line = sx(mark.at);
    const sides = [line + 5, line - 5 - needs].filter((left) => left >= from && left + needs <= to);
    const places = sides.map((left) => ({ left, right: left + needs, beside: true }));
    return { ...mark, text, line, places: places.length ? places : [{ left: to - needs, right: to, beside: false }] };
  });
  const placed = [];
  for (let row = 0; waiting.length; row++) {
    const here = [];
    const clear = (one) => (place) =>
      waiting.every((other) => other === one || other.line < place.left || other.line > place.right) &&
      here.every((other) => other.right + 8 < place.left || other.left > place.right + 8);
    for (const one of waiting) {
      const place = one.places.find(clear(one));
      if (place) here.push({ ...one, ...place, row, one });
    }
    if (!here.length) here.push({ ...waiting[0], ...waiting[0].places[0], row, one: waiting[0] });
    placed.push(...here);
    waiting = waiting.filter((one) => !here.some((done) => done.one === one));
  }
  return placed;
}

/** A text cut to a width in pixels. */
function fitted(text, width) {
  if (textWidth(text, SIZE) <= width) return text;
  let length = text.length;
  while (length > 1 && textWidth(`${text.slice(0, length)}…`, SIZE) > width) length--;
  return `${text.slice(0, length)}…`;
}

/** Draw the chart and return its scales and box. */
export function drawPlot(pen, theme, width, height, chart) {
  const { names, limits, top } = headroom(chart, width);
  const { box, sx, sy } = frame(pen, theme, width, height, chart.x, chart.y, { top });
  for (const { one, text, at, row } of names) {
    const y = 9 + ROW * row;
    if (one.kind === "alarms") triangle(pen, at + 9, y, one.color);
    else pen.line([at, y, at + 18, y], one.color, { width: one.width, dash: one.dash });
    pen.text(text, at + 23, y, theme.ink, { size: SIZE });
  }
  const hidden = chart.hidden && hiddenEnds(chart.hidden, sx, box);
  pen.within(box.x, box.y, box.w, box.h, () => {
    if (hidden) pen.rect(hidden[0], box.y, hidden[1] - hidden[0], box.h, theme.muted, { alpha: 0.13 });
    if (chart.between) drawBetween(pen, theme, chart.between, sx, sy);
  });
  if (chart.level) {
    const y = sy(chart.level.at);
    pen.line([box.x, y, box.x + box.w, y], theme.bad, { width: 1.5 });
  }
  for (const { at, beside, row, color } of limits) {
    const end = box.y - 8 - ROW * row + (beside ? -6 : 7);
    pen.line([sx(at), box.y + box.h, sx(at), end], color, { width: 2, dash: [6, 4] });
  }
  for (const { text, left, row, color } of limits)
    pen.text(text, left, box.y - 8 - ROW * row, color, { size: SIZE, halo: theme.card });
  pen.within(box.x - 6, box.y - 6, box.w + 12, box.h + 12, () => {
    for (const one of chart.series) DRAW[one.kind](pen, theme, one, sx, sy, box);
  });
  if (hidden && hidden[1] - hidden[0] > textWidth("not measured") + 8)
    pen.text("not measured", (hidden[0] + hidden[1]) / 2, box.y + box.h / 2, theme.muted, {
      align: "center",
      halo: theme.card,
    });
  if (chart.level)
    pen.text(chart.level.text, box.x + box.w - 3, sy(chart.level.at) - 9, theme.bad, {
      align: "right",
      weight: 600,
      halo: theme.card,
    });
  return { box, sx, sy };
}

const DRAW = {
  lines(pen, theme, one, sx, sy, box) {
    const points = thinned(
      one.x.length,
      (k) => one.y[k],
      sx,
      sy,
      box.w,
      (k) => one.x[k],
    );
    pen.within(box.x, box.y - 1, box.w, box.h + 2, () =>
      pen.line(points, one.color, { width: one.width, dash: one.dash }),
    );
    if (one.dash.length || one.x.length > DOTTED) return;
    one.x.forEach((x, k) => {
      if (inside(box, sx(x), sy(one.y[k]))) pen.dot(sx(x), sy(one.y[k]), 2.4, one.color);
    });
  },
  stems(pen, theme, one, sx, sy, box) {
    const foot = box.y + box.h,
      radius = one.x.length > DOTTED ? 2 : 3.6;
    pen.line(
      one.x.flatMap((x, k) => [sx(x), foot, sx(x), sy(one.y[k]), NaN, NaN]),
      one.color,
      { width: one.x.length > DOTTED ? 1.2 : 2 },
    );
    one.x.forEach((x, k) => {
      const y = sy(one.y[k]),
        bound = one.bounds?.[k] ?? 0,
        [from, to] = [sx(x - bound), sx(x + bound)];
      if (to - from > 2 * radius)
        pen.line([from, y, to, y, NaN, NaN, from, y - 4, from, y + 4, NaN, NaN, to, y - 4, to, y + 4], one.color, {
          width: 1.5,
        });
      pen.dot(sx(x), y, radius, one.color);
    });
  },
  alarms(pen, theme, one, sx, sy) {
    one.x.forEach((x, k) => triangle(pen, sx(x), sy(one.y[k]), one.color));
  },
};

function triangle(pen, x, y, color) {
  pen.area([x - 5, y + 4, x + 5, y + 4, x, y - 5], color);
}

/** The ends in pixels of what is not measured. */
const hiddenEnds = (hidden, sx, box) => hidden.map((v) => Math.min(Math.max(sx(v), box.x), box.x + box.w));

function drawBetween(pen, theme, { x, low, high }, sx, sy) {
  const there = x.flatMap((at, k) => [sx(at), sy(high[k])]),
    back = x.flatMap((at, k) => [sx(at), sy(low[k])]);
  const outline = [...there];
  for (let k = back.length - 2; k >= 0; k -= 2) outline.push(back[k], back[k + 1]);
  pen.area(outline, theme.accent, { alpha: 0.18 });
}

const inside = (box, x, y) => x >= box.x - 1 && x <= box.x + box.w + 1 && y >= box.y - 1 && y <= box.y + box.h + 1;

/** Where point `k` of a series is, in pixels; null where it is not drawn. */
export function placeOf({ box, sx, sy }, one, k) {
  const [x, y] = [sx(one.x[k]), sy(one.y[k])];
  return inside(box, x, y) ? { one, k, x, y } : null;
}

/** The drawn point nearest to a pixel, within 40; null where there is none. */
export function nearest(chart, place, x, y) {
  let found = null,
    best = 40;
  for (const one of chart.series) {
    for (let k = 0; k < one.x.length; k++) {
      const away = Math.hypot(place.sx(one.x[k]) - x, place.sy(one.y[k]) - y),
        point = away < best ? placeOf(place, one, k) : null;
      if (point) [found, best] = [point, away];
    }
  }
  return found;
}
