"""What the commands share: rules and spectra out of words, and tables, plain when not on a terminal."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eigenstep.cli import streams
from eigenstep.cli.options import numbers
from eigenstep.errors import BadFile, InvalidValue
from eigenstep.files import shown

if TYPE_CHECKING:
    from rich.console import Console
    from torch import Tensor

    from eigenstep.rules import Rule
    from eigenstep.spectrum import Spectrum

Cell = str | int | float | bool | None


def folder(path: Path) -> Path:
    """Make the folder and check that files can be written there. Raises BadFile otherwise."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".eigenstep.{os.getpid()}"
        probe.touch()
        probe.unlink()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BadFile(f"{shown(path)}: cannot be written to ({reason}); choose another folder with --out") from error
    return path


def rule_from(text: str, extra: Mapping[str, Any] | None = None) -> "Rule":
    """Return the rule of 'name' or 'name:field=value,field=value', with extra fields; betas=0.9,0.999 is one field.

    An extra 'momentum' sets the first beta of a rule that has betas.

    >>> rule_from("adam:lr=0.01,betas=0.8,0.99").betas
    (0.8, 0.99)
    """
    from eigenstep.rules import RULES, rule_named

    name, _, rest = text.strip().partition(":")
    settings: dict[str, Any] = {}
    parts: list[str] = []
    for part in filter(None, rest.split(",")):
        if "=" in part or not parts:
            parts.append(part)
        else:
            parts[-1] += "," + part
    for part in parts:
        field, value = setting(part)
        if field in settings:
            raise InvalidValue(f"{text!r} gives {field} twice; leave one of them out")
        settings[field] = value
    settings |= {field: value for field, value in (extra or {}).items() if value is not None}
    default = getattr(RULES.get(name), "betas", None)
    if default and isinstance(settings.get("momentum"), float):
        settings["betas"] = (settings.pop("momentum"), settings.get("betas", default)[1])
    return rule_named(name, **settings)


def setting(text: str) -> tuple[str, Any]:
    """Read 'field=value': a number, numbers with commas, true or false.

    >>> setting("amsgrad=true"), setting("betas=0.9,0.99")
    (('amsgrad', True), ('betas', (0.9, 0.99)))
    """
    field, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not field:
        raise InvalidValue(f"{text!r} must read name=value, as in lr=0.01")
    if value.lower() in ("true", "false"):
        return field, value.lower() == "true"
    read = numbers(value)
    return field, tuple(read) if isinstance(read, list) else read


def spectrum_from(eigenvalues: Sequence[float], file: str | None) -> "Spectrum":
    """Return the spectrum of the arguments, or of the file; exactly one of them must be given."""
    from eigenstep.spectrum import Spectrum

    if eigenvalues and file:
        raise InvalidValue("eigenvalues were given twice, as arguments and by --spectrum; leave one of them out")
    if not eigenvalues and not file:
        raise InvalidValue("no eigenvalues were given; write them out, as in `predict 1 100`, or use --spectrum FILE")
    return Spectrum.load(file) if file else Spectrum.from_eigenvalues(list(eigenvalues))


def per_eigenvalue(values: float | list[float] | None, spectrum: "Spectrum") -> list[float] | None:
    """Return one value per eigenvalue; a single one stands for all."""
    return [values] * len(spectrum) if isinstance(values, float) else values


def as_unit(values: float | list[float] | None) -> "float | Tensor | None":
    """Return a unit as the library takes it."""
    import torch

    return torch.tensor(values, dtype=torch.float64) if isinstance(values, list) else values


def describe_spectrum(spectrum: "Spectrum") -> str:
    """Return in words how many eigenvalues there are, from where to where, and what they cover.

    >>> describe_spectrum(spectrum_from([1.0, 100.0], None))
    '2 eigenvalues of the Hessian, 1 to 100'
    """
    values = spectrum.eigenvalues
    count = "1 eigenvalue" if len(values) == 1 else f"{len(values):,} eigenvalues"
    operator = {
        "hessian": "the Hessian",
        "ggn": "the Gauss-Newton matrix",
        "preconditioned": "the preconditioned Hessian",
    }[spectrum.operator]
    reach = f"{float(values.min()):.6g} to {float(values.max()):.6g}" if len(values) > 1 else f"{float(values[0]):.6g}"
    rest = "" if spectrum.covers == "all" else f"; covers {spectrum.covers!r} of {spectrum.dimension:,}"
    return f"{count} of {operator}, {reach}{rest}"


def describe(rule: "Rule") -> str:
    """Return the rule's name and its settings; those that are off or zero are left out, lr and momentum never.

    >>> describe(rule_from("heavy-ball:lr=0.01"))
    'heavy-ball: lr 0.01, momentum 0.9'
    """
    from dataclasses import fields

    shown = {f.name: getattr(rule, f.name) for f in fields(rule)}
    kept = [name for name, value in shown.items() if value or (name in ("lr", "momentum") and value is not None)]
    kept.sort(key=lambda name: name != "lr")
    return f"{rule.name}: {', '.join(f'{name} {value_text(shown[name])}' for name in kept)}"


def value_text(value: Any) -> str:
    """Return a setting as text, a pair with a slash.

    >>> value_text((0.9, 0.999)), value_text(True)
    ('0.9/0.999', 'yes')
    """
    return "/".join(map(cell, value)) if isinstance(value, tuple) else cell(value)


def cell(value: Cell) -> str:
    """Return the text of one table cell: six digits, yes or no, a dash for nothing.

    >>> [cell(v) for v in (0.0380000001, 1265, True, None, float("inf"), "a")]
    ['0.038', '1,265', 'yes', '-', 'inf', 'a']
    """
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.6g}" if isinstance(value, float) else value


def console(*, stderr: bool = False) -> "Console":
    """Return a rich console: colours and boxes on a terminal, plain unwrapped lines elsewhere; NO_COLOR is heeded."""
    from rich.console import Console

    out = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not out.is_terminal:
        out.width = 10**5  # nothing is wrapped
    return out


def say(text: str = "") -> None:
    """Print a line or a paragraph; on a terminal it wraps between words."""
    console().print(text)


def echo(text: str) -> None:
    """Print a text as it is, wrapped nowhere."""
    print(text, flush=True, file=streams.result())


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
    """Print a table: rich on a terminal, else aligned columns without boxes; nothing is cut off.

    A column whose cells are all numbers, or dashes for nothing, is aligned to the right.
    """
    from rich.table import Table
    from rich.text import Text

    rows = [list(row) for row in rows]
    texts = [[cell(value) for value in row] for row in rows]
    numeric = [
        all(value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)) for value in column)
        for column in zip(*rows, strict=True)
    ] or [False] * len(columns)
    out = console()
    if out.is_terminal:
        shown = Table(title=title or None, title_justify="left", title_style="bold")
        for name, right in zip(columns, numeric, strict=True):
            shown.add_column(Text(name), justify="right" if right else "left", overflow="fold")
        for line in texts:
            shown.add_row(*map(Text, line))
        out.print(shown)
        return
    widths = [max(map(len, column)) for column in zip(columns, *texts, strict=True)]
    if title:
        out.print(title)
    for line in (list(columns), *texts):
        padded = [
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(line, widths, numeric, strict=True)
        ]
        out.print("  ".join(padded).rstrip())


def print_json(kind: str, content: Mapping[str, Any]) -> None:
    """Print the content in the envelope of every file of ours; infinite and nan numbers as text."""
    from eigenstep.files import envelope, jsonable

    echo(envelope(kind, jsonable(content)))


@contextmanager
def progress(label: str) -> Iterator[Callable[[int, int], None]]:
    """Show long work on a terminal's stderr; yields a function of (done, total)."""
    from eigenstep.progress import task

    with task(label) as work:
        yield lambda done, total: work.tell(done=done, total=total, unit="done", left=work.projected(done, total))


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch work in one thread: on matrices as small as here, handing work to a second costs more than it saves."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
