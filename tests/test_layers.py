"""Who may import whom: the house of CONTRIBUTING.md, read from every import statement, nested ones included."""

import ast
from pathlib import Path

import eigenstep

GROUND = {"errors", "files", "lines", "html", "rules", "plain", "result", "spectrum", "draw", "progress", "hooks"}
MAY_IMPORT = {
    "errors": set(),
    "files": {"errors"},
    "html": {"files"},
    "lines": {"errors", "files"},
    "rules": {"errors"},
    "plain": {"errors", "files", "rules"},
    "result": {"errors", "files", "html", "plain"},
    "spectrum": {"errors", "files", "draw", "plain", "result"},
    "draw": {"errors", "files"},
    "progress": {"errors"},
    "hooks": set(),
    "bridge": {"errors", "hooks", "rules"},
    "theory": GROUND,
    "problems": GROUND,
    "simulation": GROUND | {"problems"},
    "objective": GROUND,
    "curvature": GROUND | {"bridge", "objective"},
    "stability": GROUND | {"bridge", "curvature", "objective", "theory"},
    "rehearsal": GROUND | {"bridge", "objective", "stability"},
    "diagnosis": GROUND | {"bridge", "curvature", "objective", "rehearsal", "stability", "theory"},
    "recommendation": GROUND | {"bridge", "curvature", "objective", "rehearsal", "stability"},
    "front": GROUND | {"bridge", "diagnosis", "objective", "recommendation", "rehearsal"},
    "verify": GROUND | {"bridge", "problems", "simulation", "theory"},
    "article": GROUND | {"problems", "simulation", "theory"},
    "training": GROUND | {"bridge", "objective", "stability"},
    "page": {"errors", "files", "lines"},
}
ANYTHING = {"cli", "saved", "__init__", "__main__"}


def imports(path: Path) -> set[str]:
    """Every module of the package that a file imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write imports in full"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("eigenstep.")}
    return found


def test_imports_run_one_way() -> None:
    root = Path(eigenstep.__file__).parent
    for path in root.rglob("*.py"):
        part = path.relative_to(root).parts[0].removesuffix(".py")
        if part not in ANYTHING:
            stray = imports(path) - MAY_IMPORT[part] - {part}
            assert not stray, f"{path.relative_to(root)} imports {stray}; {part} may import {MAY_IMPORT[part]}"


def test_the_table_names_every_part() -> None:
    root = Path(eigenstep.__file__).parent
    parts = {p.name.removesuffix(".py") for p in root.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    assert parts - ANYTHING == set(MAY_IMPORT)
