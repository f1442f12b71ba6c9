"""The penultimate features of any classifier: what goes into its head, the last layer with weights that runs."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from worker.algorithms.data import as_float
from worker.algorithms.errors import UnknownTap
from worker.algorithms.out_of_memory import halving
from worker.algorithms.trace import has_weights


def penultimate(model: nn.Module, x: Tensor) -> Tensor:
    """float32 features (N, D) of `x` float (N, C, H, W) in [0, 1]: the input of the head of `model`, in one pass.

    The head is the last layer with a weight matrix or kernel that runs in the pass, and so known without a name. Where
    it gets a map or tokens, as the convolution at the end of SqueezeNet does, features are their mean over places.
    Differentiable; in the model's own mode; the hooks are gone afterwards. Raises `UnknownTap` for a network without
    such a layer.
    """
    module, inputs = _last_layer(model, x)
    features = inputs.float()
    if features.ndim > 2:
        features = features.flatten(1, -2).mean(1) if isinstance(module, nn.Linear) else features.flatten(2).mean(2)
    return features


@torch.no_grad()
def features(model: nn.Module, pixels: Tensor, *, batch_size: int = 256) -> Tensor:
    """float32 penultimate features (N, D) of uint8 images (N, C, H, W) in evaluation mode. The model's mode is put
    back. Where the memory does not hold `batch_size` images, half as many go through at a time."""
    was_training = model.training
    model.eval()
    found, _ = halving(functools.partial(_penultimate_of, model, pixels), batch_size)
    model.train(was_training)
    return found


def _penultimate_of(model: nn.Module, pixels: Tensor, at_once: int) -> Tensor:
    parts = [
        penultimate(model, as_float(part).contiguous(memory_format=torch.channels_last))
        for part in torch.split(pixels, at_once)
    ]
    return torch.cat(parts)


def find_head(model: nn.Module, x: Tensor) -> str:
    """The name of the head, for `model.get_submodule`: one pass without gradients on `x` float (N, C, H, W) in [0, 1],
    a few images, in the model's own mode. Raises `UnknownTap` as `penultimate` does."""
    with torch.no_grad():
        module, _ = _last_layer(model, x)
    names: dict[nn.Module, str] = {candidate: name for name, candidate in model.named_modules()}
    return names[module]


class LastLayerAlone(nn.Module):
    """A copy of `model` of which a training changes the last layer and nothing else, as a victim does who takes a
    network for its features: the other weights get no gradient, and batch norms stay as they are deployed. `model` is
    the copy; `x` float (N, C, H, W) in [0, 1], a few images, show which layer is the last. Raises `UnknownTap` as
    `penultimate` does."""

    def __init__(self, model: nn.Module, x: Tensor) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.model.get_submodule(find_head(self.model, x)).requires_grad_(True)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)  # type: ignore[no-any-return]

    def train(self, mode: bool = True) -> LastLayerAlone:
        self.training = mode
        return self


def _last_layer(model: nn.Module, x: Tensor) -> tuple[nn.Module, Tensor]:
    """The last layer with weights that runs on `x`, and its input."""
    last: list[tuple[nn.Module, Tensor]] = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        last[:] = [(module, inputs[0])]

    with _before_each_layer(model, keep):
        model(x)
    if not last:
        raise UnknownTap(
            "the network runs no linear or convolutional layer, so it has no penultimate features",
            hint="Build the network of modules such as nn.Linear; what runs as a bare function is not seen.",
        )
    return last[0]


@contextlib.contextmanager
def _before_each_layer(model: nn.Module, keep: Callable[[nn.Module, tuple[Tensor, ...]], None]) -> Iterator[None]:
    hooks = [module.register_forward_pre_hook(keep) for module in model.modules() if has_weights(module)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
