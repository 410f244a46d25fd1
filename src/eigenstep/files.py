"""Files that are written whole or not at all."""

import os
from contextlib import suppress
from pathlib import Path

from eigenstep.errors import BadFile


def write_whole(path: str | os.PathLike[str], content: str | bytes) -> Path:
    """Write text (UTF-8, as it is) or bytes to a file by way of a hidden one beside it; return the path.

    Raises BadFile where that is not possible; nothing half-written is left, and an older file stays as it was.

    >>> import tempfile
    >>> write_whole(Path(tempfile.mkdtemp()) / "a.txt", "whole").read_text()
    'whole'
    """
    target = Path(path)
    unfinished = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        unfinished.write_bytes(content.encode() if isinstance(content, str) else content)
        unfinished.replace(target)
    except OSError as error:
        raise BadFile(
            f"{path}: cannot be written ({error.strerror or error}); choose a folder that exists and is writable"
        ) from error
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
    return target
