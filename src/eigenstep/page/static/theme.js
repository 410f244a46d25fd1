// The colours of the style sheet, for the pens.

import { RULES } from "./rules.js";

/** The colours of the style sheet, light or dark. */
export function readTheme(dark) {
  const style = getComputedStyle(document.documentElement),
    get = (name) => style.getPropertyValue(`--${name}`).trim();
  const rgb = (name) =>
    get(name)
      .match(/[\da-f]{2}/gi)
      .map((part) => parseInt(part, 16));
  const [a, b] = [rgb("ramp-low"), rgb("ramp-high")];
  return {
    name: dark ? "dark" : "light",
    ink: get("ink"),
    muted: get("muted"),
    grid: get("grid"),
    axis: get("axis"),
    card: get("card"),
    accent: get("accent"),
    bad: get("bad"),
    contour: get("contour"),
    halo: get("card"),
    low: rgb("low"),
    high: rgb("high"),
    mapLow: rgb("map-low"),
    mapHigh: rgb("map-high"),
    off: rgb("off"),
    colors: Object.fromEntries(Object.keys(RULES).map((name) => [name, get(name)])),
    ramp: (at) => `rgb(${a.map((v, c) => Math.round(v + (b[c] - v) * at)).join(" ")})`,
  };
}
