"""Reading a file of ours, of whichever kind the page can show, for the page."""

from typing import Any

from eigenstep.errors import BadFile
from eigenstep.files import LOG, PathLike, peek, read_bytes, refuse_other, shown
from eigenstep.lines import scan

KINDS = ("spectrum", "measurement", "density", "limit", "diagnosis", "recommendation", LOG)
INSTEAD = {  # what to give for files of ours that hold nothing to draw rules on
    "critical sharpness": "it is of the next step alone; give limit_now(objective, optimizer).save(file)",
}
MOST = 100_000_000  # bytes: more would not be pleasant in a browser


def read_report(path: PathLike) -> dict[str, Any]:
    """Return the content of a JSON file, or of a monitor's log with its lines under 'records'.

    Raises BadFile, with the reason, for a file that is not ours, of a kind that the page does not show, too large, or
    damaged; a log is held to what `read_log` asks, and read up to its last line if it was cut off within that.
    """
    content = read_bytes(path)
    if len(content) > MOST:
        raise BadFile(f"{shown(path)}: larger than {MOST // 10**6} MB; save fewer steps, or a spectrum alone")
    found = peek(path)
    if isinstance(found, dict) and isinstance(kind := found.get("kind"), str) and kind in INSTEAD:
        raise BadFile(f"{shown(path)}: holds a {kind!r}, which cannot be explored: {INSTEAD[kind]}")
    report = refuse_other(path, found, *KINDS)
    if report["kind"] != LOG:
        return report
    header, records, _, _ = scan(path, content)
    return {**(header or {}), "records": records}
