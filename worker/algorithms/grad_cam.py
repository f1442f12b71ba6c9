"""Grad-CAM: which places of an image speak for a label (Selvaraju, Cogswell, Das, Vedantam, Parikh, Batra, ICCV 2017).

    L = ReLU(Σ_c α_c A_c),    α_c = the mean over places of ∂ logit / ∂ A_c

with A the features (C, h, w) of a deep layer.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worker.algorithms.data import Images, as_float
from worker.algorithms.out_of_memory import halving
from worker.algorithms.taps import PROBED, Tap, channels_first, find_taps, recording
from worker.algorithms.trace import main_tensor

PART = 64  # images whose heat maps are drawn at once


def grad_cam(model: nn.Module, x: Tensor, labels: Tensor, *, tap: Tap | None = None) -> Tensor:
    """Heat maps float32 (N, 1, H, W) in [0, 1] of images `x` float (N, C, H, W) in [0, 1], each for its label (N,).

    The features are those of `tap`; none: of `deciding_tap`. A map is brought to the image's size bilinearly and
    divided by its maximum; one that is nowhere positive stays zero. All images go through at once; in the model's own
    mode, which has to be evaluation, else batch norm mixes them. The model gets no gradients. Raises `TooFewTaps` where
    no tap is given and none is usable.
    """
    features, slopes = _features_and_slopes(model, x, labels, tap or deciding_tap(model, x[:PROBED]))
    heat = (slopes.mean((2, 3), keepdim=True) * features).sum(1, keepdim=True).float().relu()
    heat = F.interpolate(heat, size=x.shape[2:], mode="bilinear", align_corners=False)
    peak = heat.amax((2, 3), keepdim=True)
    return torch.where(peak > 0, heat / peak, 0.0)


def deciding_regions(model: nn.Module, images: Images, tap: Tap, level: float) -> Tensor:
    """Masks (N, 1, H, W) of zeros and ones: where the heat map of each image's label is at least `level`, a share above
    0 of its maximum; zeros alone where nothing speaks for the label. `model` is in evaluation mode."""
    heat, _ = halving(functools.partial(_heat, model, images, tap), PART)
    return (heat >= level).float()


def _heat(model: nn.Module, images: Images, tap: Tap, at_once: int) -> Tensor:
    parts = zip(torch.split(images.pixels, at_once), torch.split(images.labels, at_once), strict=True)
    return torch.cat([grad_cam(model, as_float(pixels), labels, tap=tap) for pixels, labels in parts])


def deciding_tap(model: nn.Module, x: Tensor) -> Tap:
    """The deepest tap that the logits of the images `x` (N, C, H, W), a handful, depend on.

    That is not always the last one: a vision transformer whose head reads the class token alone makes nothing of the
    last block's other tokens. Raises `TooFewTaps` where two taps are not found.
    """
    deepest_first = find_taps(model, x).used[::-1]
    with torch.no_grad():
        labels = model(x).argmax(1)
    deciding = (tap for tap in deepest_first if bool(_features_and_slopes(model, x, labels, tap)[1].any()))
    return next(deciding, deepest_first[0])


def _features_and_slopes(model: nn.Module, x: Tensor, labels: Tensor, tap: Tap) -> tuple[Tensor, Tensor]:
    """The tap's features (N, C, h, w), and the gradient of each image's logit of its label by them."""
    outputs: list[Tensor] = []
    hook = model.get_submodule(tap.name).register_forward_hook(lambda *call: outputs.append(_tensor(call[-1])))
    try:
        with torch.enable_grad(), recording(model, [tap]) as maps:
            logits = model(x.detach().requires_grad_())
            chosen = logits.gather(1, labels[:, None]).sum()  # in evaluation mode no image touches another's logits
            slopes = torch.autograd.grad(chosen, outputs[0])[0]
    finally:
        hook.remove()
    return maps[tap.name].detach(), channels_first(slopes, tap)


def _tensor(output: object) -> Tensor:
    value = main_tensor(output)
    assert isinstance(value, Tensor)  # noqa: S101 - else it would be no tap
    return value
