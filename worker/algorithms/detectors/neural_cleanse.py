"""Neural Cleanse: reverse a trigger for every label, and look for one that is far too small (Wang et al., S&P 2019)."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worker.algorithms.data import Images
from worker.algorithms.detectors.anomaly import Anomaly, anomaly
from worker.algorithms.detectors.every_label import images_a_step
from worker.algorithms.detectors.reversal import ReversedTriggers, reverse_triggers
from worker.algorithms.training import Progress, between, ignore


@dataclass(frozen=True)
class NeuralCleanse:
    """`triggers` has each label's smallest trigger of all seeds. `norms` (K,) are what the anomaly is computed from:
    medians over the seeds, which are the triggers' own norms where there is one seed. `spread` (K,) is the largest
    less the smallest norm over the seeds, of which there are `seeds`."""

    triggers: ReversedTriggers
    norms: Tensor
    spread: Tensor
    anomaly: Anomaly
    seeds: int


def neural_cleanse(
    model: nn.Module,
    images: Images,
    *,
    num_classes: int,
    steps: int = 300,
    batch_size: int = 16,
    lr: float = 0.1,
    asr_threshold: float = 0.99,
    initial_cost: float = 1e-3,
    cost_multiplier: float = 1.5,
    seeds: int = 1,
    seed: int = 0,
    progress: Progress = ignore,
) -> NeuralCleanse:
    """Reverse a trigger for each label on clean `images`, and flag the labels whose trigger is an outlier.

    With `seeds` above one that many searches are made, with `seed`, `seed` + 1 and so on, from other starts and on
    other batches: the norm of a label is then its median over them. One search of a norm is off by some ten per cent.
    Needs two labels at least.
    """
    if num_classes < 2:
        raise ValueError(f"Neural Cleanse compares labels, and there is only {num_classes}")
    runs = [
        reverse_triggers(
            model,
            images,
            range(num_classes),
            steps=steps,
            batch_size=images_a_step(batch_size, num_classes),
            lr=lr,
            asr_threshold=asr_threshold,
            initial_cost=initial_cost,
            cost_multiplier=cost_multiplier,
            seed=seed + run,
            progress=between(progress, run / seeds, (run + 1) / seeds),
        )
        for run in range(seeds)
    ]
    return summary(runs, pixels=images.pixels[0, 0].numel())


def summary(runs: list[ReversedTriggers], *, pixels: int) -> NeuralCleanse:
    """Several searches for the same labels in one: medians for the statistics, the smallest trigger of each label.

    `pixels` is H · W. A label counts as reached where one of the searches reached it.
    """
    norms = torch.stack([run.norms for run in runs])
    medians = norms.quantile(0.5, dim=0)
    triggers = functools.reduce(ReversedTriggers.smaller, runs)
    return NeuralCleanse(
        triggers=triggers,
        norms=medians,
        spread=norms.amax(0) - norms.amin(0),
        anomaly=anomaly(medians, triggers.reached, pixels=pixels),
        seeds=len(runs),
    )
