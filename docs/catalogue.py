"""Write what the explorer repeats of Python, src/eigenstep/page/static/catalogue.js: python docs/catalogue.py."""

import inspect
import json
import math
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import torch

from eigenstep.bridge import rule_of
from eigenstep.errors import InvalidValue, Unsupported
from eigenstep.files import FORMAT, VERSION
from eigenstep.page import document
from eigenstep.page.report import INSTEAD, KINDS, MOST
from eigenstep.rules import RULES, Rule
from eigenstep.rules.checks import RANGES
from eigenstep.spectrum import WHAT, Covers

FILE = Path(document.__file__).parent / "static" / "catalogue.js"
HEAD = "// What the page repeats of Python. Written by `python docs/catalogue.py`: change it there, not here.\n"
WIDTH = 120
LAST = ("weight_decay", "decoupled", "eps", "delta")  # of the fields: what a reader of a method asks for last
# torch's settings that make another rule of a class than its defaults do; the heavy ball is torch's momentum while the
# lr is constant, which nothing in torch can tell.
SETTINGS: list[tuple[type[torch.optim.Optimizer], dict[str, Any]]] = [
    (torch.optim.SGD, {"momentum": 0.9}),
    (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
]
RENAMED = {"decoupled": "decoupled_weight_decay"}  # where torch's class has it
ALIKE = {"heavy-ball": ("momentum", "the article's heavy ball, as long as the lr is constant")}


def flat(name: str, value: Any) -> dict[str, Any]:
    """A hyperparameter under the page's names: a pair of betas as two."""
    return {"beta1": value[0], "beta2": value[1]} if name == "betas" else {name: value}


def defaults(kind: type[Rule]) -> dict[str, Any]:
    """A rule's hyperparameters with their defaults, those that it cannot have left out."""
    rule, found = kind(), dict[str, Any]()
    for field in fields(kind):
        try:
            kind(**{field.name: 0.5 if field.name == "delta" else getattr(rule, field.name)})
        except InvalidValue:
            continue  # Adamax has no delta
        found |= flat(field.name, getattr(rule, field.name))
    return dict(
        sorted(found.items(), key=lambda item: (item[0] in LAST, LAST.index(item[0]) if item[0] in LAST else 0))
    )


def torch_twins() -> Iterator[tuple[type[Rule], dict[str, Any]]]:
    """Each rule that torch.optim has, and what to write for it; read through `rule_of` from the optimizers."""
    kinds = [kind for _, kind in inspect.getmembers(torch.optim, inspect.isclass)]
    plain: list[tuple[Any, dict[str, Any]]] = [(kind, {}) for kind in kinds if issubclass(kind, torch.optim.Optimizer)]
    for kind, settings in [*plain, *SETTINGS]:
        arguments = inspect.signature(kind).parameters
        try:
            (group,) = rule_of(kind([torch.nn.Parameter(torch.zeros(1, 1))], lr=0.1, **settings))
        except (Unsupported, TypeError):
            continue  # no rule here describes it
        told, fixed, renamed = dict[str, Any](), dict[str, Any](), dict[str, str]()
        for name in defaults(type(group.rule)):
            pair = name.rstrip("12") + "s" if name.startswith("beta") else name
            theirs = pair if pair in arguments else RENAMED.get(name, name)
            if theirs not in arguments:
                fixed[name] = getattr(group.rule, name)
                continue
            told[name] = flat(theirs, arguments[theirs].default).get(name, arguments[theirs].default)
            renamed |= {name: theirs} if theirs not in (name, pair) else {}
        always = {name: value for name, value in settings.items() if name not in told}
        twin = {"name": kind.__name__, "defaults": told, "fixed": fixed, "renamed": renamed, "always": always}
        yield type(group.rule), twin


def catalogue() -> dict[str, Any]:
    """Everything, as plain data under the names that the page imports."""
    twins = {kind.name: twin for kind, twin in torch_twins()}
    twins |= {name: {**twins[other], "note": note} for name, (other, note) in ALIKE.items()}
    rules: dict[str, dict[str, Any]] = {
        name: {"python": kind.__name__, "fields": defaults(kind), "torch": twins.get(name)}
        for name, kind in RULES.items()
    }
    numbers = {name for rule in rules.values() for name, value in rule["fields"].items() if not isinstance(value, bool)}
    ends = {"beta1": "betas", "beta2": "betas"}
    ranges = {name: RANGES.get(ends.get(name, name), (-math.inf, math.inf)) for name in sorted(numbers)}
    return {
        "CATALOGUE": rules,
        "HALF_OPEN": {name: [None if math.isinf(end) else end for end in pair] for name, pair in ranges.items()},
        "FILES": {"format": FORMAT, "version": VERSION, "most": MOST, "kinds": list(KINDS), "instead": INSTEAD},
        "COVERS": list(get_args(Covers)),
        "OPERATORS": WHAT,
    }


def script() -> str:
    """The module, as prettier would have it."""
    return HEAD + "".join(f"\nexport const {name} = {written(value, 0, 16)};\n" for name, value in catalogue().items())


def written(value: Any, indent: int, before: int) -> str:
    """A value as JavaScript: on one line where it fits, behind `before` characters, else one item a line."""
    if not isinstance(value, (dict, list)):
        text = json.dumps(int(value) if isinstance(value, float) and value.is_integer() else value)
        return (
            re.sub(r"e([-+]?)0*", lambda found: f"e{found[1].strip('+')}", text) if isinstance(value, float) else text
        )
    named = isinstance(value, dict)
    items = [(f"{_key(k)}: ", v) for k, v in value.items()] if isinstance(value, dict) else [("", v) for v in value]
    inside = ", ".join(key + written(item, indent, -(10**6)) for key, item in items)
    line = (f"{{ {inside} }}" if inside else "{}") if named else f"[{inside}]"
    if len(line) + indent + before < WIDTH:
        return line
    left, right = "{}" if named else "[]"
    rows = [f"{' ' * (indent + 2)}{k}{written(v, indent + 2, len(k) + 1)},\n" for k, v in items]
    return f"{left}\n{''.join(rows)}{' ' * indent}{right}"


def _key(name: str) -> str:
    return name if name.isidentifier() else json.dumps(name)


if __name__ == "__main__":
    FILE.write_text(script(), encoding="utf-8")
    print(f"{FILE}: {len(RULES)} rules")
