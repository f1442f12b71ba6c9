"""Principal components, two means and their silhouette: what clustering a few hundred activations takes."""

from __future__ import annotations

import torch
from torch import Tensor

STARTS = 8  # searches side by side; the best is taken
EXACT = "donot_use_mm_for_euclid_dist"  # by products, a point is a little away from itself
ROUNDS = 30  # of Lloyd's algorithm; two clusters settle in fewer


def principal_components(x: Tensor, dimensions: int) -> Tensor:
    """x (N, D) in its first `dimensions` principal components (N, P), strongest first; P = min(N, D, dimensions)."""
    centred = x - x.mean(0)
    left, strengths, _ = torch.linalg.svd(centred, full_matrices=False)
    components: Tensor = left[:, :dimensions] * strengths[:dimensions]
    return components


def two_means(x: Tensor, generator: torch.Generator) -> Tensor:
    """Which of two clusters each of x (N, P) belongs to, int64 (N,) of zeros and ones: Lloyd's algorithm from several
    starts at once, each two points far from each other (k-means++, Arthur & Vassilvitskii 2007)."""
    centres = _starts(x, generator)
    for _ in range(ROUNDS):
        nearest = torch.cdist(x[None], centres).argmin(2)
        members = torch.nn.functional.one_hot(nearest, 2).to(x.dtype)  # (S, N, 2)
        counts = members.sum(1)[:, :, None]
        centres = torch.where(counts > 0, members.transpose(1, 2) @ x / counts.clamp(min=1), centres)
    distances, nearest = torch.cdist(x[None], centres).min(2)
    return nearest[distances.square().sum(1).argmin()]


def silhouette(x: Tensor, cluster: Tensor) -> Tensor:
    """The mean silhouette (Rousseeuw 1987) of x (N, P) in two clusters (N,) of zeros and ones: a scalar in [-1, 1].

    (b - a) / max(a, b), with a the mean distance from the others of the own cluster and b from the other cluster. An
    image alone in its cluster has zero, and so has everything where one cluster is empty.
    """
    members = torch.nn.functional.one_hot(cluster, 2).to(x.dtype)
    counts, sums = members.sum(0), torch.cdist(x, x, compute_mode=EXACT) @ members
    own, other = (sums.gather(1, side[:, None])[:, 0] for side in (cluster, 1 - cluster))
    within, without = own / (counts[cluster] - 1).clamp(min=1), other / counts[1 - cluster].clamp(min=1)
    values = (without - within) / torch.maximum(within, without).clamp(min=torch.finfo(x.dtype).tiny)
    alone = (counts[cluster] < 2) | (counts[1 - cluster] == 0)
    return torch.where(alone, 0.0, values).mean()


def _starts(x: Tensor, generator: torch.Generator) -> Tensor:
    """(S, 2, P): a random point each, and another drawn by its squared distance from the first."""
    first = x[torch.randint(len(x), (STARTS,), generator=generator).to(x.device)]
    reached = torch.cdist(first, x).square().cumsum(1)
    drawn = torch.rand(STARTS, 1, generator=generator).to(x) * reached[:, -1:]
    second = torch.searchsorted(reached, drawn).clamp(max=len(x) - 1)[:, 0]
    return torch.stack([first, x[second]], dim=1)
