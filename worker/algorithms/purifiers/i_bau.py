"""I-BAU, backdoor adversarial unlearning, in a reduced form (Zeng, Chen, Park, Mao, Jin, Jia, ICLR 2022, "Adversarial
Unlearning of Backdoors via Implicit Hypergradient").

Nobody knows the trigger, but a backdoored network has one perturbation that misleads it on nearly every image. It is
looked for all the time, and unlearnt all the time:

    min over θ  max over ‖δ‖ ≤ r  of  1/n Σ L_CE(f_θ(x_i + δ), y_i)

Reduced, in that the gradient by θ takes δ for a constant. The paper adds how δ would follow θ, by an implicit
hyper-gradient, since it takes few outer steps with an optimal δ. Here δ goes on from step to step (as in Shafahi et
al., AAAI 2020, "Universal Adversarial Training"), and is no optimum whose answer could be derived.
"""

from __future__ import annotations

import copy
import dataclasses

import torch
from torch import Tensor, nn

from worker.algorithms.checkpoint import Checkpoint, Keep, keep_nothing
from worker.algorithms.data import Images
from worker.algorithms.learning_rate import Schedule
from worker.algorithms.purifiers.objective import in_training
from worker.algorithms.purifiers.purified import Purified
from worker.algorithms.purifiers.retraining import Augmentation, Choice, Recipe, retrain
from worker.algorithms.training import Loss, Progress, cross_entropy, ignore

TINY = 1e-12  # keeps quotients numbers where a gradient is zero


def i_bau(
    model: nn.Module,
    clean: Images,
    held_out: Images,
    *,
    radius: float = 0.08,
    step: float = 0.2,
    share: float = 0.1,
    epochs: int = 20,
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
    """Train `model` on `clean` against one universal perturbation of its own; both sets on the model's device.

    `model` takes float (N, C, H, W) in [0, 1] to logits; it is not changed. `radius` bounds the root mean square of the
    perturbation over channels and pixels, on the scale of the images; 0 leaves plain fine-tuning. Before each step of
    training the perturbation takes one of ascent, as long as `step` times the radius; it is put on a `share` of the
    batch, in [0, 1].

    Differs from the paper also in the bound, which it leaves to a penalty, in SGD for Adam, and in that a perturbation
    lasts from batch to batch. The defaults are measured on 500 images: a wider share or more epochs cost accuracy, and
    half the radius leaves a fifth of a patch's success.

    Raises `Diverged` when training fails twice.
    """
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
    attacked = Attacked(copy.deepcopy(model), torch.zeros_like(clean.pixels[0], dtype=torch.float32))
    loss = _objective(radius, step, share)
    purified = retrain(
        attacked.train(model.training),
        clean,
        held_out,
        loss,
        recipe,
        progress=progress,
        resume=resume,
        checkpoint=checkpoint,
    )
    return dataclasses.replace(purified, model=purified.model.get_submodule("network"))


class Attacked(nn.Module):
    """`network` and the perturbation (C, H, W) that it is trained against: a buffer, so that checkpoints have it."""

    perturbation: Tensor

    def __init__(self, network: nn.Module, perturbation: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("perturbation", perturbation)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        return logits


def _objective(radius: float, step: float, share: float) -> Loss:
    """Cross-entropy of a batch, a `share` of which carries the perturbation, after one step of its ascent."""

    def loss(attacked: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
        assert isinstance(attacked, Attacked)  # noqa: S101 - what `i_bau` trains
        ascend(attacked, x, labels, radius, step)
        count = round(share * len(x))
        perturbed = perturb(x[:count], attacked.perturbation)
        return cross_entropy(attacked, torch.cat([perturbed, x[count:]]), labels)

    return in_training(loss)


def ascend(attacked: Attacked, x: Tensor, labels: Tensor, radius: float, step: float) -> None:
    """One step of the perturbation up the loss on `x`, of the network in evaluation mode, and back into the ball of
    `radius`; the step is as long as `step` times that. The network is in training mode afterwards."""
    delta = attacked.perturbation.detach().clone().requires_grad_()
    attacked.eval()
    (slope,) = torch.autograd.grad(cross_entropy(attacked, perturb(x, delta), labels), delta)
    attacked.train()
    with torch.no_grad():
        delta += step * radius * slope / (rms(slope) + TINY)
        attacked.perturbation.copy_(delta * (radius / (rms(delta) + TINY)).clamp(max=1))


def perturb(x: Tensor, perturbation: Tensor) -> Tensor:
    """Images (N, C, H, W) in [0, 1], and so they stay, with one perturbation (C, H, W) on all."""
    return (x + perturbation).clamp(0, 1)


def rms(values: Tensor) -> Tensor:
    """Root mean square."""
    return values.square().mean().sqrt()
