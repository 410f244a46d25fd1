// The points that one drags: the start on the landscape, the settings on the charts of R.

import { draggable } from "./hands.js";
import { plane } from "./landscape.js";
import { inRange } from "./state.js";

/** Move the start to a point of the plane; the quadratic keeps it as eigencomponents. */
function moveStart(app, x, y) {
  const { problem } = app.model,
    inside = (v) => Math.min(Math.max(v, -4.99), 4.99);
  const point = Float64Array.from(app.model.start),
    last = problem.n - 1;
  [point[0], point[last]] = [inside(x), inside(y)];
  app.model.start = point; // so that a second key within the same frame goes on from here
  const told = problem.components ? problem.components(point, new Float64Array(problem.n)) : point;
  const place = [told[0], told[last]];
  app.change((s) => Object.assign(s, { start: place.map((v) => Number(v.toPrecision(6))), t: null }));
}

/** Set the lr, and on the map the momentum, of the selected rule to a place on the chart. */
function setPoint(app, x, y) {
  const at = app.places.settings;
  if (!at) return;
  const lr = inRange("lr", Number(at.sx.invert(Math.min(Math.max(x, at.box.x), at.box.x + at.box.w)).toPrecision(4)));
  const p = chosen(app).p;
  app.change(() => {
    if (lr > 0) p.lr = lr;
    if (at.field) p[at.field] = Number(Math.min(Math.max(at.sy.invert(y), 0), 0.99).toPrecision(4));
  });
}

/** The selected rule and its hyperparameters. */
export const chosen = (app) => app.state.racers[app.state.selected];

/** Make both draggable, by pointer and arrow keys; `begin` is called first. */
export function bindPoints(app, landscape, settings, begin) {
  const place = (x, y, width, height) => {
    const { sx, sy } = plane(app.model, width, height);
    moveStart(app, sx.invert(x), sy.invert(y));
  };
  draggable(landscape, begin, place, (dx, dy) => {
    const { start, reach = 1 } = app.model;
    moveStart(app, start[0] + 0.05 * reach * dx, start[start.length - 1] + 0.05 * reach * dy);
  });
  draggable(
    settings,
    begin,
    (x, y) => setPoint(app, x, y),
    (dx, dy) => {
      const { p } = chosen(app),
        field = app.places.settings?.field;
      app.change(() => {
        p.lr = Number((p.lr * 1.02 ** dx).toPrecision(4));
        if (field && dy) p[field] = Number(Math.min(Math.max(p[field] + 0.01 * dy, 0), 0.99).toPrecision(4));
      });
    },
  );
}
