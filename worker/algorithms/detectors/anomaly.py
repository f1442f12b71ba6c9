"""Which of K mask norms is far too small: the statistics of Neural Cleanse, without any network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

MAD_TO_SIGMA = 1.4826  # makes the median absolute deviation an estimate of a normal distribution's sigma
FEWEST_FOR_MAD = 4  # of three norms two lie close together, whatever they are
SMALLEST_NORM = 1e-3  # pixels; keeps logarithms and ratios finite
MOST_DRAWS = 2_000_000  # random norms of one simulation, and at least so many benign models of them:
FEWEST_MODELS, MOST_MODELS = 1_000, 10_000
SMALL_NORM = 0.25  # of the median norm: what a benign label, or a purified one, hardly has
SMALL_MEDIAN = 0.02  # of all pixels: 20 of 32×32, where the patches of a backdoor are and benign triggers seldom


@dataclass(frozen=True)
class Anomaly:
    """`index` is the statistic of the smallest norm and `indices` that of each label; `flagged` are the labels whose
    trigger is an outlier, smallest norm first.

    `statistic` says which it is. "mad": (median - norm) / (1.4826 · MAD), 0 for norms above the median; `p_value` is
    how often the smallest of K norms of a benign model would look as extreme. "ratio": the median of the other norms
    over the norm, where there are too few labels for a MAD or where it is zero; it has no p-value.

    `median` and `mad` are of the norms, in pixels. `median_suspect`: half of the labels or more have triggers so small
    that the median itself may be of backdoors, and no outlier test means anything.
    """

    index: float
    p_value: float | None
    flagged: list[int]
    statistic: Literal["mad", "ratio"]
    indices: list[float]
    median: float
    mad: float
    median_suspect: bool


def anomaly(
    norms: Tensor,
    reached: Tensor,
    *,
    pixels: int,
    significance: float = 0.05,
    fraction: float = SMALL_NORM,
    bound: float = 10.0,
) -> Anomaly:
    """The MAD outlier test of the paper, with a p-value beside it; a test by ratio where there is no MAD to speak of.

    index_k = |norm_k - median| / (1.4826 · MAD), with the true median (the mean of the two middle norms where K is
    even). The paper flags where it is above 2. That flags 10 % to 30 % of benign models of ten classes, and where the
    norms scatter by more than a third of their median no trigger, however small, can reach it. So the index is told,
    and a label is flagged when it was reached, its p-value is below `significance` and its norm below `fraction` of
    the median.

    With two or three labels, and where the MAD is zero (half of the labels or more have the same norm, mostly that of a
    full mask since they were not reached), the median of the other labels' norms must be `bound` times the norm:
    the symmetric bound of K-Arm (Shen et al., ICML 2021).

    `pixels` is H · W, the norm of a full mask; a label that was not reached is expected to have it.
    """
    norms, reached = norms.double().cpu().clamp(min=SMALLEST_NORM), reached.cpu()
    median = norms.quantile(0.5)
    mad = (norms - median).abs().quantile(0.5)
    p_values = None
    if len(norms) < FEWEST_FOR_MAD or mad == 0:
        indices = _ratios(norms)
        outlier = indices >= bound
    else:
        indices, p_values = _indices_below_median(norms[None])[0], _p_values(norms)
        outlier = (p_values < significance) & (norms < fraction * median)
    smallest_first = norms.argsort(stable=True).tolist()
    smallest = smallest_first[0]
    return Anomaly(
        index=float(indices[smallest]),
        p_value=None if p_values is None else float(p_values[smallest]),
        flagged=[label for label in smallest_first if reached[label] and outlier[label]],
        statistic="ratio" if p_values is None else "mad",
        indices=indices.tolist(),
        median=float(median),
        mad=float(mad),
        median_suspect=_median_suspect(norms, reached, pixels, fraction),
    )


def _indices_below_median(norms: Tensor) -> Tensor:
    """(S, K) norms to (S, K) anomaly indices; zero for norms at or above their median."""
    median = norms.quantile(0.5, dim=1, keepdim=True)
    deviation = median - norms
    mad = deviation.abs().quantile(0.5, dim=1, keepdim=True)
    return deviation.clamp(min=0) / (MAD_TO_SIGMA * mad).clamp(min=1e-6)


def _p_values(norms: Tensor) -> Tensor:
    """(K,) norms to (K,) p-values: how often the most extreme of K norms of a benign model lies as far below its
    median.

    The null hypothesis is that norms are log-normal (real ones are skewed to the right), so distances are taken between
    logarithms; measured in their own MAD they have no parameter left to estimate, and simulating is exact. With many
    labels fewer models are simulated: 2,000 of 1,000 labels, which leaves a p-value of 0.05 an error of 0.005.
    """
    models = min(MOST_MODELS, max(FEWEST_MODELS, MOST_DRAWS // len(norms)))
    generator = torch.Generator().manual_seed(0)
    benign = torch.randn(models, len(norms), generator=generator, dtype=torch.float64)
    extremes = _indices_below_median(benign).amax(1)
    observed = _indices_below_median(norms.log()[None])[0]
    return (1 + (extremes >= observed[:, None]).sum(1)) / (1 + models)


def _ratios(norms: Tensor) -> Tensor:
    """(K,) norms to (K,) ratios: the median of the other norms over each."""
    others = torch.stack([torch.cat([norms[:label], norms[label + 1 :]]) for label in range(len(norms))])
    return others.quantile(0.5, dim=1) / norms


def _median_suspect(norms: Tensor, reached: Tensor, pixels: int, fraction: float) -> bool:
    """Whether half of the labels or more may have a backdoor: the median is a small share of the image, or it is below
    `fraction` of the large norms (their 0.9 quantile), so that those stand out and not the small ones."""
    median, large = float(norms.quantile(0.5)), 0.0
    if reached.any():
        large = float(norms[reached].quantile(0.9))
    return median < max(SMALL_MEDIAN * pixels, fraction * large)
