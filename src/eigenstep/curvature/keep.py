"""Leave what the user owns as it was: RNGs, modes, buffers, gradients; and put other tensors in a model's place."""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from eigenstep.curvature.parameters import parts_of
from eigenstep.errors import InvalidValue


def random_state() -> tuple[Any, ...]:
    """The states of torch's (all devices), NumPy's and Python's global generators."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), cuda  # noqa: NPY002 (the user's)


def set_random_state(state: tuple[Any, ...]) -> None:
    """Give the global generators the states of `random_state` back."""
    python, numpy, cpu, cuda = state
    random.setstate(python)
    np.random.set_state(numpy)  # noqa: NPY002
    torch.set_rng_state(cpu)
    if cuda is not None:
        torch.cuda.set_rng_state_all(cuda)


@contextmanager
def same_random_state() -> Iterator[None]:
    """Give the global generators' states back as they were, whatever happens inside."""
    state = random_state()
    try:
        yield
    finally:
        set_random_state(state)


def seed_all(seed: int) -> None:
    """Seed every global generator; only for use inside `same_random_state`."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.manual_seed(seed)


@contextmanager
def same_gradients(model: nn.Module) -> Iterator[None]:
    """Take every .grad away and bring it back untouched, so that a stray backward() inside fills nothing."""
    saved = [(p, p.grad) for p in model.parameters()]
    try:
        for p, _ in saved:
            p.grad = None
        yield
    finally:
        for p, grad in saved:
            p.grad = grad


@contextmanager
def same_attributes(model: nn.Module) -> Iterator[None]:
    """Put back what a forward pass sets on its modules: counters, caches, weights computed from others."""
    saved = [(m, dict(vars(m))) for m in model.modules()]
    try:
        yield
    finally:
        for module, before in saved:
            now = module.__dict__
            for key in now.keys() - before.keys():
                del now[key]
            for key, value in before.items():
                if now.get(key) is not value:
                    now[key] = value


@contextmanager
def same_parameters(model: nn.Module) -> Iterator[None]:
    """Undo, and refuse, what a loss does to the parameters in place."""
    saved = [(p, p._version, p.detach().clone()) for p in model.parameters()]
    changed = False
    try:
        yield
    finally:
        for p, version, copy in saved:
            if p._version != version or not torch.equal(p.detach(), copy):
                p.data.copy_(copy)
                changed = True
    if changed:
        raise InvalidValue("Objective: the loss changes the model's parameters in place; it must only read them")


@contextmanager
def in_mode(model: nn.Module, mode: str) -> Iterator[None]:
    """Run in 'eval', or in 'train': then a model that is training now keeps each module's own mode."""
    saved = [(m, m.training) for m in model.modules()]
    try:
        for part in parts_of(model):
            if mode == "eval":
                part.eval()
            elif not part.training:
                part.train()
        yield
    finally:
        for m, training in saved:
            m.training = training


@contextmanager
def replaced(model: nn.Module, tensors: Mapping[int, Tensor]) -> Iterator[None]:
    """Put `tensors[id(p)]` where the model holds parameter or buffer p; tied places alike, the originals untouched.

    Lists of parameters that modules keep beside their registered ones (torch's recurrent layers do) are exchanged too.
    """
    undo: list[tuple[Any, Any, Any]] = []
    try:
        for module in model.modules():
            for store in (module._parameters, module._buffers):
                for name, value in store.items():
                    if id(value) in tensors:
                        undo.append((store, name, value))
                        store[name] = tensors[id(value)]  # type: ignore[assignment]
            for name, value in list(vars(module).items()):
                if isinstance(value, list) and any(id(v) in tensors for v in value):
                    undo.append((module.__dict__, name, value))
                    module.__dict__[name] = [tensors.get(id(v), v) for v in value]
        yield
    finally:
        for store, name, value in reversed(undo):
            store[name] = value


def copied_buffers(model: nn.Module) -> dict[int, Tensor]:
    """A clone of every buffer, under the original's id: what a forward pass may write to."""
    return {id(b): b.clone() for b in model.buffers()}


@contextmanager
def uncompiled(model: nn.Module) -> Iterator[None]:
    """Run compiled models, and compiled parts, as the modules they are: torch.compile has no second derivatives."""
    if any(m._compiled_call_impl is not None or hasattr(m, "_orig_mod") for m in model.modules()):
        with torch.compiler.set_stance("force_eager"):
            yield
    else:
        yield
