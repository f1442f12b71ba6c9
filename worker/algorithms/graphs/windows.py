"""Windows that slide over an image: kernel, stride, dilation and padding of convolutions and pooling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from worker.algorithms.graphs.arguments import integers, text
from worker.algorithms.graphs.errors import UnfitGraph, UnsupportedOperator
from worker.algorithms.graphs.graph import Node

LARGEST = 1024  # of any of the numbers: images are no larger


@dataclass(frozen=True)
class Window:
    """All (height, width); `around` is the padding as `torch.nn.functional.pad` takes it, `symmetric` as convolutions
    take it, None where the two sides differ."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    around: tuple[int, int, int, int]

    @property
    def symmetric(self) -> tuple[int, int] | None:
        left, right, top, bottom = self.around
        return (top, left) if left == right and top == bottom else None


def window(node: Node, shape: Sequence[int], kernel: Sequence[int] | None = None) -> Window:
    """The window of `node` over images (N, C, H, W) of `shape`; `kernel` is what the weights say."""
    told = integers(node, "kernel_shape", kernel or ())
    if kernel is not None and list(told) != list(kernel):
        raise UnfitGraph(f"{node}: a kernel of {told}, and weights of {list(kernel)}")
    size, stride, dilation = (
        _pair(node, what, values)
        for what, values in {
            "kernel_shape": told,
            "strides": integers(node, "strides", (1, 1)),
            "dilations": integers(node, "dilations", (1, 1)),
        }.items()
    )
    how = text(node, "auto_pad", "NOTSET")
    if how == "NOTSET":
        pads = integers(node, "pads", (0, 0, 0, 0))
    elif how == "VALID":
        pads = [0, 0, 0, 0]
    elif how in ("SAME_UPPER", "SAME_LOWER"):
        pads = _same(shape[-2:], size, stride, dilation, more_before=how == "SAME_LOWER")
    else:
        raise UnsupportedOperator(f"{node}: the padding {how[:40]!r} is unknown")
    if len(pads) != 4 or not all(0 <= pad <= LARGEST for pad in pads):
        raise UnfitGraph(f"{node}: a padding of {pads[:8]}")
    top, left, bottom, right = pads
    return Window(size, stride, dilation, (left, right, top, bottom))


def _pair(node: Node, what: str, values: Sequence[int]) -> tuple[int, int]:
    if len(values) != 2 or not all(1 <= value <= LARGEST for value in values):
        raise UnfitGraph(f"{node}: {what} is {list(values)[:8]}; expected two numbers from 1 to {LARGEST}")
    return values[0], values[1]


def _same(
    sizes: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], *, more_before: bool
) -> list[int]:
    """The padding that gives as many places as there are strides in the image."""
    before, after = [], []
    for size, reach, step, gap in zip(sizes, kernel, stride, dilation, strict=True):
        total = max((-(-size // step) - 1) * step + (reach - 1) * gap + 1 - size, 0)
        less, more = total // 2, total - total // 2
        before.append(more if more_before else less)
        after.append(less if more_before else more)
    return [*before, *after]
