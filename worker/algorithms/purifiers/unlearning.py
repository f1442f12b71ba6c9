"""Unlearning by Neural Cleanse (Wang, Yao, Shan, Li, Viswanath, Zheng, Zhao, IEEE S&P 2019, section VI-C).

The trigger of the label that Neural Cleanse flags is put on a fifth of the clean images, which keep their true labels,
and the suspect is fine-tuned on them: it learns that the trigger means nothing.

Differs from the paper in that

- images are stamped batch by batch, after augmentation: the trigger stays where it was found, and meets other images
  in every epoch;
- one epoch on a tenth of the training set becomes several on the few clean images that there are;
- several flagged labels are unlearnt together, their triggers in turn; where no label is flagged, it is the one with
  the smallest trigger, and a note says so.

What Neural Cleanse does not find (a warp, a picture over the whole image) this does not unlearn: it is fine-tuning
then.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from worker.algorithms.checkpoint import Checkpoint, Keep, keep_nothing
from worker.algorithms.data import Images
from worker.algorithms.detectors.neural_cleanse import NeuralCleanse, neural_cleanse
from worker.algorithms.learning_rate import Schedule
from worker.algorithms.metrics import logits
from worker.algorithms.notes import Note
from worker.algorithms.purifiers.objective import in_training
from worker.algorithms.purifiers.phases import in_two_phases
from worker.algorithms.purifiers.purified import Purified
from worker.algorithms.purifiers.retraining import Augmentation, Choice, Recipe, retrain
from worker.algorithms.training import Loss, Progress, cross_entropy, ignore
from worker.algorithms.triggers import blend

FOUND = "unlearnt"  # in checkpoints
SEARCH = 0.5  # of the work, roughly, is the reversal of triggers


def unlearning(
    model: nn.Module,
    clean: Images,
    held_out: Images,
    *,
    share: float = 0.2,
    steps: int = 300,
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
    """Reverse triggers on `clean`, and fine-tune `model` on images that carry them; both sets on the model's device.

    `model` takes float (N, C, H, W) in [0, 1] to logits of two labels at least; it is not changed. `share` of a batch,
    in [0, 1], is stamped; 0 leaves plain fine-tuning. `steps` are those of Neural Cleanse.

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

    def search(_: Checkpoint | None) -> dict[str, Tensor]:
        classes = logits(model, clean.pixels[:1]).shape[1]
        found = neural_cleanse(
            model, clean, num_classes=classes, steps=steps, seed=seed, progress=lambda done: progress(SEARCH * done)
        )
        return suspicious(found)

    def unlearn(found: dict[str, Tensor], go_on: Checkpoint | None, keep: Keep) -> Purified:
        found = {name: tensor.to(clean.pixels.device) for name, tensor in found.items()}  # from a file it is not there
        tuned = retrain(
            model,
            clean,
            held_out,
            _objective(found, share),
            recipe,
            progress=lambda done: progress(SEARCH + (1 - SEARCH) * done),
            resume=go_on,
            checkpoint=keep,
        )
        return dataclasses.replace(tuned, notes=[*tuned.notes, *notes_on(found)])

    return in_two_phases(FOUND, search, unlearn, resume=resume, checkpoint=checkpoint)


def suspicious(found: NeuralCleanse) -> dict[str, Tensor]:
    """The triggers to unlearn: of the flagged labels, or the smallest that was found; none where none was found."""
    flagged = found.anomaly.flagged
    smallest = [int(found.norms.argmin())] if bool(found.triggers.reached.any()) else []
    labels = torch.tensor(flagged or smallest, dtype=torch.int64, device=found.norms.device)
    return {
        "labels": labels,
        "masks": found.triggers.masks[labels],
        "patterns": found.triggers.patterns[labels],
        "flagged": torch.tensor(len(flagged)),
    }


def _objective(found: dict[str, Tensor], share: float) -> Loss:
    """Cross-entropy with the true labels, the images stamped."""

    def loss(network: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(network, stamped(x, found["masks"], found["patterns"], share), labels)

    return in_training(loss)


def stamped(x: Tensor, masks: Tensor, patterns: Tensor, share: float) -> Tensor:
    """Images (N, C, H, W), the first `share` of them with the triggers `masks` (K, 1, H, W) and `patterns` (K, C, H, W)
    in turn. A batch is shuffled: its first images are any."""
    count = round(share * len(x)) if len(masks) else 0
    turn = torch.arange(count, device=x.device) % max(1, len(masks))
    return torch.cat([blend(x[:count], masks[turn], patterns[turn]), x[count:]])


def notes_on(found: dict[str, Tensor]) -> list[Note]:
    if found["flagged"]:
        return []
    if not len(found["labels"]):
        message = "Neural Cleanse found no trigger for any label: this is plain fine-tuning."
        return [Note("nothing_to_unlearn", message, "More option `steps`, or another purifier.")]
    label, pixels = int(found["labels"][0]), float(found["masks"].sum())
    message = f"Neural Cleanse flagged no label: unlearnt was the smallest trigger, label {label}, {pixels:.1f} pixels."
    return [Note("no_label_flagged", message, "A backdoor without a small patch for a trigger needs another purifier.")]
