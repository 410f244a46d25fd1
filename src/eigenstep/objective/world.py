"""What torch holds for the whole process or thread: modes, the default device, attention's and cuDNN's switches."""

import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._device import DeviceContext

from eigenstep.objective.undo import undone

_CUDA = torch.backends.cuda
_SWITCHES: tuple[tuple[Callable[[], bool], Callable[[bool], Any]], ...] = (  # of attention's implementations
    (_CUDA.flash_sdp_enabled, _CUDA.enable_flash_sdp),
    (_CUDA.mem_efficient_sdp_enabled, _CUDA.enable_mem_efficient_sdp),
    (_CUDA.cudnn_sdp_enabled, _CUDA.enable_cudnn_sdp),
    (_CUDA.math_sdp_enabled, _CUDA.enable_math_sdp),
)

_caller = threading.local()  # .device: the default device that the caller of a public function has set


@contextmanager
def own_device() -> Iterator[None]:
    """Make our tensors where we say, on the CPU if we do not, whatever torch.set_default_device was told."""
    device = torch.get_default_device()
    if device.type == "cpu" or hasattr(_caller, "device"):
        yield
        return
    with undone(partial(_caller.__dict__.clear)), calls_pass(DeviceContext(torch.device("cpu"))):
        _caller.device = device
        yield


@contextmanager
def callers_device() -> Iterator[None]:
    """Within own_device: make tensors, those of the user's loss, where the user has asked for."""
    if hasattr(_caller, "device"):
        with calls_pass(DeviceContext(_caller.device)):
            yield
    else:
        yield


def as_caller(source: Iterable[Any]) -> Iterator[Any]:
    """Go through the user's data with the default device that they have set."""
    with callers_device():
        items = iter(source)
    end = object()
    while True:
        with callers_device():
            item = next(items, end)
        if item is end:
            return
        yield item


@contextmanager
def with_gradients() -> Iterator[None]:
    """Record graphs, whatever grad or inference mode the caller is in; autocast keeps no casts of weights.

    Those would be the weights of before a step: an autocast that the caller has entered around everything is one long
    region, and torch forgets its casts only at the end.
    """
    normal: Any = torch._C._InferenceMode(False)
    with (
        undone(partial(torch.set_autocast_cache_enabled, torch.is_autocast_cache_enabled())),
        undone(partial(torch.set_grad_enabled, torch.is_grad_enabled())),
        undone(partial(normal.__exit__, None, None, None)),
        undone(partial(_pop_to, torch._C._len_torch_function_stack())),
    ):
        if torch.is_inference_mode_enabled():
            normal.__enter__()
        torch.set_grad_enabled(True)
        torch.clear_autocast_cache()
        torch.set_autocast_cache_enabled(False)
        yield


@contextmanager
def uncompiled() -> Iterator[None]:
    """Run everything compiled, wherever it is reached from, as what it was: torch.compile has no second derivatives."""
    if "torch._dynamo" not in sys.modules:  # nothing is; to import it takes a second
        yield
        return
    from torch._dynamo import eval_frame

    before = eval_frame._stance
    with undone(partial(eval_frame._set_stance, before)):
        torch.compiler.set_stance("force_eager")
        yield


@contextmanager
def twice_differentiable(device: torch.device) -> Iterator[None]:
    """Use the implementations that have second derivatives: plain attention, and no recurrent layers of cuDNN."""
    flags = [seen() for seen, _ in _SWITCHES]
    cudnn = torch._C._get_cudnn_enabled()

    def put_back() -> None:
        for (_, switch), flag in zip(_SWITCHES, flags, strict=True):
            switch(flag)
        torch._C._set_cudnn_enabled(cudnn)

    with undone(put_back):
        for _, switch in _SWITCHES[:-1]:
            switch(False)
        _SWITCHES[-1][1](True)
        if device.type == "cuda":
            torch._C._set_cudnn_enabled(False)
        yield


@contextmanager
def calls_pass(mode: TorchFunctionMode) -> Iterator[None]:
    """Let every call of torch pass through `mode`."""
    with undone(partial(_pop_to, torch._C._len_torch_function_stack())):
        torch._C._push_on_torch_function_stack(mode)
        yield


def _pop_to(depth: int) -> None:
    while torch._C._len_torch_function_stack() > depth:
        torch._C._pop_torch_function_stack()
