"""Attention maps of feature maps, and the distance between two of them (SAGE, IEEE S&P 2023, eq. 1 to 4).

ψ = N(U(G(·))): G collapses the channels of a feature map, U brings the deeper map up to the size of the shallower one,
N gives it unit length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from worker.algorithms.errors import UnfitOptions

Function = Literal["sum", "sum_p", "max_p", "mean_p"]
Distance = Literal["mse", "squares", "norm"]
Side = Literal["none", "shallow", "deep"]


@dataclass(frozen=True)
class Attention:
    """How two feature maps are compared; the defaults are the paper's (its best, where it tries several).

    `function` is G: the sum over channels of |F| (`sum`), of |F|^p (`sum_p`), their maximum (`max_p`) or mean
    (`mean_p`). `normalize` is N. `distance` is the scale of L_SAD: the mean of squares over pixels (`mse`), their sum
    (`squares`: the same pull at every resolution), or its root (`norm`, as eq. 4 is printed). `detach` is the side of
    each pair that gets no gradient.

    The paper's β = 300 is in the scale of the mean of squares: with the norm the distance swamps the cross-entropy.
    Detaching the shallow side, as the paper's narrative ("shallow teaches deep") suggests, removes backdoors much more
    slowly.
    """

    function: Function = "sum_p"
    p: float = 2.0
    normalize: bool = True
    distance: Distance = "mse"
    detach: Side = "none"


def attention_map(features: Tensor, function: Function = "sum_p", p: float = 2.0) -> Tensor:
    """G: features (N, C, H, W) to non-negative float32 maps (N, 1, H, W).

    float32 whatever the features are in: squares summed over 512 channels overflow float16.
    """
    features = features.float()
    if function == "sum":
        return features.abs().sum(1, keepdim=True)
    powers = features.square() if p == 2 else features.abs().pow(p)
    if function == "max_p":
        return powers.amax(1, keepdim=True)
    return powers.sum(1, keepdim=True) if function == "sum_p" else powers.mean(1, keepdim=True)


def normalized(maps: Tensor) -> Tensor:
    """N: each map (1, H, W) of the batch to unit L2 length. A dead map (all zeros) stays zero and gets no gradient."""
    return F.normalize(maps.flatten(1), dim=1, eps=1e-6).view_as(maps)


def attention_distance(shallow: Tensor, deep: Tensor, how: Attention = Attention()) -> Tensor:
    """L_SAD of one path: the distance of ψ(shallow) and ψ(deep), averaged over the batch; a scalar.

    `shallow` (N, C, H, W) and `deep` (N, C', H', W') are features of the same images. The deeper map is brought to
    H × W bilinearly before normalisation.
    """
    target, source = attention_map(shallow, how.function, how.p), attention_map(deep, how.function, how.p)
    source = F.interpolate(source, size=target.shape[2:], mode="bilinear", align_corners=False)
    if how.normalize:
        target, source = normalized(target), normalized(source)
    if how.detach == "shallow":
        target = target.detach()
    if how.detach == "deep":
        source = source.detach()
    difference = (target - source).flatten(1)
    if how.distance == "norm":
        norms: Tensor = torch.linalg.vector_norm(difference, dim=1)
        return norms.mean()
    squares = difference.square()
    return squares.mean() if how.distance == "mse" else squares.sum(1).mean()


def one_each(beta: float | Sequence[float], count: int, what: str) -> list[float]:
    """The weights of `count` distances: one number for all of them, or one each. `what` they are is for the error:
    `UnfitOptions` where there are more or fewer weights."""
    weights = [float(beta)] * count if isinstance(beta, int | float) else [float(one) for one in beta]
    if len(weights) != count:
        raise UnfitOptions(f"beta has {len(weights)} weights, and there are {count} {what}")
    return weights
