"""Unlearning by Neural Cleanse (Wang, Yao, Shan, Li, Viswanath, Zheng, Zhao, IEEE S&P 2019, section VI-C).

The trigger of the label that Neural Cleanse flags is put on a fifth of the clean images, which keep their true labels,
and the suspect is fine-tuned on them: it learns that the trigger means nothing.

Differs from the paper in that

- images are stamped batch by batch, after augmentation: the trigger stays where it was found, and meets other images
  in every epoch;
- one epoch on a tenth of the training set becomes several on the few clean images that there are;
- several flagged labels are unlearnt together, their triggers in turn; where nothing is suspicious, it is the label
  with the smallest patch, and a note says so;
- faint patterns over the whole image and warps can be searched and unlearnt beside patches (`suspected.py`): what
  Neural Cleanse does not find, the paper's own search does not unlearn;
- the suspect's own logits for the images without the trigger are soft labels, beside the true ones, of the images with
  it. They keep the accuracy that a few images alone cost; and what the trigger does is not in them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worker.algorithms.aim import Aim
from worker.algorithms.checkpoint import Checkpoint, Keep, keep_nothing
from worker.algorithms.data import Images, as_float
from worker.algorithms.detectors.suspected import Kind, Put, kind, pack, suspected, unpack
from worker.algorithms.distillation import answers, divergence
from worker.algorithms.folding import TRIED, folded
from worker.algorithms.learning_rate import Schedule
from worker.algorithms.notes import Note
from worker.algorithms.purifiers.objective import in_training
from worker.algorithms.purifiers.phases import in_two_phases
from worker.algorithms.purifiers.purified import Purified
from worker.algorithms.purifiers.retraining import Augmentation, Choice, Recipe, retrain
from worker.algorithms.training import Loss, Progress, between, ignore

FOUND, FLAGGED = "unlearnt", "flagged"  # in checkpoints
SEARCH = 0.5  # of the work, roughly, is the reversal of triggers


def unlearning(
    model: nn.Module,
    clean: Images,
    held_out: Images,
    *,
    triggers: Sequence[Kind] = ("patch",),
    share: float = 0.2,
    own_logits: float = 1.0,
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
    known: Sequence[Aim[Put]] = (),
    progress: Progress = ignore,
    resume: Checkpoint | None = None,
    checkpoint: Keep = keep_nothing,
) -> Purified:
    """Reverse triggers on `clean`, and fine-tune `model` on images that carry them; both sets on the model's device.

    `model` takes float (N, C, H, W) in [0, 1] to logits of two labels at least; it is not changed. `share` of a batch,
    in [0, 1], is stamped. `triggers` are the kinds to search; those of which one stands out are unlearnt together, in
    turns. `steps` are those of Neural Cleanse. `own_logits` weighs the divergence from the suspect's own predictions on
    the unstamped images; with both 0 it is plain fine-tuning. `known` are triggers that were found before; none: they
    are searched.

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
    suspect = folded(model, as_float(clean.pixels[:TRIED]))

    def search(_: Checkpoint | None) -> dict[str, Tensor]:
        if known:
            return {FLAGGED: torch.tensor(len(known)), **pack(known)}
        found, smallest = suspected(
            model, clean, held_out, kinds=triggers, steps=steps, seed=seed, progress=between(progress, 0, SEARCH)
        )
        return {FLAGGED: torch.tensor(len(found)), **pack(found or ([smallest] if smallest else []))}

    def unlearn(found: dict[str, Tensor], go_on: Checkpoint | None, keep: Keep) -> Purified:
        aims = unpack({name: tensor.to(clean.pixels.device) for name, tensor in found.items() if name != FLAGGED})
        tuned = retrain(
            model,
            clean,
            held_out,
            _objective(suspect, aims, share, own_logits),
            recipe,
            progress=between(progress, SEARCH, 1),
            resume=go_on,
            checkpoint=keep,
        )
        return dataclasses.replace(tuned, notes=[*tuned.notes, *notes_on(aims, int(found[FLAGGED]))])

    return in_two_phases(FOUND, search, unlearn, resume=resume, checkpoint=checkpoint)


def _objective(suspect: nn.Module, aims: Sequence[Aim[Put]], share: float, own_logits: float) -> Loss:
    """Of stamped images: cross-entropy with the true labels + `own_logits` · divergence from what the suspect says of
    them unstamped."""

    def loss(network: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
        predicted = network(stamped(x, aims, share)).float()
        total = F.cross_entropy(predicted, labels)
        if own_logits:
            total = total + own_logits * divergence(predicted, answers(suspect, x))
        return total

    return in_training(loss)


def stamped(x: Tensor, aims: Sequence[Aim[Put]], share: float) -> Tensor:
    """Images (N, C, H, W), the first `share` of them with the triggers of `aims` in turn. A batch is shuffled: its
    first images are any."""
    count = round(share * len(x)) if aims else 0
    parts = x[:count].clone()
    for first, aim in enumerate(aims):
        parts[first :: len(aims)] = aim.trigger.put(parts[first :: len(aims)])
    return torch.cat([parts, x[count:]])


def notes_on(aims: Sequence[Aim[Put]], suspicious: int) -> list[Note]:
    """What a reader should know who wonders what was unlearnt: `aims`, of which so many were `suspicious`."""
    if suspicious:
        told = ", ".join(f"a {kind(aim.trigger)} for label {aim.target}" for aim in aims)
        return [Note("unlearnt", f"Unlearnt was {told}.", "Compare it with what you know of the trigger.")]
    if not aims:
        message = "No trigger was found for any label: this is plain fine-tuning."
        return [Note("nothing_to_unlearn", message, "More option `steps`, or another purifier.")]
    label, pixels = aims[0].target, float(vars(aims[0].trigger)["mask"].sum())
    message = f"No label was suspicious: unlearnt was the smallest trigger, label {label}, {pixels:.1f} pixels."
    return [Note("no_label_flagged", message, "A backdoor without a small patch for a trigger needs another purifier.")]
