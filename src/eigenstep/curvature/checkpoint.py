"""A search written to a file now and then, so that a killed run goes on where it was."""

import base64
import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eigenstep.curvature.lanczos import Aim, LanczosRun
from eigenstep.curvature.operators.operator import Operator
from eigenstep.errors import BadFile
from eigenstep.files import read_envelope, refuse_unwritable, shown, write_envelope
from eigenstep.objective.checks import announce
from eigenstep.objective.objective import Objective

EVERY = 60.0  # seconds between two writings
KIND = "lanczos-checkpoint"
_STATE = ("problem", "rows", "pending", "T", "S", "generator", "reference", "krylov", "search", "history")
_SEARCH = ("warm", "inherited", "phase", "steady", "restarts", "looked_again", "first_chain")


class Checkpoint:
    """Writes and reads a LanczosRun under one path; refuses another problem's file, and a path that cannot be written.

    A disk that is full later costs a warning, not the search.
    """

    def __init__(self, path: str | os.PathLike[str], operator: Operator, aim: Aim, seed: int) -> None:
        self.path, self.last = refuse_unwritable(os.path.abspath(path)), time.monotonic()
        self.problem = {
            "size": operator.size,
            "dtype": str(operator.dtype),
            "seed": seed,
            "point": fingerprint(operator),
        }
        self.problem |= {k: v for k, v in asdict(aim).items() if k != "max_products"}

    def now_and_then(self, search: LanczosRun) -> None:
        """Write if the last time is long ago."""
        if time.monotonic() - self.last >= EVERY:
            self.write(search)

    def write(self, search: LanczosRun) -> None:
        """Write the search as it stands between two products."""
        k = search.krylov
        state = {
            "problem": self.problem,
            "rows": _text(k.rows[: k.m]),
            "pending": [_text(q) for q in k.pending],
            "T": _text(k.T),
            "S": _text(k.S),
            "generator": _text(k.generator.get_state()),
            "reference": None if search.reference is None else _text(search.reference),
            "krylov": {name: getattr(k, name) for name in ("mismatch", "scale", "products")},
            "search": {name: getattr(search, name) for name in _SEARCH},
            "history": search.history,
        }
        self.last = time.monotonic()
        try:
            write_envelope(self.path, KIND, {**state, "digests": _digests(state)})
        except BadFile as error:
            announce(f"measure goes on without a checkpoint: {error}")

    def resume(self, search: LanczosRun) -> None:
        """Put the search where the file left it; nothing if there is no file. Raises BadFile for another problem's."""
        if not os.path.exists(self.path):
            return
        state = read_envelope(self.path, KIND)
        digests = state.get("digests")
        if not isinstance(digests, dict):
            raise BadFile(f"{shown(self.path)}: lacks its 'digests'; delete it to begin anew")
        for name, digest in _digests({name: state.get(name) for name in _STATE}).items():
            if digests.get(name) != digest:
                raise BadFile(f"{shown(self.path)}: {name!r} is damaged; delete the file to begin anew")
        if state["problem"] != self.problem:
            raise BadFile(
                f"{shown(self.path)}: was written for another problem (model, data, seed or what was asked differ); "
                "choose another checkpoint= or delete it"
            )
        k = search.krylov
        rows = _tensor(state["rows"])
        if rows.shape[0] > k.capacity:
            raise BadFile(
                f"{shown(self.path)}: holds {rows.shape[0]} basis vectors; give basis={rows.shape[0]} or more to go on"
            )
        k.rows[: rows.shape[0]] = rows
        k.pending = [_tensor(q).to(k.like) for q in state["pending"]]
        k.T, k.S = _tensor(state["T"]), _tensor(state["S"])
        k.generator.set_state(_tensor(state["generator"]))
        search.reference = None if state["reference"] is None else _tensor(state["reference"])
        for name, value in state["krylov"].items():
            setattr(k, name, value)
        for name, value in state["search"].items():
            setattr(search, name, value)
        search.history = [(int(n), float(r)) for n, r in state["history"]]


def fingerprint(operator: Operator) -> str:
    """A hash of what decides the operator: its parameters and data, or its product with a fixed vector."""
    inner = getattr(operator, "inner", operator)
    digest = hashlib.sha256(operator.kind.encode())
    objective = getattr(inner, "objective", None)
    if isinstance(objective, Objective):
        for p in objective.params:
            digest.update(_bytes(p.detach()))
        digest.update("".join(objective.batches.digests).encode())
        if inner is not operator:
            digest.update(_bytes(getattr(operator, "scale")))  # noqa: B009 (only the scaled operator has one)
    else:
        fixed = torch.linspace(-1, 1, operator.size, dtype=torch.float64).cos().to(operator.device, operator.dtype)
        digest.update(_bytes(operator.matvec(fixed)))
    return digest.hexdigest()[:16]


def _digests(state: Mapping[str, Any]) -> dict[str, str]:
    """A hash of each part of the state, so that a damaged one is told before the search takes it in."""
    return {name: hashlib.sha256(json.dumps(part).encode()).hexdigest()[:16] for name, part in state.items()}


def _bytes(tensor: Tensor) -> bytes:
    return tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _text(tensor: Tensor) -> dict[str, Any]:
    kind = str(tensor.dtype).removeprefix("torch.")
    return {"dtype": kind, "shape": list(tensor.shape), "base64": base64.b64encode(_bytes(tensor)).decode("ascii")}


def _tensor(text: dict[str, Any]) -> Tensor:
    raw = np.frombuffer(base64.b64decode(text["base64"]), dtype=np.uint8).copy()
    return torch.from_numpy(raw).view(getattr(torch, text["dtype"])).reshape(text["shape"])
