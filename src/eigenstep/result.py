"""What every result can do: plain data, files, words, a notebook's table; each states its fields and words once."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

from eigenstep.errors import BadFile, InvalidValue, Unsupported
from eigenstep.files import envelope, read_envelope, shown, write_envelope
from eigenstep.plain import plain_fields, restored_fields

if TYPE_CHECKING:
    from pandas import DataFrame

LONGEST = 119  # characters of a repr: a line of a terminal or of a log
MOST = 50  # rows of a table in words: a screen; `to_frame` has them all
R = TypeVar("R", bound="Result")
_DAMAGED = (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RuntimeError)


@dataclass(frozen=True)
class Words:
    """A result in words.

    brief: what its repr holds in brackets. sentence: the answer. rows: what and how much. table: columns by name, of
    equal length. notes: what the reader should know.
    """

    brief: str
    sentence: str
    rows: Sequence[tuple[str, str]] = ()
    table: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    notes: Sequence[str] = ()

    @property
    def cells(self) -> list[tuple[str, ...]]:
        """The table's first rows as text, at most MOST."""
        return [tuple(map(cell, row)) for row in list(zip(*self.table.values(), strict=True))[:MOST]]

    @property
    def more(self) -> str | None:
        """How many rows of the table are left out of the words."""
        rows = len(next(iter(self.table.values()), ()))
        return f"{rows - MOST:,} rows more: to_frame() has them all" if rows > MOST else None


class Result:
    """A result: as_dict, save, load, plot, str, repr, a notebook's table and to_frame, from `kind` and `words`.

    A dataclass is plain data by its fields (`plain`); `derived` adds what follows from them and a file should show.
    """

    kind: ClassVar[str]

    def words(self) -> Words:
        """Return the result in words."""
        raise NotImplementedError

    def derived(self) -> dict[str, Any]:
        """Return what plain data hold beside the fields."""
        return {}

    def as_dict(self) -> dict[str, Any]:
        """Return the result as plain data for JSON; numbers that are not finite as text."""
        return {**plain_fields(self), **self.derived()}

    def to_json(self) -> str:
        """Return the result in the envelope of every file of ours, as `save` writes it."""
        return envelope(self.kind, self.as_dict())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the result as JSON, whole or not at all. Raises BadFile when that is not possible.

        Vectors of the model's size (eigenvectors, directions) are left out; all else is kept.
        """
        write_envelope(path, self.kind, self.as_dict())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a result that `save` wrote; it has no vectors of the model's size, what needs them says so.

        Raises BadFile for any other file, by its kind, and for a field that is not what it should be, by its name.
        """
        return from_file(cls, path, read_envelope(path, cls.kind))

    @classmethod
    def from_plain(cls, content: Mapping[str, Any], where: str = "") -> Self:
        """Return a result from its plain data. Raises InvalidValue for a field that is wrong, named after `where`."""
        return cls(**restored_fields(cls, content, where))

    def plot(self, ax: Any = None) -> Any:
        """Draw the result on the axes, or on new ones; return them."""
        raise NotImplementedError

    def to_frame(self) -> "DataFrame":
        """Return the result's table as a pandas DataFrame; a result without one is a single row of its numbers.

        Raises Unsupported where pandas is not installed.
        """
        row = {name: [value] for name, value in self.as_dict().items() if not isinstance(value, (dict, list))}
        return as_frame(self, self.words().table or row)

    def __str__(self) -> str:
        """The result for reading: the sentence, the numbers, the table, the notes."""
        words = self.words()
        width = max((len(name) for name, _ in words.rows), default=0)
        lines = [words.sentence, *(f"  {name.ljust(width)}  {text}".rstrip() for name, text in words.rows)]
        table = [tuple(words.table), *words.cells] if words.table else []
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines += ["  " + "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in table]
        lines += [f"  ... {words.more}"] * bool(words.more)
        return "\n".join([*lines, *(f"note: {note}" for note in words.notes)])

    def __repr__(self) -> str:
        """One line."""
        brief = " ".join(self.words().brief.split())
        room = LONGEST - len(type(self).__name__) - 2
        return f"{type(self).__name__}({brief if len(brief) <= room else brief[: room - 3] + '...'})"

    def _repr_html_(self) -> str:
        """The same for a notebook, every string escaped."""
        from eigenstep.html import fragment

        words = self.words()
        notes = [*words.notes, *([words.more] if words.more else [])]
        return fragment(words.sentence, words.rows, tuple(words.table), words.cells, notes)


def from_file(kind: type[R], path: str | os.PathLike[str], content: Mapping[str, Any]) -> R:
    """Return a result from what the file at `path` holds. Raises BadFile for a field that is not what it should be."""
    try:
        found = kind.from_plain(content)
        str(found), found.to_json()  # whether its fields fit together
    except _DAMAGED as error:
        why = error if isinstance(error, InvalidValue) else f"its fields do not fit together ({error})"
        raise BadFile(f"{shown(path)}: not a usable {kind.kind}: {why}; save it again") from error
    return found


def cell(value: Any) -> str:
    """Return a number, a flag or a text as a table's cell; None, which is unknown, as a dash.

    >>> [cell(value) for value in (None, True, 2.0 / 3, 7, "a")]
    ['-', 'yes', '0.666667', '7', 'a']
    """
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def number(value: float | None) -> str:
    """Return a number of a sentence to four digits; None as a dash."""
    return "-" if value is None else f"{value:.4g}"


def as_frame(result: Result, table: Mapping[str, Sequence[Any]]) -> "DataFrame":
    """Return columns as a pandas DataFrame. Raises Unsupported where pandas is not installed."""
    try:
        import pandas
    except ImportError as error:
        raise Unsupported(
            f"{type(result).__name__}.to_frame: pandas is not installed: run `pip install pandas`, or take as_dict()"
        ) from error
    return pandas.DataFrame({name: list(column) for name, column in table.items()})
