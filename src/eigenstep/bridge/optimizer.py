"""`Optimizer`: any rule as a true torch.optim.Optimizer, driven by the rule's own step."""

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any, overload

import torch
from torch import Tensor

from eigenstep.bridge.settings import completed, hyperparameters, names_of, refuse_misspelt, rule_with
from eigenstep.errors import InvalidValue, Unsupported
from eigenstep.rules import Rule, State

# Elements stepped at a time: x, gradient, two moments and the step's temporaries then stay in a core's cache, where
# whole-tensor temporaries of millions of elements would be allocated afresh, and stream through memory, at each step.
CHUNK = 1 << 16


class Optimizer(torch.optim.Optimizer):
    """Train with any rule: a drop-in torch.optim.Optimizer whose update is `rule.step`, written nowhere else.

    `params` are parameters or param groups; a group may override the rule's hyperparameters by name. They live in
    `param_groups`, where torch's schedulers find them, and are checked again whenever one changes. The state is kept
    under torch's names, with the count of updates as `step`. A parameter without a gradient is skipped. As in torch,
    the parameters hold the rule's *stored* point (Nesterov's look-ahead); `iterates()` gives the other. Gradient
    descent, momentum and Nesterov are one class in torch, SGD, and here too: a schedule that cycles the momentum, or a
    loaded state that has one, turns one into the other.

    Raises InvalidValue for a hyperparameter out of range or batched, UnknownName for a group's key that looks like
    a misspelt hyperparameter, Unsupported for complex parameters and for sparse gradients. A refused step moves
    nothing.

    >>> from eigenstep.rules import HeavyBall
    >>> w = torch.nn.Parameter(torch.tensor([2.0]))
    >>> optimizer = Optimizer([w], HeavyBall(lr=0.5))
    >>> (w**2 / 2).sum().backward()
    >>> optimizer.step()
    >>> w.item(), optimizer.state[w]["step"]
    (1.0, 1)
    """

    def __init__(self, params: Iterable[Any], rule: Rule, *, maximize: bool = False) -> None:
        if not isinstance(rule, Rule):
            raise Unsupported(f"Optimizer: {rule!r} is no rule; give one such as eigenstep.Adam(lr=1e-3)")
        if isinstance(params, torch.nn.Module) or not isinstance(params, Iterable):
            what = type(params).__name__
            raise InvalidValue(
                f"Optimizer: {what} is no parameters; give model.parameters(), or a list of param groups"
            )
        self._rule = rule
        self._built: dict[int, tuple[list[Any], Rule]] = {}
        super().__init__(params, {**hyperparameters(rule), "maximize": maximize})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters; what it does not set is taken from the rule given at construction."""
        refuse_misspelt(self._rule, param_group)
        super().add_param_group({**param_group, **completed(self._rule, param_group, "Optimizer: ")})
        if any(p.is_complex() for p in self.param_groups[-1]["params"]):
            self.param_groups.pop()
            raise Unsupported(
                "Optimizer: complex parameters have no rule here; train torch.view_as_real(p), or use torch.optim"
            )

    def rules(self) -> tuple[Rule, ...]:
        """Return the rule of each param group, as its hyperparameters stand now."""
        return tuple(self._rule_at(i) for i in range(len(self.param_groups)))

    def iterates(self) -> dict[Tensor, Tensor]:
        """Return the method's iterate for each parameter: `rule.iterate` of the stored point, at the present lr.

        It is a copy of the parameter itself unless the rule stores a look-ahead point. Losses and radii that are to be
        compared with a prediction belong to the iterate; call it before a scheduler changes the lr.
        """
        found = {}
        with torch.no_grad():
            for rule, group in zip(self.rules(), self.param_groups, strict=True):
                for p in group["params"]:
                    state, _ = remembered(rule, p, self.state.get(p, {}))
                    found[p] = rule.iterate(p.detach().clone(), state)
        return found

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take one step; `closure`, if given, computes the loss and its gradients first, and its loss is returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.no_grad():
            for rule, p, grad in self._work():
                self._update(rule, p, grad)
        return loss

    def _work(self) -> list[tuple[Rule, Tensor, Tensor]]:
        """Everything that the step will do, so that what must be refused is refused before anything moves."""
        work = []
        for i, group in enumerate(self.param_groups):
            rule = self._rule_at(i)
            for p in group["params"]:
                grad = p.grad
                if grad is None:
                    continue
                if grad.layout != torch.strided:
                    raise Unsupported(
                        f"Optimizer: the gradient of a parameter of shape {tuple(p.shape)} is sparse; a rule steps "
                        "every coordinate: use sparse=False in the embedding, or torch.optim.SparseAdam"
                    )
                work.append((rule, p, -grad if group["maximize"] else grad))
        return work

    def _update(self, rule: Rule, p: Tensor, grad: Tensor) -> None:
        """Step one parameter, in chunks where the rule treats every element alike."""
        stored, buffer_names = self.state[p], rule.buffer_names
        names, n = buffer_names + rule.scale_names, len(buffer_names)
        try:
            memory, t = tuple([stored[name] for name in names]), int(stored["step"]) + 1
            carried = tuple([stored[name] for name in rule.carried_names])
        except KeyError:
            state, taken = remembered(rule, p, stored)
            memory, carried, t = state.buffers + state.scales, state.carried, taken + 1
            stored.update(zip(names, memory, strict=True))
        if p.numel() > CHUNK and rule.elementwise and all(tensor.is_contiguous() for tensor in (p, grad, *memory)):
            for x, g, *part in zip(*(tensor.view(-1).split(CHUNK) for tensor in (p, grad, *memory)), strict=True):
                new, state = rule.step(x, g, State(tuple(part[:n]), tuple(part[n:]), carried), t)
                for old, value in zip((x, *part), (new, *state.buffers, *state.scales), strict=True):
                    old.copy_(value)
        else:
            new, state = rule.step(p, grad, State(memory[:n], memory[n:], carried), t)
            fresh = state.buffers + state.scales
            if not rule.elementwise:
                fresh = tuple(_apart(value, (p, grad, new)) for value in fresh)
            stored.update(zip(names, fresh, strict=True))
            p.copy_(new)
        if state.carried:  # as tensors: torch.compile takes a number kept beside tensors for a constant
            stored.update(zip(rule.carried_names, map(torch.as_tensor, state.carried), strict=True))
        stored["step"] = max(t, int(stored.get("step", 0)) + 1)

    def _rule_at(self, i: int) -> Rule:
        """The rule of group i, built and checked anew only when a hyperparameter has changed."""
        group = self.param_groups[i]
        try:
            values = [group[name] for name in names_of(self._rule)]
        except KeyError as missing:
            raise InvalidValue(
                f"Optimizer: param group {i} has lost its hyperparameter {missing}; set it again"
            ) from None
        built = self._built.get(i)
        if built is None or not _same(values, built[0]):
            rule = rule_with(self._rule, group, "Optimizer: ")
            self._built[i] = built = (copy.deepcopy(values), rule)
        return built[1]

    def __getstate__(self) -> dict[str, Any]:
        """What copies and pickles carry: torch's own, and the rule."""
        return {**super().__getstate__(), "_rule": self._rule}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take a copied or loaded state; a group saved by torch's twin lacks the fields that torch does not have."""
        super().__setstate__(state)
        self._built = {}
        for group in self.param_groups:
            for name, value in {**hyperparameters(self._rule), "maximize": False}.items():
                group.setdefault(name, value)


def remembered(rule: Rule, p: Tensor, stored: Mapping[str, Any]) -> tuple[State, int]:
    """Return what is stored for a parameter as (state, updates taken); what is missing is as before the first.

    torch.optim.SGD counts no updates: there t is 1 as soon as a momentum buffer exists, else 0. Its rules depend on t
    only through the first update, which torch does not dampen. A rule that has no memory yet where it keeps one is
    before its first update, however many another has taken (a momentum that a schedule has raised from 0).
    """
    start = rule.init(p.detach())
    buffers = tuple(_or(stored.get(name), zero) for name, zero in zip(rule.buffer_names, start.buffers, strict=True))
    scales = tuple(_or(stored.get(name), zero) for name, zero in zip(rule.scale_names, start.scales, strict=True))
    names = rule.buffer_names + rule.scale_names
    begun = any(stored.get(name) is not None for name in names)
    taken = int(stored.get("step", begun)) if begun or not names else 0
    carried = tuple(stored[name] for name in rule.carried_names if name in stored)
    if not taken:  # what is carried is a product; torch begins it in this dtype, and rounds it at each update
        dtype = torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32
        carried = tuple(torch.ones((), dtype=dtype) for _ in rule.carried_names)
    return State(buffers, scales, carried), taken


def _or(found: Tensor | None, default: Tensor) -> Tensor:
    return default if found is None else found


def _same(new: list[Any], old: list[Any]) -> bool:
    """Whether the values are unchanged; a tensor of lanes, which has no single answer, counts as a change."""
    try:
        return bool(new == old)
    except (RuntimeError, ValueError):
        return False


def _apart(value: Tensor, others: tuple[Tensor, ...]) -> Tensor:
    """Copy a tensor to be remembered if it shares memory with those that others will write to: a rule may keep them."""
    held = {other.untyped_storage().data_ptr() for other in others}
    return value.clone() if value.untyped_storage().data_ptr() in held else value
