"""Fine-Pruning (Liu, Dolan-Gavitt, Garg, RAID 2018): prune the neurons that sleep on clean images, then fine-tune.

Against pruning alone a backdoor can live in the neurons that clean images need; fine-tuning alone does not touch those
that they do not need.
"""

from __future__ import annotations

import dataclasses

from torch import nn

from worker.algorithms.checkpoint import Checkpoint, Keep, keep_nothing
from worker.algorithms.data import Images
from worker.algorithms.learning_rate import Schedule
from worker.algorithms.purifiers.channels import Zeros, notes_on, put_zeros, with_zeros
from worker.algorithms.purifiers.phases import in_two_phases
from worker.algorithms.purifiers.pruning import TOO_DEAR, dormant
from worker.algorithms.purifiers.purified import Purified
from worker.algorithms.purifiers.retraining import Augmentation, Choice, Recipe, retrain
from worker.algorithms.training import Progress, between, cross_entropy, ignore

PRUNING = 0.05  # the share of pruning in the time
ZEROS = "zeros"


def fine_pruning(
    model: nn.Module,
    clean: Images,
    held_out: Images,
    *,
    max_drop: float = 0.05,
    epochs: int = 50,
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
    """Prune `model` as `pruning` does, then train what is left on `clean` by cross-entropy.

    `model` takes float (N, C, H, W) in [0, 1] to logits; it is not changed. `max_drop` is the held-out accuracy that
    pruning may cost, a fraction in [0, 1]; what fine-tuning does with it is another matter. The rest is that of
    `fine_tuning`. What was pruned is put to zero again after every step, or it would grow back. The history is of the
    epochs.

    Raises `UnfitNetwork` for a network without maps, `Diverged` when training fails twice.
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

    def prune(_: Checkpoint | None) -> Zeros:
        return dormant(model, clean, held_out, max_drop=max_drop, progress=between(progress, 0, PRUNING))[0]

    def tune(zeros: Zeros, go_on: Checkpoint | None, keep: Keep) -> Purified:
        tuned = retrain(
            model,
            clean,
            held_out,
            cross_entropy,
            recipe,
            start=with_zeros(model, zeros),
            after_step=lambda network: put_zeros(network, zeros),
            progress=between(progress, PRUNING, 1),
            resume=go_on,
            checkpoint=keep,
        )
        pruned = any(bool(where.any()) for where in zeros.values())
        return dataclasses.replace(tuned, notes=[*tuned.notes, *notes_on(pruned, TOO_DEAR)])

    return in_two_phases(ZEROS, prune, tune, resume=resume, checkpoint=checkpoint)
