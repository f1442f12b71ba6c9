"""FST, feature shift tuning (Min, Qin, Shen, Cheng, NeurIPS 2023, "Towards Stable Backdoor Purification through Feature
Shift Tuning").

Fine-tuning leaves the backdoor's features where they are: clean and triggered ones are too close, and the head still
fits them. FST draws a new head and pushes it off the old one, so that the features have to follow,

    L = L_CE + α · ⟨w, w_suspect⟩,      ‖w‖ = ‖w_suspect‖ after every step,

with w the weights of the last layer. The second condition keeps w from growing against the first. It needs few steps
and is made for backdoors of few poisoned images.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from worker.algorithms.checkpoint import Checkpoint, Keep, keep_nothing
from worker.algorithms.data import Images, as_float
from worker.algorithms.features import find_head
from worker.algorithms.learning_rate import Schedule
from worker.algorithms.purifiers.purified import Purified
from worker.algorithms.purifiers.retraining import Augmentation, Choice, Recipe, retrain
from worker.algorithms.training import Loss, Progress, cross_entropy, ignore

PROBED = 2  # images that show which layer is the head


def fst(
    model: nn.Module,
    clean: Images,
    held_out: Images,
    *,
    alpha: float = 0.1,
    epochs: int = 10,
    batch_size: int = 64,
    lr: float = 0.01,
    schedule: Schedule = "cosine",
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    augmentation: Augmentation = "crop_and_flip",
    choose: Choice = "last",
    seed: int = 0,
    progress: Progress = ignore,
    resume: Checkpoint | None = None,
    checkpoint: Keep = keep_nothing,
) -> Purified:
    """Train `model` on `clean` with a head that is pushed off the suspect's; both sets on the model's device.

    `model` takes float (N, C, H, W) in [0, 1] to logits; it is not changed. `alpha` weighs the inner product of the
    head's weights with the suspect's; with many classes it should be small.

    Differs from the paper in that the new head has the old norm from the start, and in batches of 64 images instead of
    128. What it measured on the lab's patch is an attack success near 0 with the triggered images in another wrong
    class: the trigger no longer leads to its target, but is not forgotten. Look at the recovery accuracy.

    Raises `UnknownTap` for a network without a head, `Diverged` when training fails twice.
    """
    head = find_head(copy.deepcopy(model).eval(), as_float(clean.pixels[:PROBED]))
    original = _weight(model, head).detach().clone()
    norm = original.norm()
    recipe = Recipe(
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        lr_scale="none",
        schedule=schedule,
        momentum=momentum,
        weight_decay=weight_decay,
        augmentation=augmentation,
        averaging=0.0,
        choose=choose,
        seed=seed,
    )
    return retrain(
        model,
        clean,
        held_out,
        _objective(head, original, alpha),
        recipe,
        start=with_new_head(model, head, seed),
        after_step=lambda network: _rescale(_weight(network, head), norm),
        progress=progress,
        resume=resume,
        checkpoint=checkpoint,
    )


def _weight(network: nn.Module, head: str) -> Tensor:
    weight = network.get_submodule(head).weight
    assert isinstance(weight, Tensor)  # noqa: S101 - that makes it a head
    return weight


@torch.no_grad()
def with_new_head(suspect: nn.Module, head: str, seed: int) -> nn.Module:
    """A copy whose head has random weights of the old norm, and a random bias in U(-1/√d, 1/√d), d inputs a class."""
    start = copy.deepcopy(suspect)
    generator = torch.Generator().manual_seed(seed)
    weight = _weight(start, head)
    bound = 1 / math.sqrt(weight[0].numel())
    norm = weight.norm()
    for parameter in start.get_submodule(head).parameters(recurse=False):
        drawn = torch.rand(parameter.shape, generator=generator) * 2 * bound - bound
        parameter.copy_(drawn)
    _rescale(weight, norm)
    return start


def _objective(head: str, original: Tensor, alpha: float) -> Loss:
    """Cross-entropy + α · the inner product of the head's weights with the `original` ones."""

    def loss(network: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(network, x, labels) + alpha * (_weight(network, head).float() * original).sum()

    return loss


@torch.no_grad()
def _rescale(weight: Tensor, norm: Tensor) -> None:
    weight.mul_(norm / weight.norm())
