"""Purification by training: the epochs, the averaged weights, the choice of what to give back. Purifiers that train the
suspect on clean images differ in the loss that they give this, and in nothing else."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from worker.algorithms.augment import crop, crop_and_flip, unchanged
from worker.algorithms.checkpoint import Checkpoint, Keep, below, nested
from worker.algorithms.data import Images
from worker.algorithms.errors import Diverged
from worker.algorithms.learning_rate import Rule, Scale, Schedule, parameter_groups, rule
from worker.algorithms.metrics import accuracy, logits
from worker.algorithms.notes import Note
from worker.algorithms.purifiers.purified import Purified
from worker.algorithms.training import Augment, Loss, Progress, train, validate

Augmentation = Literal["none", "crop", "crop_and_flip"]
Choice = Literal["held_out", "last"]

AUGMENTATIONS: dict[str, Augment] = {"none": unchanged, "crop": crop, "crop_and_flip": crop_and_flip}
COLLAPSE = 0.5  # of the suspect's accuracy on the clean images given: below it the training has destroyed the network
ATTEMPTS = 2

AfterStep = Callable[[nn.Module], object]
"""Given the network in training after every step; may change its weights in place."""


def leave(network: nn.Module) -> None:
    """Nothing to do after a step."""


@dataclass(frozen=True)
class Recipe:
    """How to train, whatever the loss. `lr` is the first rate, and `lr_scale` what it is relative to
    (`parameter_groups`); `period` is that of the dynamic rule, in epochs; none: a sixth of them all. `averaging` is the
    decay a step of the averaged weights, 0 for none. `choose` takes the epoch of the lowest held-out loss, or the
    last."""

    epochs: int
    batch_size: int
    lr: float
    lr_scale: Scale
    schedule: Schedule
    momentum: float
    weight_decay: float
    augmentation: Augmentation
    averaging: float
    choose: Choice
    seed: int
    period: int | None = None


def retrain(
    suspect: nn.Module,
    clean: Images,
    held_out: Images,
    loss: Loss,
    recipe: Recipe,
    *,
    start: nn.Module | None = None,
    after_step: AfterStep = leave,
    progress: Progress,
    resume: Checkpoint | None,
    checkpoint: Keep,
) -> Purified:
    """A copy of `suspect`, trained on `clean` by `loss`; the epoch is chosen, and the learning rate led, by `held_out`.

    Training begins at `start`, a network of the suspect's keys and shapes, where the purifier changes the suspect
    first; `after_step` may change the weights in place after every step (a mask, a norm to keep).

    A run that diverges (a loss that is no number, or accuracy on the clean images fallen below half of the suspect's)
    is tried once more with half the learning rate, and a note says so. Raises `Diverged` when that does not help.
    """
    first = resume.facts["attempt"] if resume else 0
    for attempt in range(first, ATTEMPTS):
        state = _State(start or suspect, dataclasses.replace(recipe, lr=recipe.lr / 2**attempt), attempt)
        if resume and attempt == first:
            state.restore(resume)
        try:
            _run(state, clean, held_out, loss, after_step, progress, checkpoint)
            _check_accuracy(state.best, suspect, clean, held_out)
        except Diverged:
            if attempt + 1 == ATTEMPTS:
                raise
        else:
            break
    return Purified(state.best.train(suspect.training), state.history, state.chosen, notes=_notes(state))


class _State:
    """All that changes from epoch to epoch: what a checkpoint has to hold."""

    def __init__(self, start: nn.Module, recipe: Recipe, attempt: int) -> None:
        self.recipe, self.attempt = recipe, attempt
        self.student = copy.deepcopy(start)
        self.average = _average(self.student, recipe.averaging)
        self.best, self.chosen = copy.deepcopy(start), 0
        self.history: list[dict[str, float]] = []
        self.rule: Rule = rule(
            recipe.schedule, recipe.lr, epochs=recipe.epochs, period=recipe.period or math.ceil(recipe.epochs / 6)
        )
        self.optimizer = torch.optim.SGD(
            parameter_groups(list(self.student.parameters()), recipe.lr_scale),
            recipe.lr,
            momentum=recipe.momentum,
            nesterov=recipe.momentum > 0,
            weight_decay=recipe.weight_decay,
            fused=True,
        )
        self.set_rate(recipe.lr)

    def set_rate(self, lr: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["scale"]

    def checkpoint(self) -> Checkpoint:
        facts = {
            "attempt": self.attempt,
            "history": self.history,
            "chosen": self.chosen,
            "rule": dataclasses.asdict(self.rule),  # type: ignore[call-overload]
        }
        momenta = {
            str(number): state["momentum_buffer"] for number, state in self.optimizer.state_dict()["state"].items()
        }
        tensors = {
            **nested("student", self.student.state_dict()),
            **nested("average", self.average.state_dict()),
            **nested("best", self.best.state_dict()),
            **nested("momentum", momenta),
        }
        return Checkpoint(copy.deepcopy(facts), {name: tensor.detach().clone() for name, tensor in tensors.items()})

    def restore(self, checkpoint: Checkpoint) -> None:
        facts, tensors = checkpoint.facts, checkpoint.tensors
        self.student.load_state_dict(below("student", tensors))
        self.average.load_state_dict(below("average", tensors))
        self.best.load_state_dict(below("best", tensors))
        self.history, self.chosen = list(facts["history"]), facts["chosen"]
        self.rule = type(self.rule)(**facts["rule"])
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        for number, momentum in below("momentum", tensors).items():
            parameter = parameters[int(number)]
            self.optimizer.state[parameter] = {"momentum_buffer": torch.empty_like(parameter).copy_(momentum)}
        self.set_rate(self.rule.lr)


def _run(
    state: _State,
    clean: Images,
    held_out: Images,
    loss: Loss,
    after_step: AfterStep,
    progress: Progress,
    checkpoint: Keep,
) -> None:
    recipe = state.recipe

    def step_taken() -> None:
        after_step(state.student)
        state.average.update_parameters(state.student)

    training = train(
        state.student,
        clean,
        first_epoch=len(state.history),
        epochs=recipe.epochs,
        batch_size=recipe.batch_size,
        optimizer=state.optimizer,
        loss=loss,
        augment=AUGMENTATIONS[recipe.augmentation],
        seed=recipe.seed,
        after_step=step_taken,
    )
    for epoch, training_loss in enumerate(training, start=len(state.history) + 1):
        measured = {"epoch": epoch, "lr": state.rule.lr, "training_loss": training_loss}
        measured["held_out_loss"], measured["held_out_accuracy"] = validate(state.average.module, held_out, loss)
        state.history.append(measured)
        _check_finite(measured)
        if recipe.choose == "last" or measured["held_out_loss"] == min(e["held_out_loss"] for e in state.history):
            state.best, state.chosen = copy.deepcopy(state.average.module), epoch
        state.set_rate(state.rule.after_epoch(measured["held_out_loss"]))
        checkpoint(state.checkpoint)
        progress(epoch / recipe.epochs)


def _check_finite(measured: dict[str, float]) -> None:
    if not math.isfinite(measured["training_loss"] + measured["held_out_loss"]):
        raise Diverged(f"the loss of epoch {measured['epoch']} is not a finite number (learning rate {measured['lr']})")


def _check_accuracy(purified: nn.Module, suspect: nn.Module, clean: Images, held_out: Images) -> None:
    labels = torch.cat([clean.labels, held_out.labels])

    def measured(model: nn.Module) -> float:
        predictions = [logits(model, images.pixels).argmax(1) for images in (clean, held_out)]
        return accuracy(torch.cat(predictions), labels)

    before, after = measured(suspect), measured(purified)
    if after < COLLAPSE * before:
        raise Diverged(f"the accuracy on the clean images fell from {before:.3f} to {after:.3f}")


def _notes(state: _State) -> list[Note]:
    if state.attempt == 0:
        return []
    message = f"The first run diverged; this is a second one, at half the learning rate ({state.recipe.lr:g})."
    return [Note("learning_rate_halved", message, "Look at the accuracy; a lower option `lr` may keep more of it.")]


def _average(student: nn.Module, decay: float) -> AveragedModel:
    """Exponentially averaged weights and batch-norm statistics; with decay 0 it is the student itself, a step later."""
    average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    return AveragedModel(student, multi_avg_fn=average, use_buffers=True)
