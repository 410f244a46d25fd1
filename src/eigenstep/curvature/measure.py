"""`measure`: eigenvalues of a model's curvature, or of any operator, with bounds and how certain they are."""

import platform
import time
from contextlib import AbstractContextManager
from functools import cache
from importlib.metadata import version
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from eigenstep.curvature.checkpoint import Checkpoint
from eigenstep.curvature.krylov import Ritz
from eigenstep.curvature.lanczos import Aim, LanczosRun, Which, begin, random_start_excess
from eigenstep.curvature.operators.ggn import GGNOperator
from eigenstep.curvature.operators.hessian import HessianOperator, Method
from eigenstep.curvature.operators.operator import Operator, as_operator
from eigenstep.curvature.operators.preconditioned import ScaledOperator, unit_of
from eigenstep.curvature.result import Clock, Measurement
from eigenstep.errors import InvalidValue, UnknownName, refuse_seed
from eigenstep.objective.memory import free_bytes, refuse_if_too_much
from eigenstep.objective.objective import Objective
from eigenstep.objective.world import own_device
from eigenstep.progress import PRODUCT, Task, Watch, task
from eigenstep.spectrum import Covers

Curvature = Literal["hessian", "ggn"]
SHORTER = "samples= on Objective, quick=True, or a larger tol="
BASIS = 1e9  # bytes of basis vectors held unless asked otherwise, or a quarter of what is free


def measure(
    source: Any,
    top: int = 1,
    which: Which = "largest",
    *,
    tol: float = 1e-2,
    quick: bool = False,
    confirm: int = 5,
    vectors: bool = False,
    start: Tensor | Measurement | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    curvature: Curvature = "hessian",
    method: Method = "auto",
    seed: int = 0,
    max_products: int = 1000,
    basis: int | None = None,
    progress: Watch | bool | None = None,
    checkpoint: str | None = None,
) -> Measurement:
    """Return the `top` eigenvalues of an Objective's curvature, or of any operator, certified to `tol`.

    source: an Objective, or what `as_operator` takes. which: 'largest' by value, 'smallest', 'ends' (`top` at each), or
    'magnitude'. Values come largest first. tol: |A v - value v| <= tol * max(|value|, 1e-3 |A|). Lanczos with two-pass
    reorthogonalisation and thick restarts, from a random start (`seed`).
    Extremality (that they are the largest): after convergence, `confirm` more products must leave every value in place
    (to tol / 200); where several values are wanted, or with a warm `start`, a fresh random start in the rest of the
    space must show nothing new. quick=True drops this, and the result says so.
    start: eigenvectors (k, n) or an earlier measurement with vectors: a refresh then takes some 2 products (quick), or
    7 if the earlier one is certified, 5 of them from a fresh random start. optimizer: then the operator is P^-1/2 (H +
    wI) P^-1/2 with its live second moments. curvature: 'hessian' or 'ggn'. method: how products are made, see
    HessianOperator. basis: the most vectors held (default 1 GB's worth, at least 2 top + 4); provenance states it, in
    vectors and MB. progress: None shows long work on a terminal and in
    Jupyter, True any work, anywhere, False none; or a function of a Progress. checkpoint: a file to write now and
    then, and to go on from. Ctrl-C returns what has converged so far, flagged; a second one is not caught.

    Raises InvalidValue or UnknownName for arguments that cannot be, and what the Objective raises.
    Source: Parlett 1998, The Symmetric Eigenvalue Problem; Wu and Simon 2000 (thick restarts); Kuczynski and
    Wozniakowski 1992.

    >>> result = measure(torch.diag(torch.tensor([1.0, 4.0, -9.0], dtype=torch.float64)))
    >>> round(result.largest, 6), result.certified
    (4.0, True)
    """
    aim = Aim(top, which, tol, confirm, quick, max_products)
    refuse_seed("measure", seed)
    began = time.perf_counter()
    if optimizer is not None and not isinstance(source, Objective):
        raise InvalidValue("measure: optimizer= needs an Objective, whose parameters it holds")
    with task("measure", progress, SHORTER) as work, working(source):
        work.plan(PRODUCT * aim.expected, f"some {aim.expected} products assumed")
        operator = operator_of(source, curvature=curvature, method=method, optimizer=optimizer)
        if aim.count > operator.size:
            raise InvalidValue(f"measure: {aim.count} eigenvalues were asked for, the operator has {operator.size}")
        expected = min(aim.expected, operator.size)
        work.plan(PRODUCT * expected, f"some {expected} products assumed")
        capacity = _capacity(operator, aim, basis)
        inherited = isinstance(start, Measurement) and _known(start, operator, which)
        search = begin(operator, aim, seed=seed, capacity=capacity, start=_start(operator, start), inherited=inherited)
        saver = Checkpoint(checkpoint, operator, aim, seed) if checkpoint is not None else None
        if saver is not None:
            saver.resume(search)
        ritz, interrupted = _run(search, work, saver)
        return _result(source, search, ritz, interrupted, seed, vectors, time.perf_counter() - began)


def operator_of(
    source: Any,
    *,
    curvature: Curvature = "hessian",
    method: Method = "auto",
    optimizer: torch.optim.Optimizer | None = None,
) -> Operator:
    """Return the operator that `measure` would work on; an Objective's works inside `objective.session()`."""
    if curvature not in get_args(Curvature):
        raise UnknownName.among("measure: curvature", str(curvature), get_args(Curvature))
    if not isinstance(source, Objective):
        return as_operator(source)
    inner = HessianOperator(source, method) if curvature == "hessian" else GGNOperator(source)
    if optimizer is None:
        return inner
    unit = unit_of(source, optimizer)
    return inner if unit.plain else ScaledOperator(inner, unit)


def notes_of(source: Any) -> tuple[str, ...]:
    """What an Objective has to say to the reader of a result; nothing of other sources."""
    return source.notes if isinstance(source, Objective) else ()


def working(source: Any) -> AbstractContextManager[None]:
    """What to enter around the use of a source's operator: an Objective's session, else nothing."""
    return source.session() if isinstance(source, Objective) else own_device()


def _capacity(operator: Operator, aim: Aim, basis: int | None) -> int:
    """How many basis vectors to hold; InvalidValue when the fewest possible do not fit."""
    each = operator.size * torch.finfo(operator.dtype).bits / 8
    least = 2 * aim.count + 4
    free = free_bytes(operator.device)
    if basis is not None:
        if basis < least:
            raise InvalidValue(
                f"measure: basis={basis} is too small for {aim.count} eigenvalues; at least {least} is needed"
            )
        capacity = basis
    else:
        capacity = max(least, min(int(min(BASIS, free / 4) / each), max(64, 6 * aim.count)))
    capacity = min(capacity, operator.size)
    refuse_if_too_much(
        each * (capacity + 3),
        free,
        f"a basis of {capacity} vectors",
        "ask for fewer eigenvalues, or give a smaller basis=",
    )
    return capacity


def _start(operator: Operator, start: Tensor | Measurement | None) -> Tensor | None:
    if start is None:
        return None
    rows = start.vectors if isinstance(start, Measurement) else _rows(torch.as_tensor(start))
    if rows is None:
        raise InvalidValue("measure: start holds no vectors; measure with vectors=True first")
    if rows.shape[-1] != operator.size:
        rows = operator.restrict(rows)
    if rows.dim() != 2 or rows.shape[1] != operator.size or not bool(rows.isfinite().all()):
        raise InvalidValue(f"measure: start has shape {tuple(rows.shape)}; finite (k, {operator.size}) is needed")
    return rows.detach()


def _known(start: Measurement, operator: Operator, which: Which) -> bool:
    """Whether an earlier measurement certified what is asked for now."""
    same = start.operator == operator.kind and which != "magnitude" and start.covers == _covers(which, start.values)
    return start.certified and same


def _rows(given: Tensor) -> Tensor:
    return given[None] if given.dim() == 1 else given


def _run(search: LanczosRun, work: Task, saver: Checkpoint | None) -> tuple[Ritz, bool]:
    """Step until done; on Ctrl-C return what there is, unless another call made this one: it is passed on then."""
    clock = Clock(search.aim.tol, search.aim.confirm)
    ritz = search.krylov.ritz() if search.krylov.m else None
    try:
        while ritz is None or (search.phase != "done" and search.krylov.products < search.aim.max_products):
            ritz = search.step()
            work.tell(**clock.judge(search.history, search.phase, search.steady))
            if saver is not None:
                saver.now_and_then(search)
    except KeyboardInterrupt:
        if saver is not None and search.whole:
            saver.write(search)
        if ritz is None or not search.whole or not work.outermost:
            raise
        return search.krylov.ritz(), True
    if saver is not None:
        saver.write(search)
    return ritz, False


def _result(
    source: Any, search: LanczosRun, ritz: Ritz, interrupted: bool, seed: int, vectors: bool, seconds: float
) -> Measurement:
    """Put the answer together, with everything that says how certain it is."""
    aim, krylov = search.aim, search.krylov
    operator = krylov.operator
    wanted = search.wanted(ritz)
    if interrupted:
        near = [i for i in wanted if search.within_one(ritz, i)]
        wanted = near or wanted
    values = ritz.values[wanted]
    held = krylov.vectors(ritz.mix[:, wanted])
    residuals = ritz.residuals[wanted] + torch.tensor([operator.error(v) for v in held], dtype=torch.float64)
    done = search.phase == "done" and not interrupted
    converged = done and bool((residuals <= aim.goal(values, krylov.scale)).all())
    certified = converged and (not aim.quick or krylov.complete) and not operator.surrogate
    bounds = residuals
    if certified and not krylov.complete:
        bounds = torch.maximum(residuals, aim.tol * values.abs())
    notes: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    shapes: tuple[tuple[int, ...], ...] = ()
    if isinstance(source, Objective):
        notes, names, shapes = source.notes, source.names, tuple(tuple(p.shape) for p in source.params)
    notes += tuple(operator.notes())
    if krylov.mismatch**0.5 > aim.tol * krylov.scale:
        notes += ("products are neither symmetric nor repeatable to the tolerance: a noisy loss, or wrong derivatives",)
    provenance: dict[str, Any] = {
        **measured_by(source, operator, seed),
        "method": "Lanczos, thick restarts",
        "products": krylov.products,
        "seconds": seconds,
        "restarts": search.restarts,
        "basis_vectors": krylov.capacity,
        "basis_MB": round(krylov.capacity * operator.size * torch.finfo(operator.dtype).bits / 8e6, 3),
        "tol": aim.tol,
        "residuals": residuals.tolist(),
        "converged": converged,
        "certified": certified,
        "interrupted": interrupted,
        "identity": search.evidence(certified),
        "random_start_excess": None if search.warm else random_start_excess(operator.size, search.first_chain),
    }
    everything = krylov.complete and len(wanted) == operator.size
    return Measurement(
        values=values,
        bounds=bounds,
        dimension=operator.size,
        covers="all" if everything else _covers(aim.which, values),
        operator=operator.kind,
        preconditioner=operator.preconditioner,
        provenance=provenance,
        residuals=residuals,
        vectors=operator.lift(held) if vectors else None,
        directions=operator.directions(held) if vectors else None,
        names=names,
        shapes=shapes,
        notes=notes,
    )


def measured_by(source: Any, operator: Operator, seed: int) -> dict[str, Any]:
    """Versions, seed, dtype, data and how the products were made, for a result's provenance."""
    header: dict[str, Any] = {
        "eigenstep": _version(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "seed": seed,
        "dtype": str(operator.dtype).removeprefix("torch."),
        **operator.provenance,
    }
    if isinstance(source, Objective):
        header |= {**data_of(source), "notes": [*source.notes, *operator.notes()]}
    return header


def data_of(objective: Objective) -> dict[str, Any]:
    """Which data an objective rests on, and how much of them, for a result's provenance."""
    batches = objective.batches
    return {"data": batches.digest, "samples": batches.intake.as_dict(), "mode": objective.mode}


@cache
def _version() -> str:
    """The version of this package; a search through the installed packages, a millisecond, so made once."""
    return version("eigenstep")


def _covers(which: Which, values: Tensor) -> Covers:
    """The part of the spectrum known: the largest by magnitude know an end if one of them lies on its side of zero."""
    if which == "magnitude":
        both = bool((values > 0).any()) and bool((values < 0).any())
        return "ends" if both else ("top" if bool((values > 0).any()) else "bottom")
    known: dict[Which, Covers] = {"largest": "top", "smallest": "bottom", "ends": "ends"}
    return known[which]
