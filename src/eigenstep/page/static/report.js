// A report of eigenstep, read with care: what is missing is left out, what is wrong is refused with a sentence.

import { COVERS, FILES, OPERATORS } from "./catalogue.js";
import { ruleOfResult, ruleOfRun } from "./ownrule.js";

const LONGEST = 20000,
  VALUES = 4000;
const SPELT = { nan: NaN, inf: Infinity, "-inf": -Infinity };

/** A report that cannot be used; the message says why and what to do. */
export class BadReport extends Error {}

const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const SPELT_NUMBER = (value) => (typeof value === "string" && Object.hasOwn(SPELT, value) ? SPELT[value] : NaN);
const number = (value) => (typeof value === "number" ? value : SPELT_NUMBER(value));
const text = (value, most = 2000) => (typeof value === "string" ? value.slice(0, most) : "");
const list = (value) => (Array.isArray(value) ? value : []);
const finite = (value) => (Number.isFinite(number(value)) ? number(value) : null);

/** Read a file's text; `name` is only shown. */
export function readReport(source, name) {
  if (source.length > FILES.most)
    throw new BadReport("The file is larger than 100 MB; save fewer steps, or a spectrum alone.");
  const [header, records] = parse(source);
  if (!isObject(header) || header.format !== FILES.format) {
    throw new BadReport(
      "This is not a file of eigenstep: it has no “format”: “eigenstep”. Open what `eigenstep measure`, `diagnose`, `recommend` or a monitor wrote.",
    );
  }
  if (header.version !== FILES.version)
    throw new BadReport(
      `Version ${show(header.version)} of the format is not known here; this page reads version ${FILES.version}.`,
    );
  const kind = header.kind;
  if (!FILES.kinds.includes(kind))
    throw new BadReport(
      Object.hasOwn(FILES.instead, kind)
        ? `A file of kind ${show(kind)} cannot be explored: ${FILES.instead[kind]}.`
        : `A file of kind ${show(kind)} cannot be explored; these can: ${FILES.kinds.join(", ")}.`,
    );
  const report = {
    kind,
    name: text(name, 120),
    title: "",
    notes: [],
    spectrum: null,
    limits: [],
    runs: [],
    ratio: null,
    alarms: [],
  };
  if (kind === "monitor") readLog(report, header, records);
  else readResult(report, kind, header);
  if (!report.spectrum && !report.runs.length && !report.ratio && !report.title) {
    throw new BadReport("The file is of eigenstep, but holds nothing to show: no eigenvalues and no records.");
  }
  return report;
}

const show = (value) => `“${text(String(value ?? "none"), 40)}”`;

/** [envelope, records]: one JSON object, or JSON lines of which the last may be cut off. */
function parse(source) {
  if (!source.trim()) throw new BadReport("The file is empty.");
  let whole;
  try {
    whole = JSON.parse(source);
  } catch {
    return parseLines(source);
  }
  return [whole, list(whole?.records)];
}

function parseLines(source) {
  const lines = source.split("\n").filter((line) => line.trim()),
    parsed = [];
  for (const [i, line] of lines.entries()) {
    try {
      parsed.push(JSON.parse(line));
    } catch {
      if (i === lines.length - 1 && parsed.length && parsed[0]?.kind === "monitor") break;
      const where =
        parsed.length && parsed[0]?.format === "eigenstep" ? `line ${i + 1} is damaged` : "it is not whole JSON";
      throw new BadReport(`The file cannot be read: ${where}; it may have been cut off. Write it again.`);
    }
  }
  return [parsed[0], parsed.slice(1)];
}

/** Eigenvalues, ascending, with what they cover; null where there are none that can be used. */
function readSpectrum(content, notes) {
  if (!isObject(content)) return null;
  const given = list(content.values).slice(0, VALUES).map(number);
  const bounds = list(content.bounds),
    weights = list(content.weights),
    kept = [];
  given.forEach((value, i) => {
    if (Number.isFinite(value))
      kept.push([value, Math.max(finite(bounds[i]) ?? 0, 0), Math.max(finite(weights[i]) ?? 1, 0)]);
  });
  if (kept.length < given.length)
    notes.push(`${given.length - kept.length} eigenvalues are not finite and are left out.`);
  if (list(content.values).length > VALUES) notes.push(`Only the first ${VALUES} eigenvalues are read.`);
  if (!kept.length) return null;
  kept.sort((a, b) => a[0] - b[0]);
  const covers = COVERS.includes(content.covers) ? content.covers : "top";
  const operator = Object.hasOwn(OPERATORS, content.operator ?? "") ? content.operator : "hessian";
  const p = isObject(content.provenance) ? content.provenance : {};
  return {
    values: Float64Array.from(kept, (v) => v[0]),
    bounds: kept.map((v) => v[1]),
    weights: kept.map((v) => v[2]),
    dimension: finite(content.dimension),
    covers,
    operator,
    what: OPERATORS[operator],
    certified: p.certified === true,
    converged: p.converged === true,
    rule: text(content.preconditioner?.rule, 60),
  };
}

/** The spectrum in the units of its rule. Advice may hold that of its edge operator instead, whose eigenvalues are
 * stability ratios: then the sharpness of its limit is taken. */
function ownSpectrum(content, kind, notes) {
  const held = isObject(content.spectrum) ? content.spectrum : content;
  if (held.preconditioner?.edge !== true || (kind === "diagnosis" && held.covers === "density")) {
    return readSpectrum(held, notes);
  }
  const limit = isObject(content.limit) ? content.limit : {},
    adapts = finite(limit.preconditioned_sharpness) !== null;
  const value = finite(adapts ? limit.preconditioned_sharpness : limit.sharpness);
  if (value === null) {
    notes.push("Its spectrum is in units of the stability edge, 1 being the edge: no rule is drawn on it.");
    return null;
  }
  const bounds = [adapts ? limit.preconditioned_bound : limit.sharpness_bound];
  const provenance = { certified: limit.certified === true };
  const operator = adapts ? "preconditioned" : "hessian",
    { dimension } = held;
  return readSpectrum({ values: [value], bounds, dimension, covers: "top", operator, provenance }, notes);
}

/** A limit stands by itself as it stands in a diagnosis: its own spectrum is that of its edge. */
const besideItself = (limit) => ({ ...limit, limit, spectrum: limit.edge });

function readLimit(report, limit) {
  const lr = finite(limit.lr),
    at = finite(limit.max_stable_lr),
    ratio = finite(limit.ratio);
  report.lr = lr > 0 ? lr : null;
  report.rule = ruleOfResult(limit, report.lr, report.notes);
  report.limits.push({ label: "this optimizer", eigenvalue: null, lr: at });
  const largest = at === null ? "Any lr is stable here" : `The largest stable lr is ${at.toPrecision(3)}`;
  const now = lr === null ? "" : `; the lr is ${lr.toPrecision(3)}`;
  report.title = `${largest}${now}${ratio === null ? "" : `, a stability ratio of ${ratio.toPrecision(3)} (1 is the edge)`}.`;
  report.notes.push(limit.certified === true ? "Certified." : "Not certified: the residuals alone are known.");
}

function readResult(report, kind, given) {
  const { notes } = report,
    content = kind === "limit" ? besideItself(given) : given;
  report.spectrum = ownSpectrum(content, kind, notes);
  const s = report.spectrum;
  if (kind === "limit") readLimit(report, content);
  else if (kind === "diagnosis") {
    report.title = text(content.sentence);
    if (content.assumption) notes.push(`Holds as: ${text(content.assumption, 300)}.`);
    for (const row of list(content.limits).slice(0, 12)) {
      const at = finite(row?.largest_stable),
        lr = finite(row?.max_stable_lr);
      if (at !== null || lr !== null) report.limits.push({ label: text(row.name, 60), eigenvalue: at, lr });
    }
    report.lr = finite(content.lr);
    report.rule = ruleOfResult(content, report.lr, notes);
  } else if (kind === "recommendation") {
    const lr = finite(content.lr),
      [low, high] = list(content.interval).map(finite);
    report.lr = lr;
    report.rule = ruleOfResult(content, report.lr, notes);
    report.title =
      lr === null
        ? "No lr is recommended."
        : `Recommended lr: ${lr.toPrecision(3)}${low != null && high != null ? `, between ${low.toPrecision(2)} and ${high.toPrecision(2)}` : ""}.`;
    if (content.reason) notes.push(text(content.reason));
    for (const each of list(content.candidates).slice(0, 12)) {
      const values = list(each?.losses).slice(0, LONGEST).map(number),
        at = finite(each?.lr);
      if (values.length) {
        const label = `lr ${at === null ? "?" : at.toPrecision(3)}${each.diverged ? ", diverged" : ""}`;
        const points = list(each.points).map(finite),
          told = points.length === values.length && !points.includes(null);
        report.runs.push({ label, lr: at, steps: told ? points : values.map((_, t) => t), values });
      }
    }
  } else if (s) {
    report.rule = ruleOfResult(content, null, notes);
    const known = `${s.values.length} eigenvalue${s.values.length > 1 ? "s" : ""}`;
    const of = `of the ${s.what}${s.dimension ? ` of ${s.dimension.toLocaleString("en-US")} parameters` : ""}`;
    report.title =
      s.covers === "density" ? `Density ${of}.` : `${known} ${of}; the largest ${s.values.at(-1).toPrecision(4)}.`;
    if (s.covers !== "density")
      notes.push(s.certified ? "Certified." : "Not certified: the residuals alone are known.");
  }
  for (const note of list(content.notes).slice(0, 6)) if (text(note)) notes.push(text(note, 300));
}

function readLog(report, header, records) {
  const steps = new Map();
  for (const record of records) {
    if (!isObject(record)) continue;
    const step = finite(record.step);
    if (typeof record.alarm === "string")
      report.alarms.push({ step, sentence: text(record.sentence || record.alarm, 300) });
    else if (step !== null) steps.set(step, record); // a resumed run's later record of a step counts
  }
  const every = Math.max(1, Math.ceil(steps.size / LONGEST));
  const rows = [...steps].sort((a, b) => a[0] - b[0]).filter(([, r], i) => i % every === 0 || "stability_ratio" in r);
  const losses = rows.filter(([, r]) => "loss" in r);
  if (losses.length)
    report.runs.push({
      label: "recorded loss",
      lr: null,
      steps: losses.map((r) => r[0]),
      values: losses.map(([, r]) => number(r.loss)),
    });
  const measured = rows.filter(([, r]) => Number.isFinite(number(r.stability_ratio)));
  if (measured.length) {
    const column = (name) => measured.map(([, r]) => number(r[name]));
    report.ratio = {
      steps: measured.map((r) => r[0]),
      values: column("stability_ratio"),
      low: column("ratio_low"),
      high: column("ratio_high"),
    };
  }
  const [, last] = measured.at(-1) ?? [];
  const preconditioned = finite(last?.preconditioned_sharpness),
    sharpness = preconditioned ?? finite(last?.sharpness);
  if (sharpness !== null && last) {
    report.spectrum = readSpectrum(
      {
        values: [sharpness],
        covers: "top",
        operator: preconditioned === null ? "hessian" : "preconditioned",
        provenance: { certified: last.certified === true },
      },
      report.notes,
    );
    report.lr = finite(last.lr);
    report.rule = ruleOfRun(header, last, report.lr, report.notes);
    if (finite(last.max_stable_lr) !== null)
      report.limits.push({ label: "this run's optimizer", eigenvalue: null, lr: finite(last.max_stable_lr) });
  }
  const span = rows.length ? `${rows.length.toLocaleString("en-US")} steps recorded` : "no steps recorded";
  const ratio = last
    ? `; stability ratio ${number(last.stability_ratio).toPrecision(3)} at step ${measured.at(-1)[0].toLocaleString("en-US")} (1 is the edge)`
    : "; no curvature measured";
  report.title = `A training run: ${span}${ratio}.`;
  if (report.alarms.length)
    report.notes.push(`${report.alarms.length} alarms, the last: ${report.alarms.at(-1).sentence}`);
}
