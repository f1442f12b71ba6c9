"""Attention maps of a network's layers, and the distance between two of them (SAGE, IEEE S&P 2023, eq. 1 to 5).

ψ = N(U(G(·))): G collapses the channels of a feature map, U brings the deeper map up to the size of the shallower one,
N gives it unit length.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worker.algorithms.errors import TooFewTaps


def attention_map(features: Tensor) -> Tensor:
    """G_sum^p with p = 2: features (N, C, H, W) to float32 maps (N, 1, H, W), the sum over channels of |F|².

    float32 whatever the features are in: squares summed over 512 channels overflow float16.
    """
    return features.float().square().sum(1, keepdim=True)


def normalized(maps: Tensor) -> Tensor:
    """N: each map (1, H, W) of the batch to unit L2 length. A dead map (all zeros) stays zero and gets no gradient."""
    return F.normalize(maps.flatten(1), dim=1, eps=1e-6).view_as(maps)


def attention_distance(shallow: Tensor, deep: Tensor) -> Tensor:
    """L_SAD of one path: the mean of squares of ψ(shallow) - ψ(deep), over batch and pixels; a scalar.

    `shallow` (N, C, H, W) and `deep` (N, C', H', W') are features of the same images. The deeper map is brought to
    H × W bilinearly before normalisation. The gradient flows into both maps.

    The paper prints a plain norm. Its β = 300 is in the scale of the mean of squares: taken as a norm, the distance
    would swamp the cross-entropy. Detaching the shallow side, as the paper's narrative ("shallow teaches deep")
    suggests, removes backdoors much more slowly.
    """
    target = attention_map(shallow)
    source = F.interpolate(attention_map(deep), size=target.shape[2:], mode="bilinear", align_corners=False)
    return F.mse_loss(normalized(target), normalized(source))


def find_taps(model: nn.Module, image: Tensor) -> list[str]:
    """Where to read attention: the last module at each spatial resolution, shallow to deep, by name.

    `image` is one input (1, C, H, W) float. A ResNet gives its four stages. 1×1 maps are left out: normalised, they are
    the constant one. Raises `TooFewTaps` when fewer than two are left.
    """
    last: dict[tuple[int, int], str] = {}

    def note(name: str, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] * output.shape[3] > 1:
            last[(output.shape[2], output.shape[3])] = name

    hooks = [
        module.register_forward_hook(lambda _module, _inputs, output, name=name: note(name, output))
        for name, module in model.named_modules()
        if name
    ]
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            model(image)
    finally:
        for hook in hooks:
            hook.remove()
        model.train(was_training)
    if len(last) < 2:
        found = ", ".join(f"{name} ({height}×{width})" for (height, width), name in last.items()) or "none"
        raise TooFewTaps(f"SAGE needs feature maps at two spatial resolutions or more; found: {found}")
    return list(last.values())


@contextlib.contextmanager
def recording(model: nn.Module, taps: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Within the context each forward pass leaves the outputs of the modules `taps` in the dict, by name: no second
    pass, no change of the network. The hooks are gone afterwards."""
    outputs: dict[str, Tensor] = {}

    def keep(name: str, output: Tensor) -> None:
        outputs[name] = output

    hooks = [
        model.get_submodule(name).register_forward_hook(lambda _module, _inputs, output, name=name: keep(name, output))
        for name in taps
    ]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()
