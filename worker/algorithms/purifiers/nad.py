"""NAD, neural attention distillation (Li, Lyu, Koren, Lyu, Li, Ma, ICLR 2021).

The suspect is fine-tuned on clean images, and that network is the teacher of the suspect itself:

    L = L_CE + Σ β_l · ‖N(A_T^l) - N(A_S^l)‖²        over the taps l, A = Σ_c |F_c|²,

whose attention maps are drawn to the teacher's. Differs from the paper: the taps are found as SAGE finds them, with one
weight for all or one a tap (the paper: 500, 1000, 1000 on the three groups of a WideResNet); the augmentation has no
cutout; the distance is the mean of squares over pixels, as the authors' code has it; and the rate is a fifth of the
paper's 0.1, at which the lab's networks lose their accuracy (docs/lab-notes.md).
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worker.algorithms.attention import attention_distance, one_each
from worker.algorithms.checkpoint import Checkpoint, Keep, keep_nothing
from worker.algorithms.data import Images, as_float
from worker.algorithms.learning_rate import Schedule
from worker.algorithms.purifiers.fine_tuning import fine_tuning
from worker.algorithms.purifiers.phases import in_two_phases, loaded
from worker.algorithms.purifiers.purified import Purified
from worker.algorithms.purifiers.retraining import Augmentation, Choice, Recipe, retrain
from worker.algorithms.taps import PROBED, Tap, find_taps, notes_on, recording
from worker.algorithms.training import Loss, Progress, between, ignore

TEACHER = "teacher"  # in checkpoints


def nad(
    model: nn.Module,
    clean: Images,
    held_out: Images,
    *,
    beta: float | Sequence[float] = 1000.0,
    taps: Sequence[str] = (),
    teacher_epochs: int = 10,
    teacher_lr: float = 0.01,
    epochs: int = 20,
    batch_size: int = 64,
    lr: float = 0.02,
    schedule: Schedule = "divided",
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    augmentation: Augmentation = "crop_and_flip",
    choose: Choice = "last",
    seed: int = 0,
    progress: Progress = ignore,
    resume: Checkpoint | None = None,
    checkpoint: Keep = keep_nothing,
) -> Purified:
    """Purify `model` with clean images: fine-tune a teacher on `clean`, then draw the suspect's attention to its own.

    `model` takes float (N, C, H, W) in [0, 1] to logits; it is not changed. `beta` weighs the distances of the
    attention maps, all alike or one weight a tap; 0 leaves plain fine-tuning. `taps` names the modules to read; none:
    they are found. The schedule `divided` is the paper's: a tenth of the rate every two epochs.

    Raises `TooFewTaps` for a network without two usable maps, `UnfitOptions` where taps and betas do not fit together,
    `Diverged` when training fails twice.
    """
    found = find_taps(copy.deepcopy(model).eval(), as_float(clean.pixels[:PROBED]), taps)
    weights = one_each(beta, len(found.used), "taps")
    common: dict[str, Any] = {
        "batch_size": batch_size,
        "momentum": momentum,
        "weight_decay": weight_decay,
        "augmentation": augmentation,
        "choose": choose,
        "seed": seed,
    }
    share = teacher_epochs / (teacher_epochs + epochs)

    def fine_tuned(go_on: Checkpoint | None) -> dict[str, Tensor]:
        tuned = fine_tuning(
            model,
            clean,
            held_out,
            epochs=teacher_epochs,
            lr=teacher_lr,
            progress=between(progress, 0, share),
            resume=go_on,
            checkpoint=checkpoint,
            **common,
        )
        return tuned.model.state_dict()

    def distilled(teacher: dict[str, Tensor], go_on: Checkpoint | None, keep: Keep) -> Purified:
        return retrain(
            model,
            clean,
            held_out,
            _objective(loaded(model, teacher).eval(), found.used, weights),
            Recipe(epochs=epochs, lr=lr, lr_scale="none", schedule=schedule, averaging=0.0, **common),
            progress=between(progress, share, 1),
            resume=go_on,
            checkpoint=keep,
        )

    purified = in_two_phases(TEACHER, fine_tuned, distilled, resume=resume, checkpoint=checkpoint)
    return dataclasses.replace(purified, taps=found.used, notes=[*purified.notes, *notes_on(found)])


def _objective(teacher: nn.Module, taps: Sequence[Tap], beta: Sequence[float]) -> Loss:
    """Cross-entropy + Σ β · distance of the student's attention from the teacher's over the taps."""
    teacher = teacher.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def loss(network: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
        with recording(network, taps) as own:
            total = F.cross_entropy(network(x).float(), labels)
        if not any(beta):
            return total
        with recording(teacher, taps) as taught, torch.no_grad():
            teacher(x)
        for tap, weight in zip(taps, beta, strict=True):
            if weight:
                total = total + weight * attention_distance(taught[tap.name], own[tap.name])
        return total

    return loss
