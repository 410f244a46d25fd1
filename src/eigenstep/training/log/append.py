"""A file that lines are appended to, whole ones only, by one writer at a time, and that never fails its caller."""

import os
import stat
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from eigenstep.errors import BadFile
from eigenstep.files import refuse_no_path, shown

try:
    import fcntl
except ImportError:  # Windows has no advisory locks: two writers are not told apart there
    fcntl = None  # type: ignore[assignment]

MOST = 10_000  # lines that wait for a disk, some megabytes; then the oldest go, and the file says how many


class Appended:
    """Lines for a file: its first line if it is new, else what follows its last whole line.

    The path is fixed when it is opened, whatever the working directory becomes. A lock keeps a second writer out, in
    this process or in another, until `close`; a killed process lets go of it. A write that the disk took in part is
    cut back to the last whole line; the rest waits for the next try. A file or a folder that was deleted is begun anew
    with its first line, once its folder is there again.
    whole: the bytes up to the end of the last whole line of a file that is not empty; raises BadFile for a foreign one.

    Opening raises BadFile where the path cannot be written or another writer holds it; nothing raises later.
    """

    def __init__(self, path: str | os.PathLike[str], first: str, whole: Callable[[Path], int]) -> None:
        refuse_no_path(path)
        try:
            self.path = Path(os.path.abspath(path))
            self._first, self._whole_of = first, whole
            self._waiting: list[str] = []
            self._lost = 0
            self._fd: int | None = None
            self._end = 0  # bytes of whole lines
            self._begin = ""  # what must stand before the next line: the first one, or the end of the last
            new = not os.path.lexists(self.path)
            try:
                self._put(self._open())
            except OSError:
                self._leave()
                if new:
                    self.path.unlink(missing_ok=True)
                raise
        except (OSError, ValueError) as error:
            if isinstance(error, BadFile):
                raise
            raise BadFile(
                f"{shown(path)}: cannot be written ({getattr(error, 'strerror', None) or error}); choose a folder that "
                "exists, is writable and has room"
            ) from error
        _ALL.add(self)

    def add(self, line: str) -> None:
        """Let a line wait for the next `flush`."""
        self._waiting.append(line)
        if len(self._waiting) > MOST:
            del self._waiting[0]
            self._lost += 1

    def flush(self) -> str | None:
        """Write what waits; return what is in the way, if anything is."""
        if not self._waiting:
            return None
        try:
            fd = self._in_place()
            self._put(self._open() if fd is None else fd)
        except (OSError, BadFile) as error:
            return getattr(error, "strerror", None) or str(error)
        return None

    def close(self) -> str | None:
        """Flush, and let another writer have the file; a later line opens it again."""
        trouble = self.flush()
        self._leave()
        return trouble

    def forget(self) -> None:
        """In a forked child: neither what waits nor the lock are its own."""
        self._waiting.clear()
        self._leave()

    def _open(self) -> int:
        """Open (what was open is let go), lock and find the end of the last whole line; return the descriptor."""
        self._leave()
        self._fd = fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        if not _regular(fd):
            self._begin = f"{self._first}\n"
            return fd
        if fcntl is not None:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                self._leave()
                raise BadFile(
                    f"{shown(self.path)}: another monitor is writing to this log; give this one a log of its own, or "
                    "close() the other first"
                ) from error
            except OSError:
                pass  # a file system without locks
        try:
            self._end = self._whole_of(self.path) if os.fstat(fd).st_size else 0
        except BadFile:
            self._leave()
            raise
        closed = not self._end or os.pread(fd, 1, self._end - 1) == b"\n"
        self._begin = f"{self._first}\n" if not self._end else "" if closed else "\n"
        return fd

    def _put(self, fd: int) -> None:
        """Write everything, whole lines only; what the disk did not take keeps waiting."""
        lost = f'{{"note":"{self._lost} records are lost here: the disk took none"}}\n' * bool(self._lost)
        heads = bool(self._begin) + bool(lost)
        data = (self._begin + lost + "".join(f"{line}\n" for line in self._waiting)).encode()
        if regular := _regular(fd):
            os.ftruncate(fd, self._end)  # what an earlier write left of a line
            os.lseek(fd, self._end, os.SEEK_SET)
        done = 0
        try:
            while done < len(data):
                done += os.write(fd, data[done:])
        finally:
            kept = data.rfind(b"\n", 0, done) + 1
            lines = data.count(b"\n", 0, kept)
            if lines:
                self._begin = ""
            if lines >= heads:
                self._lost = 0
                del self._waiting[: lines - heads]
            self._end += kept
            if kept < done and regular:
                with suppress(OSError):
                    os.ftruncate(fd, self._end)

    def _in_place(self) -> int | None:
        """The open file's descriptor, if it is still the one at the path, as long as it was."""
        if self._fd is None:
            return None
        try:
            here, there = os.stat(self.path), os.fstat(self._fd)
        except FileNotFoundError:
            return None
        whole = there.st_size >= self._end or not stat.S_ISREG(there.st_mode)
        return self._fd if os.path.samestat(here, there) and whole else None

    def _leave(self) -> None:
        if self._fd is not None:
            with suppress(OSError):
                os.close(self._fd)
        self._fd = None


def _regular(fd: int) -> bool:
    return stat.S_ISREG(os.fstat(fd).st_mode)


def _forget_all() -> None:
    for file in list(_ALL):
        file.forget()


_ALL: "weakref.WeakSet[Appended]" = weakref.WeakSet()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
