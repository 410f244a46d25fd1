"""Write docs/api.md: every public name with its line, and the public methods of the classes. Run it after a change."""

import inspect
from pathlib import Path
from typing import Any

import eigenstep as es

TARGET = Path(__file__).parent / "api.md"
HEAD = """# The public names

Written by `python docs/api.py` out of the docstrings; a test holds this page and the code together. Each name is
`eigenstep.<name>`; its docstring has the formula, the shapes, what is raised and an example: `help(eigenstep.measure)`.
"""


def text() -> str:
    """The page as the code stands, a section per part of the package."""
    parts: dict[str, list[str]] = {}
    for name in es.__all__:
        value = getattr(es, name)
        part = value.__module__.split(".")[1] if hasattr(value, "__module__") else "rules"
        parts.setdefault(part, []).extend(entry(name))
    sections = [line for part in sorted(parts) for line in (f"\n## {part}\n", *parts[part])]
    return "\n".join([HEAD.rstrip(), *sections, ""])


def entry(name: str) -> list[str]:
    """A name's line; under a class, a line for each public method or property that no listed base has."""
    value = getattr(es, name)
    if not inspect.isclass(value):
        line = first_line(value) if callable(value) else "The rules by their names on the command line."
        return [f"- **`{name}`**: {line}"]
    lines = [f"- **`{name}`**: {first_line(value)}"]
    if issubclass(value, BaseException):
        return lines
    for method in sorted(n for n in dir(value) if not n.startswith("_")):
        found = inspect.getattr_static(value, method)
        if doc := own_doc(value, method, found):
            lines.append(f"  - `.{method}{'' if isinstance(found, property) else '()'}`: {doc}")
    return lines


def own_doc(kind: type, method: str, found: Any) -> str | None:
    """The first line of a method or property; None for fields, torch's and Python's, and what a listed base tells."""
    home = next(base for base in kind.__mro__ if method in vars(base))
    told = any(base.__name__ in es.__all__ and hasattr(base, method) for base in kind.__mro__[1:])
    if told or not home.__module__.startswith("eigenstep."):
        return None
    plain = found.__func__ if isinstance(found, (classmethod, staticmethod)) else found
    if not (inspect.isfunction(plain) or isinstance(plain, property)):
        return None
    doc = inspect.getdoc(plain)
    return doc.splitlines()[0] if doc else None


def first_line(value: Any) -> str:
    """The first line of a docstring."""
    return (inspect.getdoc(value) or "").splitlines()[0]


if __name__ == "__main__":
    TARGET.write_text(text(), encoding="utf-8")
    print(f"wrote {TARGET}")
