"""Reading a file of ours, of whichever kind the page can show, for the page."""

import os
from typing import Any

from eigenstep.errors import BadFile
from eigenstep.files import parse, read_bytes, refuse_other, shown

KINDS = ("spectrum", "measurement", "density", "diagnosis", "recommendation", "monitor")
MOST = 100_000_000  # bytes: more would not be pleasant in a browser


def read_report(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the content of a JSON file, or of a monitor's log with its lines under 'records'.

    Raises BadFile, with the reason, for a file that is not ours, of a kind that the page does not show, too large, or
    damaged; a log that was cut off within its last line is read up to there.
    """
    content = read_bytes(path)
    if len(content) > MOST:
        raise BadFile(f"{shown(path)}: larger than {MOST // 10**6} MB; save fewer steps, or a spectrum alone")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise BadFile(f"{shown(path)}: cannot be read: it is not UTF-8 text; check the path") from error
    try:
        found = parse(text)
    except ValueError:
        found = _lines(path, text)
    refuse_other(path, found, *KINDS)
    return found  # type: ignore[no-any-return]


def _lines(path: str | os.PathLike[str], text: str) -> Any:
    """A log: its first line, with the others as 'records'."""
    lines = [line for line in text.split("\n") if line.strip()]
    parsed: list[Any] = []
    for number, line in enumerate(lines, start=1):
        try:
            parsed.append(parse(line))
        except ValueError as error:
            log = bool(parsed) and isinstance(parsed[0], dict) and parsed[0].get("kind") == "monitor"
            if log and number == len(lines):
                break
            what = f"line {number} is damaged" if log else "not whole JSON"
            raise BadFile(f"{shown(path)}: {what} ({error}); it may be cut off: write it again") from error
    if not parsed or not isinstance(parsed[0], dict):
        return None
    return {**parsed[0], "records": parsed[1:]}
