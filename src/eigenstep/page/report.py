"""Reading a file of ours, of whichever kind the page can show, for the page."""

import json
import os
from pathlib import Path
from typing import Any

from eigenstep.errors import BadFile
from eigenstep.spectrum import FORMAT, VERSION

KINDS = ("spectrum", "measurement", "density", "diagnosis", "recommendation", "monitor")
MOST = 100_000_000  # bytes: more would not be pleasant in a browser


def read_report(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the content of a JSON file, or of a monitor's log with its lines under 'records'.

    Raises BadFile, with the reason, for a file that is not ours, of a kind that the page does not show, too large, or
    damaged; a log that was cut off within its last line is read up to there.
    """
    file = Path(path)
    try:
        if file.stat().st_size > MOST:
            raise BadFile(f"{path}: larger than {MOST // 10**6} MB; save fewer steps, or a spectrum alone")
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadFile(f"{path}: cannot be read ({error}); check the path") from error
    try:
        content: Any = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        content = _lines(path, text)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise BadFile(f"{path}: not a file of {FORMAT}; its JSON has no 'format': '{FORMAT}'")
    if content.get("version") != VERSION:
        raise BadFile(f"{path}: version {content.get('version')!r} of the format; this program reads {VERSION}")
    if content.get("kind") not in KINDS:
        raise BadFile(f"{path}: holds a {content.get('kind')!r}; the page shows {', '.join(KINDS)}")
    return content


def _lines(path: str | os.PathLike[str], text: str) -> Any:
    """A log: its first line, with the others as 'records'."""
    lines = [line for line in text.split("\n") if line.strip()]
    parsed: list[Any] = []
    for number, line in enumerate(lines, start=1):
        try:
            parsed.append(json.loads(line))
        except (json.JSONDecodeError, RecursionError) as error:
            log = bool(parsed) and isinstance(parsed[0], dict) and parsed[0].get("kind") == "monitor"
            if log and number == len(lines):
                break
            what = f"line {number} is damaged" if log else "not whole JSON"
            raise BadFile(f"{path}: {what}; it may be cut off: write it again") from error
    if not parsed or not isinstance(parsed[0], dict):
        return None
    return {**parsed[0], "records": parsed[1:]}
