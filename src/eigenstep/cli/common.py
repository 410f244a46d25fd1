"""What the commands share: reading rules, numbers and spectra; showing tables, plain when not on a terminal."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eigenstep.errors import BadFile, InvalidValue
from eigenstep.files import refuse_unwritable, shown

if TYPE_CHECKING:
    from rich.console import Console
    from torch import Tensor

    from eigenstep.rules import Rule
    from eigenstep.spectrum import Spectrum

Cell = str | int | float | bool | None


class OutFile(click.ParamType):  # type: ignore[type-arg]  # generic in click 8.5, not in 8.1
    """A path that can be written, checked as the command line is read: before any work."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return it as a Path. Raises BadFile."""
        return refuse_unwritable(value)


class NumericCommand(click.Command):
    """A command whose arguments may be negative numbers: they are not taken for options."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Write the sign of a negative number as a minus, which `number` reads and click does not."""
        return super().parse_args(ctx, ["−" + a[1:] if a.startswith("-") and _is_number(a) else a for a in args])


def number(text: str) -> float:
    """Read a number, a typographic minus included; nan and the like are left to the library, which says why not.

    >>> number("−2.5")
    -2.5
    """
    try:
        return float(str(text).strip().replace("−", "-"))
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not a number") from error


def numbers(text: str) -> float | list[float]:
    """Read numbers with commas between them; a single one stays a float."""
    values = [number(part) for part in str(text).split(",")]
    return values[0] if len(values) == 1 else values


def _is_number(text: str) -> bool:
    try:
        number(text)
    except click.BadParameter:
        return False
    return True


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")


def out_option(default: str) -> Callable[[Any], Any]:
    """--out DIR, with this default."""
    return click.option(
        "--out",
        type=Path,
        metavar="DIR",
        default=default,
        show_default=True,
        help="Folder for figures and results; made if need be.",
    )


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


def rule_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--rule, --lr, --momentum and --set."""
    options = (
        click.option("--rule", required=True, metavar="NAME", help="The rule's name, as heavy-ball; also NAME:lr=0.1."),
        click.option("--lr", type=number, help="Learning rate [default: the rule's own]."),
        click.option("--momentum", type=number, help="Momentum, or the first beta of a rule that has betas."),
        click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="Any other hyperparameter."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def spectrum_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Eigenvalues as arguments, or --spectrum; and --unit for adaptive rules."""
    options = (
        click.argument("eigenvalues", nargs=-1, type=number),
        click.option("--spectrum", "file", metavar="FILE.json", help="Read the eigenvalues from a saved spectrum."),
        click.option("--unit", type=numbers, help="Frozen unit P of an adaptive rule: one number, or one a value."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def tolerance_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--start, --loss, --radius and --point, for counts."""
    options = (
        click.option("--start", type=numbers, help="Error at the start along each eigenvector: a,b,... or one number."),
        click.option("--loss", type=number, help="Count the updates until the loss is this small."),
        click.option("--radius", type=number, help="Count the updates until the error is this short."),
        click.option(
            "--point",
            type=click.Choice(["iterate", "stored"]),
            default="iterate",
            show_default=True,
            help="Nesterov's iterate, or the look-ahead point that torch stores.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


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
    print(text, flush=True)


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
