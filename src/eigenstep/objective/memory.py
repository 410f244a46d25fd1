"""How much memory is free, and what will not fit, said in words before work starts."""

import math
import os
from pathlib import Path

import torch

from eigenstep.errors import InvalidValue


def free_bytes(device: torch.device) -> float:
    """Return the bytes free on a device, a container's limit heeded; 4 GB where the system does not say."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        known = [1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
        return min(known[0], _left_in_container())
    except (OSError, ValueError, IndexError):
        pass
    try:
        return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (OSError, ValueError, AttributeError):
        return 4e9


def _left_in_container() -> float:
    """What a container's memory limit leaves (cgroup v2); infinite where there is none."""
    try:
        limit, used = (Path(f"/sys/fs/cgroup/memory.{name}").read_text(encoding="ascii") for name in ("max", "current"))
        return float(limit) - float(used)
    except (OSError, ValueError):
        return math.inf


def in_words(count: float) -> str:
    """Return a number of bytes as '1.5 GB'.

    >>> in_words(1_500_000_000)
    '1.5 GB'
    """
    for unit in ("bytes", "KB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def refuse_if_too_much(needed: float, free: float, what: str, remedy: str) -> None:
    """Raise InvalidValue when `needed` bytes do not fit into `free`."""
    if needed > free:
        raise InvalidValue(f"{what} needs about {in_words(needed)} and {in_words(free)} are free: {remedy}")
