"""Standard output and error that never raise: quiet when the reader has gone, plain on an ASCII terminal."""

import codecs
import io
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from typing import Any

_PLAIN = {
    **{"±": "+-", "−": "-", "–": "-", "—": "-", "°": " deg", "×": "x", "·": "*", "…": "...", "µ": "u", "λ": "lambda"},
    **{"≤": "<=", "≥": ">=", "≈": "~", "→": "->", "√": "sqrt", "∞": "inf", "‘": "'", "’": "'", "“": '"', "”": '"'},
}


def plain(error: UnicodeError) -> tuple[str, int]:
    """What an encoding without a character writes instead; a handler of encoding errors.

    >>> "1 ± 2° café".encode("ascii", "eigenstep.plain")
    b'1 +- 2 deg cafe'
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(_PLAIN.get(sign) or _bare(sign) for sign in text), error.end


def _bare(sign: str) -> str:
    """The character without its accents, if that is ASCII; else a question mark."""
    return unicodedata.normalize("NFKD", sign).encode("ascii", "ignore").decode() or "?"


codecs.register_error("eigenstep.plain", plain)


class Full(OSError):
    """Standard output took no more."""


class Output(io.FileIO):
    """A file descriptor that takes everything; what could not be written is told by `trouble`, once all is done."""

    trouble: OSError | None = None

    def write(self, data: Any, /) -> int:
        """Write what can be; the rest is dropped, quietly where the reader has gone."""
        if self.trouble is None:
            try:
                return super().write(data) or 0
            except OSError as error:
                self.trouble = error
        return memoryview(data).nbytes


@contextmanager
def result_only() -> Iterator[None]:
    """Keep standard output for the result alone: what anyone else prints, a user's code too, goes to standard error."""
    before = _result[:]
    _result[:] = [sys.stdout]
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _result[:] = before


def result() -> Any:
    """The stream that a result is printed on."""
    return _result[0] if _result else sys.stdout


_result: list[Any] = []  # standard output, while it is kept for the result


@contextmanager
def safe() -> Iterator[None]:
    """Put such streams in the place of sys.stdout and sys.stderr. Raises Full at the end where stdout is full."""
    before = sys.stdout, sys.stderr
    outputs: list[Output | None] = []
    for name, stream in (("stdout", sys.stdout), ("stderr", sys.stderr)):
        buffer = getattr(stream, "buffer", None)
        raw = getattr(buffer, "raw", buffer)  # with PYTHONUNBUFFERED there is no buffer between
        if isinstance(raw, io.FileIO) and not raw.closed:  # not a test's, a notebook's or a Windows console's
            with suppress(OSError):
                stream.flush()
            output = Output(raw.fileno(), "wb", closefd=False)
            outputs.append(output)
            wrapped = io.TextIOWrapper(
                io.BufferedWriter(output),
                stream.encoding,
                "eigenstep.plain",
                line_buffering=bool(stream.line_buffering) or raw is buffer,
            )
            setattr(sys, name, wrapped)
        else:
            outputs.append(None)
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="eigenstep.plain")
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        sys.stdout, sys.stderr = before
    trouble = outputs[0].trouble if outputs[0] is not None else None
    if trouble is not None and not isinstance(trouble, BrokenPipeError):
        raise Full(trouble.errno, trouble.strerror)
