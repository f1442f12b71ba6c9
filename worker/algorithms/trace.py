"""One forward pass of a network as a tree of its modules' calls, and what the maps on the way are like."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

MOST_LEADING_TOKENS = 16  # class, distillation and register tokens together; ViTs have one to five


@dataclass(frozen=True)
class Tap:
    """Where attention is read: a module by its name, and what its output is like for one image.

    `layout` is (N, C, H, W), (N, H, W, C) or (N, T, C) with T = `leading_tokens` + H·W: the grid, row by row, comes
    after the tokens that are no part of it (class token, registers).
    """

    name: str
    channels: int
    height: int
    width: int
    layout: Literal["channels_first", "channels_last", "tokens"] = "channels_first"
    leading_tokens: int = 0

    @property
    def is_pixel(self) -> bool:
        return self.height == self.width == 1

    def is_smaller_than(self, other: Tap) -> bool:
        """By a third or more on a side: a convolution without padding shaves off some pixels and stays at its level."""
        return 3 * self.height <= 2 * other.height or 3 * self.width <= 2 * other.width


@dataclass(frozen=True)
class Call:
    """One run of a module. `source` and `tap` are its input and its output, where these are maps; `inside` are the
    calls that it made; `weights` are the weight matrices and kernels within, 0 for pooling, norm and activation."""

    name: str
    module: nn.Module
    source: Tap | None
    tap: Tap | None
    inside: list[Call]
    weights: int

    def walk(self) -> Iterator[Call]:
        """The calls inside and this one, in the order in which they ended."""
        for call in self.inside:
            yield from call.walk()
        yield self


def trace(model: nn.Module, images: Tensor) -> Call:
    """Run `model` once, without gradients, on images (N, C, H, W); the call of the model itself, named ""."""
    names = {module: name for name, module in model.named_modules()}
    calls: list[list[Call]] = [[]]
    maps = _Maps(images)

    def enter(_module: nn.Module, _inputs: object) -> None:
        calls.append([])

    def leave(module: nn.Module, inputs: object, output: object) -> None:
        inside, name = calls.pop(), names[module]
        weights = sum(has_weights(each) for each in module.modules())
        calls[-1].append(Call(name, module, maps.read(name, inputs), maps.read(name, output), inside, weights))

    hooks = [
        hook
        for module in names
        for hook in (module.register_forward_pre_hook(enter), module.register_forward_hook(leave))
    ]
    try:
        with torch.no_grad():
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return calls[0][0]


def has_weights(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.ndim >= 2


def main_tensor(value: object) -> object:
    """The first of several: a dense layer gets all maps before it, some blocks return their map and its size."""
    while isinstance(value, tuple | list) and value:
        value = value[0]
    return value


class _Maps:
    """Reads shapes as maps; it remembers the grids it saw, for tokens lie on one of them."""

    def __init__(self, images: Tensor) -> None:
        self.images = images
        self.grids: set[tuple[int, int]] = set()

    def read(self, name: str, value: object) -> Tap | None:
        """What `value` is like as a map, None if it is none."""
        value = main_tensor(value)
        if not isinstance(value, Tensor) or len(value) != len(self.images):
            return None
        if value.ndim == 3:
            return self._read_tokens(name, *value.shape[1:])
        if value.ndim != 4:
            return None
        # The image's shape tells height and width from channels. Where both readings fit, see `settled`.
        first, second, third = value.shape[1:]
        if is_shaped_like(self.images, first, second) and not is_shaped_like(self.images, second, third):
            tap = Tap(name, third, first, second, "channels_last")
        else:
            tap = Tap(name, first, second, third)
        if not tap.is_pixel and is_shaped_like(self.images, tap.height, tap.width):
            self.grids.add((tap.height, tap.width))
        return tap

    def _read_tokens(self, name: str, tokens: int, channels: int) -> Tap | None:
        """On the grid, of those seen, that leaves the fewest tokens over; else on the largest of the images' shape."""
        height, width = self.images.shape[2:]
        shaped = {(h, h * width // height) for h in range(2, tokens + 1) if h * width % height == 0}
        for grids in (self.grids, shaped):
            fits = [(tokens - h * w, h, w) for h, w in grids if 0 <= tokens - h * w <= MOST_LEADING_TOKENS]
            if fits:
                leading, height, width = min(fits)
                return Tap(name, channels, height, width, "tokens", leading)
        return None


def is_shaped_like(images: Tensor, height: int, width: int) -> bool:
    """Whether height × width has the images' aspect, up to a pixel of rounding."""
    return abs(height * images.shape[3] - width * images.shape[2]) <= max(images.shape[2:])


def settled(tap: Tap, others: list[Tap], images: Tensor) -> Tap:
    """A map of C ≈ H ≈ W (Swin-T at 384 pixels: 96×96×96) can be read both ways, and `trace` takes it for channels
    first; here the majority of `others`, maps of the same network that are clear, has its way."""
    clear = [other.layout for other in others if not _is_ambiguous(other, images)]
    if _is_ambiguous(tap, images) and 2 * clear.count("channels_last") > len(clear):
        return replace(tap, channels=tap.width, height=tap.channels, width=tap.height, layout="channels_last")
    return tap


def _is_ambiguous(tap: Tap, images: Tensor) -> bool:
    readings = ((tap.channels, tap.height), (tap.height, tap.width))
    return tap.layout == "channels_first" and all(is_shaped_like(images, *sides) for sides in readings)
