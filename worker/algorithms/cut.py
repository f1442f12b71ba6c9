"""A network cut in two at a tap: its features there, and what the layers after it make of any features."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from worker.algorithms.trace import Tap, main_tensor

CHANNELS = {"channels_first": 1, "channels_last": 3, "tokens": 2}
"""The dimension of a tap's output that the channels are in, by its layout."""


@dataclass(frozen=True)
class Cut:
    """`model` at `tap`. Features are the tap's output as it is, whatever its layout: (N, C, H, W), (N, H, W, C) or
    (N, T, C). `image` (1, C, H, W), any one in [0, 1], is what the first half runs on when only the second counts."""

    model: nn.Module
    tap: Tap
    image: Tensor

    @property
    def channels(self) -> int:
        """The dimension of the features that the channels are in."""
        return CHANNELS[self.tap.layout]

    def features(self, x: Tensor) -> Tensor:
        """The tap's output for images `x` float (N, C, H, W) in [0, 1]."""
        kept: list[Tensor] = []

        def keep(features: Tensor) -> Tensor:
            kept.append(features)
            return features

        with replacing(self.model, self.tap, keep):
            self.model(x)
        return kept[0]

    def logits(self, features: Tensor) -> Tensor:
        """float32 logits (N, K) of `features` (N, ...), by the second half alone: the first runs on one image. For
        networks whose second half reads nothing but the tap, which is so wherever taps are found."""
        with replacing(self.model, self.tap, lambda _: features):
            return self.model(self.image).float()  # type: ignore[no-any-return]


@contextlib.contextmanager
def replacing(model: nn.Module, tap: Tap, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Within the context the tap's output is `change` of it, for all that comes after."""

    def hook(_module: nn.Module, _inputs: object, output: object) -> object:
        return _with_main(output, change)

    handle = model.get_submodule(tap.name).register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _with_main(output: object, change: Callable[[Tensor], Tensor]) -> object:
    """The output with its main tensor changed, be it alone or the first of several."""
    if isinstance(output, Tensor):
        return change(output)
    assert isinstance(output, tuple | list) and isinstance(main_tensor(output), Tensor)  # noqa: S101, PT018 - a tap's
    return type(output)((_with_main(output[0], change), *output[1:]))
