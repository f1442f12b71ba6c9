"""Activation clustering: triggered images and honest ones of a class are two clusters in the penultimate features
(Chen, Carvalho, Baracaldo, Ludwig, Edwards, Lee, Molloy, Srivastava, 2018).

The paper looks at a training set: of two clusters in the features of a class, a small and compact one is poison. Here
suspicious images come beside clean ones, and these say which cluster is the honest one, however many of the suspicious
images are triggered.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worker.algorithms.data import Images
from worker.algorithms.detectors.clustering import principal_components, silhouette, two_means
from worker.algorithms.detectors.every_label import generator
from worker.algorithms.features import features
from worker.algorithms.metrics import logits
from worker.algorithms.training import Progress, ignore

FEWEST = 10  # clean and suspicious images of a class each; of fewer, a share says nothing


@dataclass(frozen=True)
class ActivationClustering:
    """One entry a class k of what the model predicts. `silhouettes`, -1 to 1: how far apart the two clusters are.
    `relative_sizes`, 0 to 1: the share of the class's clean images in the cluster that suspicious images prefer, over
    the share of its suspicious images there; 1 where they spread alike, 0 where no clean image is with them. Both are
    None for a class with too few images.

    `flagged_labels` are the classes with a cluster of poison; `flagged` (M,) bool the suspicious images in it.
    """

    silhouettes: list[float | None]
    relative_sizes: list[float | None]
    flagged_labels: list[int]
    flagged: Tensor


def activation_clustering(
    model: nn.Module,
    clean: Images,
    suspicious: Images,
    *,
    num_classes: int,
    dimensions: int = 10,
    largest_size: float = 0.35,
    smallest_silhouette: float = 0.1,
    seed: int = 0,
    progress: Progress = ignore,
) -> ActivationClustering:
    """Cluster the penultimate features of clean and suspicious images that the model takes for the same class.

    `model` takes float (N, C, H, W) in [0, 1] to logits; it is not changed. Features are brought to `dimensions`
    principal components and cut in two by k-means. A class is flagged where its relative size is below `largest_size`
    and its silhouette above `smallest_silhouette`. Labels are not looked at. Raises `UnknownTap` for a network without
    a head of weights.

    Differs from the paper: clean images beside the suspicious ones, a size relative to them, principal components
    instead of independent ones.
    """
    count = len(clean)
    pixels = torch.cat([clean.pixels, suspicious.pixels])
    activations, predicted = features(model, pixels), logits(model, pixels).argmax(1).tolist()
    sizes: list[float | None] = [None] * num_classes
    silhouettes: list[float | None] = [None] * num_classes
    poisonous = torch.zeros(len(pixels), dtype=torch.bool, device=pixels.device)
    flagged_labels = []
    for label in range(num_classes):
        progress((label + 1) / num_classes)
        places = [place for place, prediction in enumerate(predicted) if prediction == label]
        honest = sum(place < count for place in places)
        if min(honest, len(places) - honest) < FEWEST:
            continue
        found = _cut(activations[places], honest, dimensions, generator(seed, label))
        silhouettes[label], sizes[label], preferred = found
        if found[1] < largest_size and found[0] > smallest_silhouette:
            flagged_labels.append(label)
            poisonous[places] = preferred
    return ActivationClustering(silhouettes, sizes, flagged_labels, poisonous[count:])


def _cut(activations: Tensor, honest: int, dimensions: int, generator: torch.Generator) -> tuple[float, float, Tensor]:
    """Silhouette, relative size, and which of the activations (N, D) are in the cluster that suspicious images prefer;
    the first `honest` ones are of clean images."""
    reduced = principal_components(activations, dimensions)
    cluster = two_means(reduced, generator)
    ones = cluster.float()
    clean_share, suspicious_share = ones[:honest].mean(), ones[honest:].mean()
    prefers_ones = suspicious_share >= clean_share
    smaller = torch.where(prefers_ones, clean_share, 1 - clean_share)
    larger = torch.where(prefers_ones, suspicious_share, 1 - suspicious_share)
    size = float(smaller / larger) if larger > 0 else 1.0  # features that are all the same are one cluster
    return float(silhouette(reduced, cluster)), size, cluster == prefers_ones.long()
