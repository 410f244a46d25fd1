"""Leave what the user owns as it was: RNGs, modes, buffers, gradients; and put other tensors in a model's place."""

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from eigenstep.errors import InvalidValue
from eigenstep.objective.contents import Contents
from eigenstep.objective.parameters import parts_of
from eigenstep.objective.undo import undone


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
    with undone(partial(set_random_state, random_state())):
        yield


def seed_all(seed: int) -> None:
    """Seed every global generator; only for use inside `same_random_state`."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.manual_seed(seed)


@contextmanager
def same_gradients(model: nn.Module) -> Iterator[None]:
    """Take every .grad away and bring it back untouched, so that a stray backward() inside fills nothing."""
    saved = [(p, p.grad) for p in model.parameters()]

    def put_back() -> None:
        for p, grad in saved:
            p.grad = grad

    with undone(put_back):
        for p, _ in saved:
            p.grad = None
        yield


@contextmanager
def same_contents(model: nn.Module) -> Iterator[None]:
    """Put back what a forward pass sets or changes on its modules: counters, caches, hooks, flags."""
    with undone(Contents(model).put_back):
        yield


@contextmanager
def same_parameters(model: nn.Module) -> Iterator[None]:
    """Undo, and refuse, what a loss does to the parameters in place."""
    saved = [(p, p._version, p.detach().clone()) for p in model.parameters()]
    changed: list[Tensor] = []

    def put_back() -> None:
        for p, version, copy in saved:
            if p._version != version or not torch.equal(p.detach(), copy):
                changed.append(p)
                p.data.copy_(copy)

    with undone(put_back):
        yield
    if changed:
        raise InvalidValue("Objective: the loss changes the model's parameters in place; it must only read them")


@contextmanager
def in_mode(model: nn.Module, mode: str) -> Iterator[None]:
    """Run in 'eval', or in 'train': then a model that is training now keeps each module's own mode."""
    saved = [(m, m.training) for m in model.modules()]

    def put_back() -> None:
        for m, training in saved:
            m.training = training

    with undone(put_back):
        for part in parts_of(model):
            if mode == "eval":
                part.eval()
            elif not part.training:
                part.train()
        yield


@contextmanager
def replaced(model: nn.Module, tensors: Mapping[int, Tensor]) -> Iterator[None]:
    """Put `tensors[id(p)]` where the model holds parameter or buffer p; tied places alike, the originals untouched.

    Lists of parameters that modules keep beside their registered ones (torch's recurrent layers do) are exchanged too.
    """
    changes: list[tuple[Any, Any, Any, Any]] = []
    for module in model.modules():
        for store in (module._parameters, module._buffers):
            changes += [(store, name, v, tensors[id(v)]) for name, v in store.items() if id(v) in tensors]
        for name, value in vars(module).items():
            if isinstance(value, list) and any(id(v) in tensors for v in value):
                changes.append((module.__dict__, name, value, [tensors.get(id(v), v) for v in value]))

    def put_back() -> None:
        for store, name, old, _ in changes:
            store[name] = old

    with undone(put_back):
        for store, name, _, new in changes:
            store[name] = new
        yield


def copied_buffers(model: nn.Module) -> dict[int, Tensor]:
    """A clone of every buffer, under the original's id: what a forward pass may write to."""
    return {id(b): b.clone() for b in model.buffers()}


@contextmanager
def set_to(things: Sequence[Any], name: str, value: Any) -> Iterator[None]:
    """Give some objects' attribute another value."""
    saved = [(thing, getattr(thing, name)) for thing in things]

    def put_back() -> None:
        for thing, old in saved:
            setattr(thing, name, old)

    with undone(put_back):
        for thing, _ in saved:
            setattr(thing, name, value)
        yield


@contextmanager
def without_gradient_hooks(model: nn.Module) -> Iterator[None]:
    """Take the hooks of gradients away, of parameters and of modules' backward passes: they are no part of a loss."""
    held = [(p, p._backward_hooks) for p in model.parameters() if p._backward_hooks]
    names = ("_backward_hooks", "_backward_pre_hooks")
    modules = [(m, n, getattr(m, n)) for m in model.modules() for n in names if getattr(m, n)]

    def put_back() -> None:
        for p, hooks in held:
            p._backward_hooks = hooks
        for module, name, hooks in modules:
            setattr(module, name, hooks)

    with undone(put_back):
        for p, _ in held:
            p._backward_hooks = None
        for module, name, hooks in modules:
            setattr(module, name, type(hooks)())
        yield
