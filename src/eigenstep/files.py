"""Files: written whole or not at all, refused before the work; the one JSON envelope; read as checked plain data."""

import errno
import json
import math
import os
import secrets
import stat
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from eigenstep.errors import BadFile

FORMAT, VERSION = "eigenstep", 1
LOG = "monitor"  # the one kind of file that is JSON lines
DEEPEST = 100  # nested brackets: ours stay below 20; Python's own walks over data end at some 1,000
LONGEST = 200  # characters of a path that a message repeats
PathLike = str | os.PathLike[str]


def write_whole(path: PathLike, content: str | bytes) -> Path:
    """Write text (UTF-8, as it is) or bytes to a file by way of a hidden one beside it; return the path.

    Only a regular file is replaced, and its mode is kept; a link's target is written, the link stays; a device or a
    pipe is written to. Raises BadFile where that is not possible; nothing half-written is left, and an older file
    stays as it was.

    >>> import tempfile
    >>> write_whole(Path(tempfile.mkdtemp()) / "a.txt", "whole").read_text()
    'whole'
    """
    data = content.encode(errors="backslashreplace") if isinstance(content, str) else content
    try:
        target, mode = _target(path)
        if mode is not None and not stat.S_ISREG(mode):
            with open(target, "wb", buffering=0) as stream:
                rest = memoryview(data)
                while rest:
                    rest = rest[stream.write(rest) or 0 :]
            return Path(path)
        unfinished = _beside(target)
        try:
            with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb") as file:
                file.write(data)
            if mode is not None:
                unfinished.chmod(stat.S_IMODE(mode))
            unfinished.replace(target)
        finally:
            with suppress(OSError):
                unfinished.unlink(missing_ok=True)
    except (OSError, ValueError) as error:
        raise _unwritable(path, error) from error
    return Path(path)


def refuse_unwritable(path: PathLike) -> Path:
    """Raise BadFile, before any work, for a path that `write_whole` could not write; else return it.

    >>> refuse_unwritable("a-new-file.html")
    PosixPath('a-new-file.html')
    """
    try:
        target, mode = _target(path)
        if mode is not None and not stat.S_ISREG(mode):
            return Path(path)
        probe = _beside(target)
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        probe.unlink()
    except (OSError, ValueError) as error:
        raise _unwritable(path, error) from error
    return Path(path)


def shown(path: PathLike) -> str:
    """Return a path for a message: its middle left out where it is long, quoted where it is empty or not printable."""
    text = os.fspath(path)
    text = text if len(text) <= LONGEST else f"{text[: LONGEST // 2]}...{text[-LONGEST // 2 :]}"
    return text if text and text.isprintable() else repr(text)


def refuse_no_path(path: object) -> None:
    """Raise BadFile for what names no file: a number, None, a list, bytes."""
    if not isinstance(path, (str, os.PathLike)) or isinstance(os.fspath(path), bytes):
        raise BadFile(f"a path is needed, not {type(path).__name__}; give the file's name")


def read_bytes(path: PathLike) -> bytes:
    """Return a file's content. Raises BadFile where it cannot be read, and for a device, which may never end."""
    refuse_no_path(path)
    try:
        if stat.S_ISCHR(mode := os.stat(path).st_mode) or stat.S_ISBLK(mode):
            raise BadFile(f"{shown(path)}: a device, not a file; check the path")
        return Path(path).read_bytes()
    except (OSError, ValueError, MemoryError) as error:
        if isinstance(error, BadFile):
            raise
        reason = getattr(error, "strerror", None) or error or type(error).__name__
        raise BadFile(f"{shown(path)}: cannot be read ({reason}); check the path") from error


def parse(text: str | bytes) -> Any:
    """Return what JSON text holds. Raises ValueError, with the reason, for text that is none, or none that we write.

    That is: nested deeper than DEEPEST, or with an integer of thousands of digits.
    """
    try:
        value = json.loads(text if isinstance(text, str) else text.decode())
    except json.JSONDecodeError:
        raise
    except RecursionError as error:
        raise ValueError("its brackets are nested too deeply") from error
    except UnicodeDecodeError as error:
        raise ValueError("it is not UTF-8 text") from error
    except ValueError as error:
        raise ValueError("a number in it has thousands of digits") from error
    level: list[Any] = [[value]]
    for _ in range(DEEPEST):
        inside = [item for one in level for item in (one.values() if isinstance(one, dict) else one)]
        level = [item for item in inside if isinstance(item, (dict, list))]
        if not level:
            return value
    raise ValueError("its brackets are nested too deeply")


def enveloped(kind: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """Return {"format": "eigenstep", "version": 1, "kind": kind, ...content}, by which a reader knows our files."""
    return {"format": FORMAT, "version": VERSION, "kind": kind, **content}


def envelope(kind: str, content: Mapping[str, Any]) -> str:
    """Return content that is `enveloped` as JSON text."""
    return json.dumps(enveloped(kind, content), indent=1, allow_nan=False)


def jsonable(value: Any) -> Any:
    """Return plain data that JSON can hold: tensors as lists, numbers that are not finite as text.

    >>> jsonable({"a": (1, math.inf)})
    {'a': [1, 'inf']}
    """
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def write_envelope(path: PathLike, kind: str, content: Mapping[str, Any]) -> None:
    """Write the content in its `envelope` to a file, whole or not at all."""
    write_whole(path, envelope(kind, content) + "\n")


def read_envelope(path: PathLike, kind: str) -> dict[str, Any]:
    """Read a file that `write_envelope` wrote with this kind. Raises BadFile, with the reason, for any other."""
    return refuse_other(path, peek(path), kind)


def peek(path: PathLike) -> Any:
    """Return what a JSON file holds, or the first of JSON lines, which says what they are. Raises BadFile for others.

    The file may still be anything: `refuse_other` asks whether it is ours.
    """
    text = read_bytes(path)
    try:
        return parse(text)
    except json.JSONDecodeError as error:
        first = _first_of_lines(text)
        if first is not None and first.get("format") == FORMAT and first.get("kind") == LOG:
            return first
        raise BadFile(
            f"{shown(path)}: not whole JSON (line {error.lineno}: {error.msg}); it may be cut off: write it again"
        ) from error
    except ValueError as error:
        raise BadFile(f"{shown(path)}: cannot be read: {error}; it is no file of {FORMAT}, or damaged") from error


def _first_of_lines(text: bytes) -> dict[str, Any] | None:
    """The first of JSON lines, which says what they are; None where it is not JSON by itself."""
    try:
        first = parse(text.partition(b"\n")[0])
    except ValueError:
        return None
    return first if isinstance(first, dict) else None


def refuse_other(path: PathLike, content: Any, *kinds: str) -> dict[str, Any]:
    """Raise BadFile unless `content` is a mapping in our envelope, of one of the kinds; else return it."""
    name = shown(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise BadFile(f"{name}: not a file of {FORMAT}; its JSON has no 'format': '{FORMAT}'")
    if content.get("version") != VERSION:
        version = f"{content.get('version')!r:.40}"
        raise BadFile(f"{name}: version {version} of the format; this program reads {VERSION}: upgrade {FORMAT}")
    if content.get("kind") not in kinds:
        log = ", the log of a training run, which read_log reads" if content.get("kind") == LOG else ""
        needed = f"a {kinds[0]!r}" if len(kinds) == 1 else f"one of {', '.join(kinds)}"
        raise BadFile(f"{name}: holds a {content.get('kind')!r:.40}{log}; {needed} is needed here")
    return content


def wrong_field(content: Mapping[str, Any], kinds: Mapping[str, Any]) -> str | None:
    """Return what is wrong with the first field that is not of its kind, in words; None if all are.

    A kind: int, float (a finite number), bool, str, dict; None for a field that may be null or missing as in (int,
    None); [kind] for a list of them; {str: kind} for a mapping onto them. A field without None must be there.

    >>> wrong_field({"step": "x"}, {"step": int})
    "'step' must be a whole number, not 'x'"
    """
    for name, kind in kinds.items():
        value = content.get(name)
        if not _is(value, kind):
            return f"{name!r} must be {_named(kind)}, not {_short(value)}" if name in content else f"it lacks {name}"
    return None


def _is(value: Any, kind: Any) -> bool:
    if isinstance(kind, tuple):
        return any(_is(value, one) for one in kind)
    if kind is None:
        return value is None
    if isinstance(kind, list):
        return isinstance(value, list) and all(_is(item, kind[0]) for item in value)
    if isinstance(kind, dict):
        return isinstance(value, dict) and all(_is(item, kind[str]) for item in value.values())
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    if kind is int:
        return isinstance(value, int) and abs(value) < 2**63
    if kind is float:
        return isinstance(value, (int, float)) and abs(value) <= sys.float_info.max  # nan is not
    return value == kind if isinstance(kind, str) else isinstance(value, kind)


def _named(kind: Any) -> str:
    if isinstance(kind, tuple):
        return " or ".join(map(_named, kind))
    if isinstance(kind, list):
        return f"a list, each item {_named(kind[0])}"
    if isinstance(kind, dict):
        return f"a mapping, each value {_named(kind[str])}"
    if isinstance(kind, str):
        return repr(kind)
    names = {int: "a whole number", float: "a finite number", bool: "true or false", str: "text", dict: "a mapping"}
    return "null" if kind is None else names[kind]


def _short(value: Any) -> str:
    text = f"a list of {len(value)}" if isinstance(value, list) else repr(value) if _plain(value) else "a mapping"
    return text if len(text) <= 40 else f"{text[:37]}..."


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str))


def _target(path: PathLike) -> tuple[Path, int | None]:
    """Where a path leads, links followed, and the mode of what is there, None if nothing is; refused: no folders."""
    refuse_no_path(path)
    if not os.fspath(path):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    target = Path(os.path.realpath(path))
    try:
        mode = os.stat(target).st_mode
    except FileNotFoundError:
        return target, None
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return target, mode


def _beside(target: Path) -> Path:
    """A hidden name in the same folder, as long whatever the target's."""
    return target.with_name(f".eigenstep.{os.getpid()}.{secrets.token_hex(4)}")


def _unwritable(path: PathLike, error: Exception) -> BadFile:
    reason = getattr(error, "strerror", None) or error
    return BadFile(f"{shown(path)}: cannot be written ({reason}); choose a folder that exists and is writable")
