"""A monitor's log as lines of JSON, read and checked one by one: an envelope first, then a record a line."""

import math
from collections.abc import Mapping
from typing import Any

from eigenstep.errors import BadFile
from eigenstep.files import FORMAT, LOG, PathLike, parse, refuse_other, shown, wrong_field

Record = dict[str, Any]
_NUMBERS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
_TEXTS = {"alarm", "sentence", "note", "reason", "cause", "driver"}
_NUMBER = (float, None, *_NUMBERS)
_PLAIN = ("time", "lr", "loss", "grad_norm", "update_norm", "probe_loss", "seconds")
_MEASURED = ("ratio_low", "ratio_high", "stability_ratio", "sharpness", "preconditioned_sharpness", "max_stable_lr")
_FIELDS: dict[str, Any] = {
    **{"step": int, "resumed": int, "products": (int, None), "certified": (bool, None), "alarm": str, "evidence": dict},
    **dict.fromkeys(sorted(_TEXTS - {"alarm"}), (str, None)),
    **dict.fromkeys((*_PLAIN, *_MEASURED, "critical_lr", "critical_sharpness"), _NUMBER),
    **{"layers": ({str: _NUMBER}, None), "settings": (str, None), "rules": ([dict], None)},
}


def scan(path: PathLike, content: bytes) -> tuple[Record | None, list[Record], int, int]:
    """Return the header (None if cut), the whole lines, the bytes up to the end of the last whole one, and all bytes.

    content: what the file at `path` holds. Raises BadFile, with the line's number, for a line that is no record.
    """
    parsed: list[Record] = []
    place = 0
    lines = content.split(b"\n")
    for i, line in enumerate(lines):
        last = i == len(lines) - 1
        try:
            value = parse(line)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            if last:
                break  # nothing, or a record cut off
            raise BadFile(f"{shown(path)}: line {i + 1} is not a record; it is no log of a monitor, or a damaged one")
        if not parsed:
            refuse_other(path, value, LOG)
        elif (wrong := wrong_field(value, _needed(value)) or _wrong(value)) is not None:
            raise BadFile(f"{shown(path)}: line {i + 1}: {wrong}; it is no record of a monitor, or a damaged one")
        parsed.append(value)
        place += len(line) + (0 if last else 1)
    if not parsed:
        whole = f'{{"format":"{FORMAT}"'.encode()
        if not content.startswith(whole[: len(content)]):
            raise BadFile(f"{shown(path)}: not a monitor's log; its first line is no envelope of {FORMAT}")
        return None, [], 0, len(content)
    return parsed[0], parsed[1:], place, len(content)


def _needed(line: Record) -> dict[str, Any]:
    """The fields that a line of a log cannot do without, by what it is."""
    if "resumed" in line or "note" in line:
        return {}
    return {"step": int, "sentence": str} if "alarm" in line else {"step": int}


def _wrong(record: Record) -> str | None:
    """What is wrong with a record, in words: a field that is not of its kind, also within an alarm's evidence."""
    wrong = wrong_field(record, {name: kind for name, kind in _FIELDS.items() if name in record})
    if wrong is None and "evidence" in record and record["evidence"].get("after") is not None:
        inside = record["evidence"]["after"]
        wrong = _wrong(inside) if isinstance(inside, dict) else "'evidence' holds an 'after' that is no record"
    return wrong


def from_json(record: Mapping[str, Any]) -> Record:
    """Undo `jsonable` for a record, and what it holds: 'nan', 'inf' and '-inf' are numbers again."""

    def number(name: str, value: Any) -> Any:
        if isinstance(value, dict):
            return from_json(value)
        return _NUMBERS.get(value, value) if isinstance(value, str) and name not in _TEXTS else value

    return {name: number(name, value) for name, value in record.items()}
