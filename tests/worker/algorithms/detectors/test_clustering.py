from __future__ import annotations

import numpy as np
import pytest
import torch

from worker.algorithms.detectors.clustering import principal_components, silhouette, two_means


def two_clouds(sizes: tuple[int, int], distance: float) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    side = torch.cat([torch.zeros(sizes[0]), torch.ones(sizes[1])]).long()
    return torch.randn(sum(sizes), 6, generator=random) + distance * side[:, None], side


def test_principal_components_keep_distances_and_order() -> None:
    x, _ = two_clouds((30, 10), 3.0)
    everything = principal_components(x, 10)
    assert everything.shape == (40, 6)
    assert torch.allclose(everything @ everything.T, (x - x.mean(0)) @ (x - x.mean(0)).T, atol=1e-3)
    variances = np.linalg.eigvalsh(np.cov(x.numpy().T))[::-1]
    assert principal_components(x, 2).var(0).numpy() == pytest.approx(variances[:2], rel=1e-3)


@pytest.mark.parametrize("sizes", [(40, 40), (70, 5)])
def test_two_clouds_are_told_apart(sizes: tuple[int, int], generator: torch.Generator) -> None:
    x, side = two_clouds(sizes, 6.0)
    found = two_means(x, generator)
    assert torch.equal(found, side) or torch.equal(found, 1 - side)


def test_points_that_are_all_the_same_are_no_clusters(generator: torch.Generator) -> None:
    x = torch.ones(12, 3)
    assert float(silhouette(x, two_means(x, generator))) == 0.0


def test_the_silhouette_is_that_of_the_definition() -> None:
    x, _ = two_clouds((7, 4), 1.0)
    cluster = torch.tensor([0, 0, 0, 1, 0, 0, 1, 1, 1, 1, 0])
    points, sides = x.numpy(), cluster.numpy()
    values = []
    for place, point in enumerate(points):
        distances = np.linalg.norm(points - point, axis=1)
        own = (sides == sides[place]) & (np.arange(len(points)) != place)
        within, without = distances[own].mean(), distances[sides != sides[place]].mean()
        values.append((without - within) / max(within, without))
    assert float(silhouette(x, cluster)) == pytest.approx(np.mean(values), abs=1e-4)


def test_a_point_alone_counts_as_zero() -> None:
    x, cluster = torch.tensor([[0.0], [0.0], [5.0]]), torch.tensor([0, 0, 1])
    assert float(silhouette(x, cluster)) == pytest.approx(2 / 3)
