"""SAGE: self-attention distillation (Gong, Chen, Yang, Huang, Li, Xue, IEEE S&P 2023, "Redeem Myself").

A backdoor lives in the deep layers, and their attention shows it. SAGE needs no clean teacher: it trains the suspect
on a few clean images so that the attention maps of deep layers agree with those of shallower ones,

    L = L_CE + β · Σ L_SAD(ψ_i, ψ_{i+1})        over the adjacent paths ⟨1,2⟩, ⟨2,3⟩, ⟨3,4⟩,   (eq. 5)

and halves the learning rate when the loss on held-out clean images stops falling (eq. 6).

Where this differs from the paper: it selects the epoch on held-out clean images (the paper does not say how; looking
at the attack success is not open to a defender), and the `service` defaults add four things that keep accuracy on
small bundles: augmentation, a small learning rate, averaged weights, and the suspect's own logits as soft labels.
`PAPER` switches all four off.
"""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from worker.algorithms.attention import attention_distance, find_taps, recording
from worker.algorithms.augment import crop, crop_and_flip, unchanged
from worker.algorithms.data import Images, as_float
from worker.algorithms.errors import Diverged
from worker.algorithms.learning_rate import HalvingRule
from worker.algorithms.metrics import accuracy, logits, mean_loss
from worker.algorithms.purifiers.purified import Purified
from worker.algorithms.training import Augment, Loss, Progress, ignore, train

PAPER: dict[str, Any] = {
    "epochs": 100,
    "lr": 0.05,
    "period": 25,
    "augmentation": "none",
    "averaging": 0.0,
    "own_logits": 0.0,
    "choose": "last",
}
"""The paper's settings for CIFAR-10, as options of `sage`; what is not here has the paper's value by default."""

AUGMENTATIONS: dict[str, Augment] = {"none": unchanged, "crop": crop, "crop_and_flip": crop_and_flip}

TEMPERATURE = 2.0


def sage(
    model: nn.Module,
    clean: Images,
    held_out: Images,
    *,
    beta: float = 300.0,
    epochs: int = 30,
    batch_size: int = 64,
    lr: float = 0.01,
    period: int = 5,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    augmentation: Literal["none", "crop", "crop_and_flip"] = "crop_and_flip",
    averaging: float = 0.995,
    own_logits: float = 1.0,
    choose: Literal["held_out", "last"] = "held_out",
    seed: int = 0,
    progress: Progress = ignore,
) -> Purified:
    """Purify `model` with clean images: train on `clean`, choose by `held_out`; both on the model's device.

    `model` takes float (N, C, H, W) in [0, 1] to logits; it is not changed. `beta` weighs the attention distances in
    the scale of the mean of squares; 0 leaves plain fine-tuning, the control. `period` is P of the learning-rate rule
    in epochs. `averaging` is the decay a step of the averaged weights, 0 for none. `own_logits` weighs the divergence
    from the suspect's own predictions on the same clean images at temperature 2. `choose` takes the epoch of the
    lowest held-out loss, or the last.

    Raises `TooFewTaps` for a network without two spatial resolutions, `Diverged` when a loss is no longer finite.
    """
    suspect = copy.deepcopy(model).eval()
    student = copy.deepcopy(model)
    average = _average(student, averaging)
    loss = _objective(suspect, find_taps(suspect, as_float(clean.pixels[:1])), beta, own_logits)
    optimizer = torch.optim.SGD(student.parameters(), lr, momentum=momentum, nesterov=True, weight_decay=weight_decay)
    rule = HalvingRule(lr, period)
    history: list[dict[str, float]] = []
    best, chosen = suspect, 0

    # Algorithm 1 of the paper.
    training = train(
        student,
        clean,
        epochs=epochs,
        batch_size=batch_size,
        optimizer=optimizer,
        loss=loss,
        augment=AUGMENTATIONS[augmentation],
        seed=seed,
        after_step=lambda: average.update_parameters(student),
    )
    for epoch, training_loss in enumerate(training, start=1):
        measured = {"epoch": epoch, "lr": rule.lr, "training_loss": training_loss}
        measured |= _held_out(average.module, held_out, loss)
        history.append(measured)
        _check_finite(measured)
        if choose == "last" or measured["held_out_loss"] == min(entry["held_out_loss"] for entry in history):
            best, chosen = copy.deepcopy(average.module), epoch
        for group in optimizer.param_groups:
            group["lr"] = rule.after_epoch(measured["held_out_loss"])
        progress(epoch / epochs)

    return Purified(best.train(model.training), history, chosen)


def _held_out(network: nn.Module, held_out: Images, loss: Loss) -> dict[str, float]:
    return {
        "held_out_loss": mean_loss(network, held_out, loss),
        "held_out_accuracy": accuracy(logits(network, held_out.pixels).argmax(1), held_out.labels),
    }


def _check_finite(measured: dict[str, float]) -> None:
    if not math.isfinite(measured["training_loss"] + measured["held_out_loss"]):
        raise Diverged(f"the loss of epoch {measured['epoch']} is not a finite number (learning rate {measured['lr']})")


def _objective(suspect: nn.Module, taps: list[str], beta: float, own_logits: float) -> Loss:
    """Cross-entropy + β · Σ attention distances of adjacent taps + `own_logits` · divergence from the suspect."""

    def loss(network: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
        with recording(network, taps) as features:
            predicted = network(x).float()
        total = F.cross_entropy(predicted, labels)
        for shallow, deep in itertools.pairwise(taps):
            total = total + beta * attention_distance(features[shallow], features[deep])
        if own_logits:
            with torch.no_grad():
                own = suspect(x).float()
            total = total + own_logits * divergence(predicted, own)
        return total

    return loss


def divergence(predicted: Tensor, own: Tensor) -> Tensor:
    """T² · KL(own ‖ predicted) of logits (N, K) softened at temperature T = 2 (Hinton et al. 2015), averaged over N."""
    soft, target = F.log_softmax(predicted / TEMPERATURE, dim=1), F.log_softmax(own / TEMPERATURE, dim=1)
    return TEMPERATURE**2 * F.kl_div(soft, target, log_target=True, reduction="batchmean")


def _average(student: nn.Module, decay: float) -> AveragedModel:
    """Exponentially averaged weights and batch-norm statistics; with decay 0 it is the student itself, a step later."""
    average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    return AveragedModel(student, multi_avg_fn=average, use_buffers=True)
