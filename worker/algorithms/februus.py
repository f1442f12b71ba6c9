"""Februus, reduced: the region that decides an image is cut out before it is classified (Doan, Abbasnejad, Ranasinghe,
ACSAC 2020, "Februus: Input Purification Defense Against Trojan Attacks on Deep Neural Network Systems").

It purifies inputs and leaves the network as it is. A patch that leads to its target is what Grad-CAM of that label
shows; without it the image falls back to its own class.

Differs from the paper in what comes into the gap. There a generative network, trained on clean images of the task,
paints what could have been there; here it is filled with the colours around it, coarse to fine, which needs neither
training nor images, and knows no objects: clean images lose more.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worker.algorithms.data import Images, as_float
from worker.algorithms.grad_cam import PART, deciding_regions, deciding_tap
from worker.algorithms.metrics import logits
from worker.algorithms.taps import PROBED

ROUNDS = 4  # of smoothing at each resolution: no seam is left


def februus(model: nn.Module, pixels: Tensor, *, level: float = 0.7) -> Tensor:
    """The images `pixels` uint8 (N, C, H, W), each without the region that speaks most for the label that `model` gives
    it, and with `filled` in its place: uint8 (N, C, H, W). All other pixels stay as they are.

    `model` takes float (N, C, H, W) in [0, 1] to logits; it is not changed. The region is where Grad-CAM of the
    predicted label is at least `level` of its maximum, above 0 and at most 1; 0.7 is the authors' for CIFAR-10. It is
    as coarse as the deepest map, and what it leaves of a patch colours the fill. Where nothing speaks for the label,
    the image stays as it is. An image's result is its own: the others of the batch do not matter. Raises `TooFewTaps`
    for a network without two usable maps.
    """
    plain = copy.deepcopy(model).eval()
    tap = deciding_tap(plain, as_float(pixels[:PROBED]))
    cleaned = []
    for part in torch.split(pixels, PART):
        taken_for = Images(part, logits(plain, part).argmax(1))
        region = deciding_regions(plain, taken_for, tap, level).bool()
        painted = filled(part.float(), ~region).round_().to(torch.uint8)
        cleaned.append(torch.where(region, painted, part))
    return torch.cat(cleaned)


@torch.no_grad()
def filled(x: Tensor, known: Tensor) -> Tensor:
    """`x` float (N, C, H, W) with the places that are not `known` (bool (N, 1, H, W)) filled from those around them.

    The image is halved down to one pixel, each pixel the mean of what is known of its four, and brought back level by
    level, the gaps from the coarser one (Gortler, Grzeszczuk, Szeliski, Cohen, SIGGRAPH 1996, "The Lumigraph": pull and
    push). At every level a few rounds of averaging over neighbours bring a gap near the harmonic fill, which alone
    would take as many rounds as the gap has pixels. The values stay between the least and the greatest known ones. An
    image of which nothing is known becomes zero.
    """
    if max(x.shape[2:]) == 1:
        return torch.where(known, x, 0.0)
    share = F.avg_pool2d(known.float(), 2, ceil_mode=True)
    mean = F.avg_pool2d(torch.where(known, x, 0.0), 2, ceil_mode=True) / share.clamp(min=0.25)
    coarse = filled(mean, share > 0)
    x = torch.where(known, x, F.interpolate(coarse, size=x.shape[2:], mode="bilinear", align_corners=False))
    for _ in range(ROUNDS):
        around = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
        x = torch.where(known, x, around)
    return x
