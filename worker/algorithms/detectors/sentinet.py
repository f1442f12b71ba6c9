"""SentiNet: the region that decides an image is carved out and pasted on others (Chou, Tramèr, Pellegrino, 2018,
"SentiNet: Detecting Localized Universal Attacks Against Deep Learning Systems").

A trigger takes its label along to whatever it is pasted on (a high fooled rate), and does so by what it shows, not by
what it covers: with noise in its place the network is as sure as ever (a high confidence). An honest region does one
or the other. The clean images' own points make the line beyond which a point is suspicious.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worker.algorithms.data import Images, as_float
from worker.algorithms.detectors.every_label import blocks, float_logits, generator
from worker.algorithms.detectors.memory import inputs_at_once
from worker.algorithms.detectors.overlays import any_of, others
from worker.algorithms.folding import folded
from worker.algorithms.grad_cam import deciding_regions, deciding_tap
from worker.algorithms.metrics import logits
from worker.algorithms.out_of_memory import halving
from worker.algorithms.taps import PROBED
from worker.algorithms.training import Progress, between, ignore
from worker.algorithms.triggers import blend


@dataclass(frozen=True)
class Points:
    """Of each image (N,), all in [0, 1]: `fooled`, the share of other clean images that take its label when its region
    is pasted on them; `confidence`, the mean confidence on them with noise there instead; `sizes`, the region's share
    of the image."""

    fooled: Tensor
    confidence: Tensor
    sizes: Tensor


@dataclass(frozen=True)
class SentiNet:
    """`suspicious` (M) and `clean` (N) points. `flagged` (M,) bool: farther above the clean images' curve than all but
    a share `false_rejection` of them; `flagged_share` of the suspicious images."""

    suspicious: Points
    clean: Points
    flagged: Tensor
    flagged_share: float
    false_rejection: float


def sentinet(
    model: nn.Module,
    clean: Images,
    suspicious: Images,
    *,
    overlays: int = 100,
    level: float = 0.85,
    false_rejection: float = 0.05,
    seed: int = 0,
    at_once: int | None = None,
    progress: Progress = ignore,
) -> SentiNet:
    """Flag the `suspicious` images whose decisive region leads other images to the same label.

    `model` takes float (N, C, H, W) in [0, 1] to logits; it is not changed. The region is where Grad-CAM of the
    predicted label is at least `level` of its maximum. It is pasted on `overlays` clean images, drawn anew for every
    image and never the image itself; those that the model gives the label anyway do not count. `false_rejection` is the
    share of the clean images beyond the line. Labels are not looked at.

    Differs from the paper: one region an image, and none for a second label; the line is a parabola by least squares
    through the clean points, moved up to the quantile, where the paper fits the points' upper edge. For local triggers;
    regions are as coarse as the deepest map. Raises `TooFewTaps` for a network without two usable maps,
    `UnusableImages` where there is only one clean image.
    """
    plain = copy.deepcopy(model).eval()
    few = as_float(clean.pixels[:PROBED])
    tap = deciding_tap(plain, few)
    network = folded(plain, few).requires_grad_(False)
    at_once = at_once or inputs_at_once(network, few[0])
    taken_for = Images(clean.pixels, logits(plain, clean.pixels).argmax(1))
    noise = torch.rand(clean.pixels.shape[1:], generator=generator(seed, 2)).to(clean.pixels.device)
    own = others(len(clean), overlays, generator(seed, 0))
    strange = any_of(len(clean), len(suspicious), overlays, generator(seed, 1))
    done = len(clean) / (len(clean) + len(suspicious))
    told = (between(progress, 0, done), between(progress, done, 1))
    both = taken_for, Images(suspicious.pixels, logits(plain, suspicious.pixels).argmax(1))
    regions = [deciding_regions(plain, tested, tap, level) for tested in both]

    def pasted(some: int) -> list[Points]:
        return [
            _points(network, tested, region, taken_for, drawn, noise, some, tell)
            for tested, region, drawn, tell in zip(both, regions, (own, strange), told, strict=True)
        ]

    points, _ = halving(pasted, at_once)
    flagged = _beyond(points[1], points[0], false_rejection)
    return SentiNet(points[1], points[0], flagged, float(flagged.float().mean()), false_rejection)


@torch.no_grad()
def _points(
    network: nn.Module,
    tested: Images,
    regions: Tensor,
    clean: Images,
    drawn: Tensor,
    noise: Tensor,
    at_once: int,
    progress: Progress,
) -> Points:
    """Paste the `regions` (M, 1, H, W) of the images `tested` on the clean images `drawn` (M, overlays) for each; the
    labels of both are those that the model gives them."""
    drawn = drawn.to(regions.device)
    fooled, counted, confidence = torch.zeros(3, len(tested), device=regions.device)
    for rows, columns in blocks(len(drawn), drawn.shape[1], at_once):
        over, labels = drawn[rows, columns], tested.labels[rows, None]
        under, mask = as_float(clean.pixels[over]), regions[rows, None]
        carved = float_logits(network, blend(under, mask, as_float(tested.pixels[rows])[:, None])).argmax(2)
        inert = float_logits(network, blend(under, mask, noise)).softmax(2).amax(2)
        counts = clean.labels[over] != labels
        fooled[rows] += ((carved == labels) & counts).sum(1)
        counted[rows] += counts.sum(1)
        confidence[rows] += inert.sum(1) / drawn.shape[1]
        progress(min(rows.stop, len(drawn)) / len(drawn))
    return Points(fooled / counted.clamp(min=1), confidence, regions.mean((1, 2, 3)))


def _beyond(found: Points, usual: Points, false_rejection: float) -> Tensor:
    """Which points are farther above the curve through the usual ones than all but a share of those are."""
    powers = [torch.stack([p.confidence**power for power in range(3)], dim=1).double().cpu() for p in (usual, found)]
    rates = [p.fooled.double().cpu() for p in (usual, found)]
    curve = torch.linalg.lstsq(powers[0], rates[0][:, None], driver="gelsd").solution
    above = [rate - (power @ curve)[:, 0] for power, rate in zip(powers, rates, strict=True)]
    beyond: Tensor = above[1] > above[0].quantile(1 - false_rejection)
    return beyond.to(found.fooled.device)
