// Two pens with the same strokes: one draws on a canvas, the other writes SVG, so that any view can be saved as both.

const FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, sans-serif';

let ruler = null;

/** The width of a text in pixels, for either pen. */
export function textWidth(text, size = 11, weight = 400) {
  ruler ??= document.createElement("canvas").getContext("2d");
  ruler.font = `${weight} ${size}px ${FONT}`;
  return ruler.measureText(text).width;
}

/** Draws on a canvas, in CSS pixels. */
export class CanvasPen {
  constructor(canvas, width, height, ratio = Math.min(globalThis.devicePixelRatio || 1, 2)) {
    const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
    if (canvas.width !== w) canvas.width = w;
    if (canvas.height !== h) canvas.height = h;
    this.ratio = ratio;
    this.c = canvas.getContext("2d");
    this.c.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.c.clearRect(0, 0, width, height);
    this.c.lineJoin = "round";
  }

  /** Stroke the points [x0, y0, x1, y1, ...]; a point that is not finite lifts the pen. */
  line(points, color, { width = 1.5, dash = [], alpha = 1 } = {}) {
    const { c } = this;
    c.globalAlpha = alpha;
    c.strokeStyle = color;
    c.lineWidth = width;
    c.setLineDash(dash);
    c.beginPath();
    let down = false;
    for (let i = 0; i < points.length; i += 2) {
      const x = points[i],
        y = points[i + 1];
      if (!Number.isFinite(x + y)) down = false;
      else if (down) c.lineTo(x, y);
      else {
        c.moveTo(x, y);
        down = true;
      }
    }
    c.stroke();
    c.globalAlpha = 1;
  }

  /** Fill the outline [x0, y0, x1, y1, ...]. */
  area(points, fill, { alpha = 1 } = {}) {
    const { c } = this;
    c.globalAlpha = alpha;
    c.fillStyle = fill;
    c.beginPath();
    for (let i = 0; i < points.length; i += 2) c.lineTo(points[i], points[i + 1]);
    c.fill();
    c.globalAlpha = 1;
  }

  rect(x, y, w, h, fill, { alpha = 1, stroke = null } = {}) {
    const { c } = this;
    c.globalAlpha = alpha;
    if (fill) {
      c.fillStyle = fill;
      c.fillRect(x, y, w, h);
    }
    if (stroke) {
      c.setLineDash([]);
      c.lineWidth = 1;
      c.strokeStyle = stroke;
      c.strokeRect(x, y, w, h);
    }
    c.globalAlpha = 1;
  }

  dot(x, y, r, fill, { stroke = null, width = 1.5 } = {}) {
    const { c } = this;
    c.beginPath();
    c.arc(x, y, r, 0, 2 * Math.PI);
    if (fill) {
      c.fillStyle = fill;
      c.fill();
    }
    if (stroke) {
      c.setLineDash([]);
      c.lineWidth = width;
      c.strokeStyle = stroke;
      c.stroke();
    }
  }

  /** Write text; `halo` draws its outline first, so that it reads on lines. */
  text(text, x, y, color, { size = 11, align = "left", weight = 400, turn = 0, halo = null } = {}) {
    const { c } = this;
    c.font = `${weight} ${size}px ${FONT}`;
    c.textAlign = align;
    c.textBaseline = "middle";
    c.save();
    c.translate(x, y);
    c.rotate((turn * Math.PI) / 180);
    if (halo) {
      c.setLineDash([]);
      c.lineWidth = 3.5;
      c.strokeStyle = halo;
      c.strokeText(text, 0, 0);
    }
    c.fillStyle = color;
    c.fillText(text, 0, 0);
    c.restore();
  }

  image(bitmap, x, y, w, h) {
    this.c.imageSmoothingEnabled = true;
    this.c.drawImage(bitmap, x, y, w, h);
  }

  /** Draw inside a rectangle only. */
  within(x, y, w, h, draw) {
    this.c.save();
    this.c.beginPath();
    this.c.rect(x, y, w, h);
    this.c.clip();
    draw();
    this.c.restore();
  }
}

const escaped = (text) =>
  String(text).replace(/[&<>"]/g, (sign) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[sign]);
const short = (value) => String(Math.round(value * 100) / 100);

/** Writes the same strokes as SVG. */
export class SvgPen {
  constructor(width, height, background) {
    this.size = [width, height];
    this.parts = [`<rect width="${width}" height="${height}" fill="${background}"/>`];
    this.clips = 0;
  }

  line(points, color, { width = 1.5, dash = [], alpha = 1 } = {}) {
    let path = "",
      down = false;
    for (let i = 0; i < points.length; i += 2) {
      if (!Number.isFinite(points[i] + points[i + 1])) {
        down = false;
        continue;
      }
      path += `${down ? "L" : "M"}${short(points[i])} ${short(points[i + 1])}`;
      down = true;
    }
    const dashes = dash.length ? ` stroke-dasharray="${dash.join(" ")}"` : "";
    this.parts.push(
      `<path d="${path}" fill="none" stroke="${color}" stroke-width="${width}" stroke-opacity="${alpha}" ` +
        `stroke-linejoin="round"${dashes}/>`,
    );
  }

  area(points, fill, { alpha = 1 } = {}) {
    const at = points.map(short).join(" ");
    this.parts.push(`<polygon points="${at}" fill="${fill}" fill-opacity="${alpha}"/>`);
  }

  rect(x, y, w, h, fill, { alpha = 1, stroke = null } = {}) {
    const place = [x, y, w, h].map(short);
    this.parts.push(
      `<rect x="${place[0]}" y="${place[1]}" width="${place[2]}" height="${place[3]}" fill="${fill ?? "none"}" ` +
        `opacity="${alpha}"${stroke ? ` stroke="${stroke}"` : ""}/>`,
    );
  }

  dot(x, y, r, fill, { stroke = null, width = 1.5 } = {}) {
    const edge = stroke ? ` stroke="${stroke}" stroke-width="${width}"` : "";
    this.parts.push(`<circle cx="${short(x)}" cy="${short(y)}" r="${r}" fill="${fill ?? "none"}"${edge}/>`);
  }

  text(text, x, y, color, { size = 11, align = "left", weight = 400, turn = 0, halo = null } = {}) {
    const anchor = { left: "start", center: "middle", right: "end" }[align];
    const edge = halo ? ` stroke="${halo}" stroke-width="3.5" paint-order="stroke"` : "";
    this.parts.push(
      `<text x="0" y="0" transform="translate(${short(x)} ${short(y)}) rotate(${turn})" fill="${color}" ` +
        `font-family="${escaped(FONT)}" font-size="${size}" font-weight="${weight}" text-anchor="${anchor}" ` +
        `dominant-baseline="central"${edge}>${escaped(text)}</text>`,
    );
  }

  image(bitmap, x, y, w, h) {
    this.parts.push(
      `<image x="${short(x)}" y="${short(y)}" width="${short(w)}" height="${short(h)}" preserveAspectRatio="none" ` +
        `href="${bitmap.toDataURL("image/png")}"/>`,
    );
  }

  within(x, y, w, h, draw) {
    const id = `clip${this.clips++}`,
      place = [x, y, w, h].map(short);
    this.parts.push(
      `<clipPath id="${id}"><rect x="${place[0]}" y="${place[1]}" width="${place[2]}" height="${place[3]}"/></clipPath>`,
      `<g clip-path="url(#${id})">`,
    );
    draw();
    this.parts.push("</g>");
  }

  /** The whole picture as text. */
  toString() {
    const [w, h] = this.size;
    return (
      `<svg xmlns="http://www.w3.org/2000/svg" width="${w}" height="${h}" viewBox="0 0 ${w} ${h}">` +
      `${this.parts.join("")}</svg>\n`
    );
  }
}
