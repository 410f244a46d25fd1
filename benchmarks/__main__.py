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


def main(names: list[str]) -> None:
    """Write the sections of the benchmarks named, keeping those of the others."""
    chosen = names or list(NAMES)
    unknown = set(chosen) - set(NAMES)
    if unknown:
        raise SystemExit(f"no benchmark {sorted(unknown)}; there are {', '.join(NAMES)}")
    torch.set_num_threads(1)
    old = RESULTS.read_text(encoding="utf-8").split("\n## ")[1:] if RESULTS.exists() else []
    kept = {name: "## " + part for name in NAMES for part in old if f"benchmarks {name}`" in part}
    kept |= {name: section(name) for name in chosen}
    head = (
        f"# Benchmarks\n\nMedians of interleaved runs, single thread; {platform.machine()}, Python "
        f"{platform.python_version()}, torch {torch.__version__}. Made by `make bench`.\n"
    )
    text = "\n".join([head, *(kept[name].rstrip() + "\n" for name in NAMES if name in kept)])
    RESULTS.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main(sys.argv[1:])
