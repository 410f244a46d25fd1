"""Run the benchmarks, all or those named, and write benchmarks/RESULTS.md: python -m benchmarks [NAME...]."""

import importlib
import platform
import sys
from pathlib import Path

import torch

NAMES = (
    "simulation",
    "optimizer_step",
    "rivals_products",
    "rivals_eigenvalues",
    "rivals_density",
    "rivals_growth",
    "explorer",
    "monitor",
    "rescue",
    "diagnosis",
    "advice",
)
RESULTS = Path(__file__).with_name("RESULTS.md")


def table(header: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def section(name: str) -> str:
    """Run one benchmark; its title and table as Markdown."""
    module = importlib.import_module(f"benchmarks.{name}")
    print(f"{name} ...", flush=True)
    return f"## {module.TITLE}\n\n`python -m benchmarks {name}`\n\n{table(*module.run())}\n"


def keep(name: str, new: str) -> None:
    """Put one benchmark's section into the file, and leave the others as they are there now."""
    old = RESULTS.read_text(encoding="utf-8").split("\n## ")[1:] if RESULTS.exists() else []
    kept = {other: "## " + part for other in NAMES for part in old if f"benchmarks {other}`" in part} | {name: new}
    head = (
        f"# Benchmarks\n\nMedians of interleaved runs, single thread; {platform.machine()}, Python "
        f"{platform.python_version()}, torch {torch.__version__}. Made by `make bench`.\n"
    )
    text = "\n".join([head, *(kept[other].rstrip() + "\n" for other in NAMES if other in kept)])
    RESULTS.write_text(text, encoding="utf-8")


def main(names: list[str]) -> None:
    """Run the benchmarks named and write each one's section as soon as it is measured."""
    chosen = names or list(NAMES)
    unknown = set(chosen) - set(NAMES)
    if unknown:
        raise SystemExit(f"no benchmark {sorted(unknown)}; there are {', '.join(NAMES)}")
    torch.set_num_threads(1)
    for name in chosen:
        keep(name, section(name))
    print(RESULTS.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main(sys.argv[1:])
