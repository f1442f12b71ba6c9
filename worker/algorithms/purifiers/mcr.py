"""MCR, mode connectivity repair (Zhao, Chen, Das, Ramamurthy, Lin, ICLR 2020, "Bridging Mode Connectivity in Loss
Landscapes and Adversarial Robustness").

Two networks are joined by a curve in the space of weights, trained on clean images so that all along it the loss is
low. Between its ends the network is as accurate as they are, and it has the backdoor of neither. The ends are the
suspect, θ₀, and the suspect fine-tuned, θ₁; the curve is a Bézier curve of degree two,

    φ(t) = (1 - t)² θ₀ + 2 t (1 - t) b + t² θ₁        min over b of E_{t ~ U(0, 1)} L_CE(φ(t)),

written here by its middle m = φ(1/2) in place of the bend b:

    φ(t) = (1 - t) (1 - 2t) θ₀ + 4 t (1 - t) m + t (2t - 1) θ₁.

It is the same family of curves, and what is trained and measured is then a network of the curve.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from worker.algorithms.batch_norm import reestimate
from worker.algorithms.checkpoint import Checkpoint, Keep, keep_nothing
from worker.algorithms.data import Images
from worker.algorithms.learning_rate import Schedule
from worker.algorithms.metrics import accuracy, logits
from worker.algorithms.notes import Note
from worker.algorithms.purifiers.fine_tuning import fine_tuning
from worker.algorithms.purifiers.objective import in_training
from worker.algorithms.purifiers.phases import in_two_phases, loaded
from worker.algorithms.purifiers.purified import Purified
from worker.algorithms.purifiers.retraining import AUGMENTATIONS, Augmentation, Choice, Recipe, retrain
from worker.algorithms.training import Loss, Progress, between, ignore

Weights = Mapping[str, Tensor]

END = "end"  # the second one, in checkpoints
END_OF_CURVE = 1.0


def mcr(
    model: nn.Module,
    clean: Images,
    held_out: Images,
    *,
    points: Sequence[float] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
    tolerance: float = 0.05,
    end_epochs: int = 50,
    end_lr: float = 0.01,
    epochs: int = 100,
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
    """Fine-tune `model` on `clean`, train a curve between the two, and take the point of it that `held_out` allows.

    `model` takes float (N, C, H, W) in [0, 1] to logits; it is not changed. `points` are the t to choose from, 0 the
    suspect and 1 the fine-tuned end. Of those whose held-out accuracy is no more than `tolerance` below the fine-tuned
    end's, it is the farthest from both ends, and of two the farther from the suspect; a note names it. (The suspect's
    own accuracy is no measure: fine-tuning on few images costs some, and only points with the backdoor keep it.)
    `choose` is the epoch of the curve, by the loss at its middle.

    At each point batch norms get the statistics that they have there on the `clean` images, since those of the ends
    mean nothing: on augmented ones, because images that were learnt by heart have others than new ones (it was 3 points
    of accuracy).

    Differs from the paper in the choice, which it makes with the attack's success in view, in the schedule (a cosine),
    and in the rate, which is that of the middle: it moves the bend four times as far.

    Raises `Diverged` when training fails twice.
    """
    common: dict[str, Any] = {
        "batch_size": batch_size,
        "schedule": schedule,
        "momentum": momentum,
        "weight_decay": weight_decay,
        "augmentation": augmentation,
        "choose": choose,
        "seed": seed,
    }
    share = end_epochs / (end_epochs + epochs)

    def fine_tuned(go_on: Checkpoint | None) -> dict[str, Tensor]:
        tuned = fine_tuning(
            model,
            clean,
            held_out,
            epochs=end_epochs,
            lr=end_lr,
            progress=between(progress, 0, share),
            resume=go_on,
            checkpoint=checkpoint,
            **common,
        )
        return tuned.model.state_dict()

    def joined(end: dict[str, Tensor], go_on: Checkpoint | None, keep: Keep) -> Purified:
        ends = _weights(model), _weights(loaded(model, end))
        curve = retrain(
            model,
            clean,
            held_out,
            along_the_curve(*ends),
            Recipe(epochs=epochs, lr=lr, lr_scale="none", averaging=0.0, **common),
            start=_between(model, *ends),
            progress=between(progress, share, 1),
            resume=go_on,
            checkpoint=keep,
        )
        shown = _augmented(clean, augmentation, seed)
        candidates = {t: _network_at(t, curve.model, *ends, shown) for t in (*points, END_OF_CURVE)}
        accuracies = {t: _accuracy(network, held_out) for t, network in candidates.items()}
        t = chosen_point({t: accuracies[t] for t in points}, accuracies[END_OF_CURVE] - tolerance)
        return dataclasses.replace(curve, model=candidates[t], notes=[*curve.notes, _note(t, accuracies)])

    return in_two_phases(END, fine_tuned, joined, resume=resume, checkpoint=checkpoint)


def point(t: float | Tensor, start: Tensor, middle: Tensor, end: Tensor) -> Tensor:
    """φ(t), the parabola through `start` at t = 0, `middle` at 1/2 and `end` at 1."""
    return (1 - t) * (1 - 2 * t) * start + 4 * t * (1 - t) * middle + t * (2 * t - 1) * end


def chosen_point(accuracies: Mapping[float, float], lowest: float) -> float:
    """Of the t with an accuracy of at least `lowest`, the one nearest to 1/2, and of two the larger; the most accurate
    where there is none."""
    enough = [t for t, accuracy in accuracies.items() if accuracy >= lowest]
    if not enough:
        return max(accuracies, key=lambda t: accuracies[t])
    return min(enough, key=lambda t: (round(abs(t - 0.5), 9), -t))


def _weights(network: nn.Module) -> Weights:
    return {name: weight.detach() for name, weight in network.named_parameters()}


@torch.no_grad()
def _between(suspect: nn.Module, start: Weights, end: Weights) -> nn.Module:
    """The middle of the straight line, where the curve's own begins."""
    middle = copy.deepcopy(suspect)
    for name, weight in middle.named_parameters():
        weight.copy_(torch.lerp(start[name], end[name], 0.5))
    return middle


def along_the_curve(start: Weights, end: Weights) -> Loss:
    """Cross-entropy at a random point of the curve through the network in training; measured, at that network."""

    def loss(middle: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
        t = torch.rand((), device=x.device)  # from the generator that `train` has seeded for the epoch
        weights = {name: point(t, start[name], weight, end[name]) for name, weight in middle.named_parameters()}
        return F.cross_entropy(functional_call(middle, weights, (x,)).float(), labels)

    return in_training(loss)


@torch.no_grad()
def _network_at(t: float, middle: nn.Module, start: Weights, end: Weights, shown: Images) -> nn.Module:
    """The network of the curve, with the batch-norm statistics of the images `shown`."""
    network = copy.deepcopy(middle)
    for name, weight in network.named_parameters():
        weight.copy_(point(t, start[name], weight, end[name]))
    reestimate(network, shown)
    return network


def _augmented(images: Images, augmentation: Augmentation, seed: int) -> Images:
    generator = torch.Generator(images.pixels.device).manual_seed(seed)
    return Images(AUGMENTATIONS[augmentation](images.pixels, generator), images.labels)


def _accuracy(network: nn.Module, images: Images) -> float:
    return accuracy(logits(network, images.pixels).argmax(1), images.labels)


def _note(t: float, accuracies: Mapping[float, float]) -> Note:
    measured = ", ".join(f"{accuracy:.3f} at {point:g}" for point, accuracy in accuracies.items())
    message = f"The network is the point t = {t:g} of the curve; held-out accuracy: {measured}."
    return Note("curve_point", message, "The options `points` and `tolerance` decide which point it is.")
