"""Text encoders that wait in host memory, and come to the device while they encode: whole, or layer by layer.

What comes is a copy, and what goes is that copy: the weights in host memory stay there all the while, and nothing is ever written back.
That halves what a hook of accelerate's moves, which brings the weights themselves there and back. A prompt that was encoded before moves
nothing (`prompts`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from accelerate.utils import send_to_device
from torch import nn

#: (of parameters or buffers, by name; the name; what is in host memory).
_Place = tuple[dict[str, Any], str, torch.Tensor]

_add_hook: Any = add_hook_to_module
_sent: Any = send_to_device


class _Copies:
    """Copies of some modules' own weights on the device, while there are any."""

    def __init__(self, modules: Iterable[nn.Module], device: torch.device) -> None:
        self._modules = tuple(modules)
        self._device = device
        self._places: list[_Place] = []

    def bring(self) -> None:
        """Put copies in place of the weights. Raises what torch raises when memory runs out, with none left there."""
        if self._places:
            return
        copies: dict[int, torch.Tensor] = {}  # weights may be tied
        try:
            for tensors, name, waiting in _tensors(self._modules):
                if id(waiting) not in copies:
                    copies[id(waiting)] = _copy(waiting, self._device)
                self._places.append((tensors, name, waiting))
                tensors[name] = copies[id(waiting)]
        except BaseException:
            self.drop()
            raise

    def drop(self) -> None:
        """Put the weights themselves back in place."""
        while self._places:
            tensors, name, waiting = self._places.pop()
            tensors[name] = waiting


def _tensors(modules: Iterable[nn.Module]) -> Iterator[_Place]:
    for module in modules:
        for tensors in (module._parameters, module._buffers):
            yield from ((tensors, name, tensor) for name, tensor in tensors.items() if tensor is not None)


def _copy(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    moved = tensor.detach().to(device, copy=True) if type(tensor) is nn.Parameter else tensor.to(device)
    return moved if not isinstance(tensor, nn.Parameter) or isinstance(moved, nn.Parameter) else _parameter(moved)


def _parameter(tensor: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)


class _Visit(ModelHook):  # type: ignore[misc]  # the library has no types
    """Brings a module's weights before its forward pass; `leaves` takes them away after it."""

    def __init__(self, copies: _Copies, device: torch.device, *, leaves: bool) -> None:
        self._copies = copies
        #: Where pipelines read that their calls are for the device.
        self.execution_device = device
        self._leaves = leaves

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        self._copies.bring()
        return _sent(args, self.execution_device), _sent(kwargs, self.execution_device)

    def post_forward(self, module: nn.Module, output: Any) -> Any:
        if self._leaves:
            self._copies.drop()
        return output


class EncodedAside:
    """An `encode_prompt` after which nothing of the encoders is on the device, also when it is cancelled or fails."""

    def __init__(self, encode: Callable[..., Any], copies: Iterable[_Copies]) -> None:
        self.encode = encode
        self._copies = tuple(copies)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return self.encode(*args, **kwargs)
        finally:
            self.drop()

    def drop(self) -> None:
        """Take away what is on the device."""
        for copies in self._copies:
            copies.drop()


def set_aside(pipe: Any, encoders: Iterable[nn.Module], device: torch.device, *, by_layer: bool) -> None:
    """Let the encoders, in host memory, encode on the device: each comes whole at its first forward pass in a call, or layer by layer."""
    made: list[_Copies] = []
    for encoder in encoders:
        own = [module for module in encoder.modules() if any(_tensors([module]))] if by_layer else []
        for module in own:
            if module is not encoder:
                made.append(_Copies([module], device))
                _add_hook(module, _Visit(made[-1], device, leaves=True), append=True)
        made.append(_Copies([encoder] if by_layer else encoder.modules(), device))
        _add_hook(encoder, _Visit(made[-1], device, leaves=by_layer), append=True)
    pipe.encode_prompt = EncodedAside(pipe.encode_prompt, made)
