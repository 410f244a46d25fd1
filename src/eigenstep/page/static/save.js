// Saving a view as PNG or SVG, and copying text.

import { CanvasPen, SvgPen } from "./pen.js";
import { make } from "./dom.js";

/** Two buttons that save the view of that name. */
export function tools(id, save) {
  const button = (format) => {
    const element = make(
      "button",
      { type: "button", "aria-label": `Save ${id} as ${format.toUpperCase()}` },
      format.toUpperCase(),
    );
    element.addEventListener("click", () => save(id, format));
    return element;
  };
  return make("span", { className: "tools" }, button("png"), button("svg"));
}

/** Save a view as a file: drawn anew on a canvas of its own, or as SVG. `draw(pen, width, height)` draws it. */
export function saveView(id, format, background, [width, height], draw) {
  const name = `eigenstep-${id}.${format}`;
  if (format === "svg") {
    const pen = new SvgPen(width, height, background);
    draw(pen, width, height);
    return download(URL.createObjectURL(new Blob([pen.toString()], { type: "image/svg+xml" })), name);
  }
  const target = document.createElement("canvas"),
    pen = new CanvasPen(target, width, height, 2);
  pen.rect(0, 0, width, height, background);
  draw(pen, width, height);
  return target.toBlob((blob) => download(URL.createObjectURL(blob), name), "image/png");
}

function download(href, name) {
  make("a", { href, download: name }).click();
  if (href.startsWith("blob:")) setTimeout(() => URL.revokeObjectURL(href), 10000);
}

/** Put text on the clipboard, also where only the old way is allowed. */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = make("textarea", { value: text });
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}
