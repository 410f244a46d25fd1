"""A diagnosis as one page: verdict, spectrum with limits, evidence, what a change would do, code to paste."""

from eigenstep.diagnosis.result import Diagnosis
from eigenstep.diagnosis.rows import CHANGE_COLUMNS, CHANGE_NOTE
from eigenstep.html import Page


def diagnosis_page(d: Diagnosis, target: str = "") -> Page:
    """Return a diagnosis as a page: verdict, spectrum with limits, evidence, what a change would do, code to paste."""
    page = Page(f"eigenstep diagnosis{f' of {target}' if target else ''}").verdict(d.sentence, failing=d.failing)
    page.text(f"Assumption: {d.assumption}.", small=True)
    spectrum = d.spectrum
    if spectrum is not None and d.slow is not None:
        page.heading("The spectrum, and what the lr bears")
        page.figure(d.plot().figure)
    page.heading("Evidence").table((), d.rows())
    if d.shares:
        shown = list(d.shares.items())[:8]
        page.heading("Where the sharp direction lies")
        page.table(("parameter", "share"), [(name, f"{share:.1%}") for name, share in shown])
    if d.changes:
        page.heading("What a change would do").table(CHANGE_COLUMNS, d.change_rows())
        page.text(CHANGE_NOTE, small=True)
        for change in d.changes:
            if change.note:
                page.text(f"{change.name}: {change.note}", small=True)
    page.heading("To paste").code(code_to_paste(d))
    if d.notes or d.reasons:
        page.heading("Notes")
        for note in d.notes:
            page.text(note)
        page.table((), [(name, reason) for name, reason in d.reasons.items()])
    return page.text(f"{d.products} Hessian-vector products, {d.seconds:.1f} s.", small=True)


def code_to_paste(d: Diagnosis) -> str:
    """Return the lines that act on a diagnosis."""
    lines = ["import eigenstep as es", "", "print(es.diagnose(objective, optimizer))"]
    if d.limit is not None and d.lr and d.verdict in ("unstable", "clipped", "warm-up", "noisy"):
        lines += [
            "",
            f"# half the largest stable lr, {d.limit.max_stable_lr:.4g}; the groups' ratios are kept",
            "for group in optimizer.param_groups:",
            f'    group["lr"] *= {0.5 * d.limit.max_stable_lr / d.lr:.4g}',
        ]
    return "\n".join(lines)
