"""SAGE: self-attention distillation (Gong, Chen, Yang, Huang, Li, Xue, IEEE S&P 2023, "Redeem Myself").

A backdoor lives in the deep layers, and their attention shows it. SAGE needs no clean teacher: it trains the suspect
on a few clean images so that the attention maps of deep layers agree with those of shallower ones,

    L = L_CE + Σ β · L_SAD(ψ_i, ψ_j)        over the paths ⟨i, j⟩, by default ⟨1,2⟩, ⟨2,3⟩, ⟨3,4⟩,   (eq. 5)

and halves the learning rate when the loss on held-out clean images stops falling (eq. 6; here an option).

Where this differs from the paper: it selects the epoch on held-out clean images (the paper does not say how; looking
at the attack success is not open to a defender), and the `service` defaults add five things. Augmentation, a rate that
falls along a cosine, averaged weights and the suspect's own logits as soft labels keep accuracy on small bundles; rates
relative to the size of the weights suit networks however they were trained. `PAPER` switches all five off.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from worker.algorithms.attention import Attention, Distance, Function, Side, attention_distance, one_each
from worker.algorithms.checkpoint import Checkpoint, Keep, keep_nothing
from worker.algorithms.data import Images, as_float
from worker.algorithms.distillation import answers, divergence
from worker.algorithms.folding import folded
from worker.algorithms.learning_rate import Scale, Schedule
from worker.algorithms.paths import Paths, resolve
from worker.algorithms.purifiers.purified import Purified
from worker.algorithms.purifiers.retraining import Augmentation, Choice, Recipe, retrain
from worker.algorithms.taps import PROBED, Tap, find_taps, notes_on, recording
from worker.algorithms.training import Loss, Progress, ignore

PAPER: dict[str, Any] = {
    "epochs": 100,
    "lr": 0.05,
    "lr_scale": "none",
    "schedule": "dynamic",
    "period": 25,
    "augmentation": "none",
    "averaging": 0.0,
    "own_logits": 0.0,
    "choose": "last",
}
"""The paper's settings for CIFAR-10, as options of `sage`; what is not here has the paper's value by default."""

STEPS, FEWEST_EPOCHS = 240, 15


def sage(
    model: nn.Module,
    clean: Images,
    held_out: Images,
    *,
    beta: float | Sequence[float] = 300.0,
    attention: Function = "sum_p",
    p: float = 2.0,
    normalize: bool = True,
    distance: Distance = "mse",
    detach: Side = "none",
    taps: Sequence[str] = (),
    paths: Paths = "adjacent",
    epochs: int | None = None,
    batch_size: int = 64,
    lr: float = 0.03,
    lr_scale: Scale = "filters",
    schedule: Schedule = "cosine",
    period: int | None = None,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    augmentation: Augmentation = "crop_and_flip",
    averaging: float = 0.995,
    own_logits: float = 1.0,
    choose: Choice = "held_out",
    seed: int = 0,
    progress: Progress = ignore,
    resume: Checkpoint | None = None,
    checkpoint: Keep = keep_nothing,
) -> Purified:
    """Purify `model` with clean images: train on `clean`, choose by `held_out`; both on the model's device.

    `model` takes float (N, C, H, W) in [0, 1] to logits; it is not changed. `beta` weighs the attention distances, all
    alike or one weight a path; 0 leaves plain fine-tuning, the control. `attention`, `p`, `normalize`, `distance` and
    `detach` are those of `Attention`. `taps` names the modules to read, shallow to deep; none: they are found.
    `paths` are those of `paths.resolve`. `epochs`: none given, as many as `enough_epochs` says; `period`: none given, a
    sixth of them. `own_logits` weighs the divergence from the suspect's own predictions on the same clean images at
    temperature 2. The rest is `Recipe`'s.

    Raises `TooFewTaps` for a network without two usable maps, `UnfitOptions` where taps, paths and betas do not fit
    together, `Diverged` when training fails twice.
    """
    few = as_float(clean.pixels[:PROBED])
    found = find_taps(copy.deepcopy(model).eval(), few, taps)
    aligned = resolve(paths, [tap.name for tap in found.used])
    how = Attention(attention, p, normalize, distance, detach)
    betas = dict(zip(aligned, one_each(beta, len(aligned), "paths"), strict=True))
    loss = _objective(folded(model, few), found.used, betas, how, own_logits)
    epochs = epochs or enough_epochs(len(clean), batch_size)
    recipe = Recipe(
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        lr_scale=lr_scale,
        schedule=schedule,
        period=period,
        momentum=momentum,
        weight_decay=weight_decay,
        augmentation=augmentation,
        averaging=averaging,
        choose=choose,
        seed=seed,
    )
    purified = retrain(model, clean, held_out, loss, recipe, progress=progress, resume=resume, checkpoint=checkpoint)
    return dataclasses.replace(purified, taps=found.used, notes=[*purified.notes, *notes_on(found)])


def enough_epochs(images: int, batch_size: int) -> int:
    """What a small bundle lacks is steps as much as images: `STEPS` of them, and `FEWEST_EPOCHS` where there are many
    images. Measured on suspects of four kinds (docs/lab-notes.md)."""
    return max(FEWEST_EPOCHS, math.ceil(STEPS / math.ceil(images / batch_size)))


def _objective(
    suspect: nn.Module, taps: Sequence[Tap], beta: dict[tuple[str, str], float], how: Attention, own_logits: float
) -> Loss:
    """Cross-entropy + Σ β · attention distance over the paths + `own_logits` · divergence from the suspect."""

    def loss(network: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
        with recording(network, taps) as features:
            predicted = network(x).float()
        total = F.cross_entropy(predicted, labels)
        for (shallow, deep), weight in beta.items():
            if weight:
                total = total + weight * attention_distance(features[shallow], features[deep], how)
        if own_logits:
            total = total + own_logits * divergence(predicted, answers(suspect, x))
        return total

    return loss
