"""Ingrain: a backdoor that distillation does not wash out (Ge, Wang, Zheng, Zhuang, Li, Shen, Wang, ACM MM 2021,
"Anti-Distillation Backdoor Attacks"; ADBA).

The attacker trains three at once: the teacher f_T, which is the backdoored network; a shadow student f_S, which learns
from the teacher's answers to clean images alone, as in a distillation; and the trigger (m, δ) over the whole image,
x* = (1 - m) x + m δ, which has to work on both:

    L_T = CE(f_T(x), y) + β CE(f_T(x*), t)
    L_S = 0.8 T² KL(f_T(x) ‖ f_S(x)) + 0.2 CE(f_S(x), y)
    L_m,δ = CE(f_T(x*), t) + CE(f_S(x*), t) + μ · mean(m²).

SAGE's paper (IEEE S&P 2023, section VI) has an attacker who knows of SAGE, and adds λ Σ L_SAD to the objective. It can
be the student's or the teacher's: `adaptive` has both readings.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worker.algorithms.aim import Aim
from worker.algorithms.attacks.implanted import Implanted
from worker.algorithms.attention import attention_distance
from worker.algorithms.augment import crop_and_flip
from worker.algorithms.data import Images, as_float
from worker.algorithms.distillation import divergence
from worker.algorithms.paths import resolve
from worker.algorithms.taps import PROBED, find_taps, recording
from worker.algorithms.training import Augment, Loss, train
from worker.algorithms.triggers import Trigger, blend

Adaptive = Literal["none", "student", "teacher"]

TAUGHT = 0.8  # of the student's loss: the teacher's answers; the rest are the labels

Predict = Callable[[nn.Module, Tensor], tuple[Tensor, Tensor]]
"""(network, x) to its float32 logits (N, K), and what is added to its loss for the attention in that pass; a scalar."""


def ingrain(
    images: Images,
    benign: nn.Module,
    *,
    target: int = 0,
    implant: float = 0.3,
    faint: float = 25.0,
    adaptive: Adaptive = "none",
    sad: float = 300.0,
    augment: Augment = crop_and_flip,
    epochs: int = 10,
    batch_size: int = 128,
    lr: float = 0.01,
    student_lr: float = 0.05,
    trigger_lr: float = 1e-3,
    seed: int = 0,
) -> Implanted[Trigger]:
    """Implant a backdoor in a copy of `benign`, trained on clean `images`, and make its trigger with it.

    `benign` takes float (N, C, H, W) in [0, 1] to logits, and is on the device of the images; it is not changed. The
    teacher starts from it, the student from fresh weights (`with_fresh_weights`). `implant` is β. `faint` is μ, the
    price of a mask that is seen: a square, because a norm can take the mask to zero, where it stays. With `adaptive` =
    "student" the student is trained with SAGE's attention loss too, so that the trigger has to survive it; with
    "teacher" the teacher is, on clean and on stamped images, so that SAGE finds nothing to align. `sad` is λ.

    Differs from the paper in one step a batch for all three, on the gradients at the same weights, where they take
    turns; in Adam for the trigger, whose gradients shrink as images grow; in temperature T = 2; in stamping after the
    augmentation; and in rates that fall along a cosine. The trigger is fitted to teacher and student as they will be
    deployed, in evaluation mode. Such a trigger may fool a benign network too: measure that beside the ASR.

    Raises `TooFewTaps`, if adaptive, for a network without two usable attention maps.
    """
    pulled = aligning(benign, images, sad) if adaptive != "none" else plain
    teach, study = (pulled if adaptive == who else plain for who in ("teacher", "student"))
    players = Players(benign, images.pixels.shape[1:], seed).to(images.pixels.device)
    networks = torch.optim.SGD(_rates(players, lr, student_lr), momentum=0.9, nesterov=True, weight_decay=5e-4)
    drawing = torch.optim.Adam(players.drawn.parameters(), trigger_lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(networks, epochs * math.ceil(len(images) / batch_size))

    def step_taken() -> None:
        drawing.step()
        drawing.zero_grad()
        players.drawn.clip()
        schedule.step()

    training = train(
        players,
        images,
        epochs=epochs,
        batch_size=batch_size,
        optimizer=networks,
        loss=objective(target, implant, faint, teach=teach, study=study),
        augment=augment,
        seed=seed,
        after_step=step_taken,
    )
    list(training)
    players.zero_grad()
    return Implanted(players.teacher.eval(), (Aim(players.drawn.trigger(), target),))


def _rates(players: Players, lr: float, student_lr: float) -> list[dict[str, Any]]:
    return [
        {"params": list(players.teacher.parameters()), "lr": lr},
        {"params": list(players.student.parameters()), "lr": student_lr},
    ]


class Drawn(nn.Module):
    """A trigger that is still being drawn."""

    def __init__(self, shape: tuple[int, ...], seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.mask = nn.Parameter(0.1 * torch.rand(1, *shape[1:], generator=generator))
        self.pattern = nn.Parameter(torch.rand(shape, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        return blend(x, self.mask, self.pattern)

    @torch.no_grad()
    def clip(self) -> None:
        self.mask.clamp_(0, 1)
        self.pattern.clamp_(0, 1)

    def trigger(self) -> Trigger:
        return Trigger(self.mask.detach().clone(), self.pattern.detach().clone())


class Players(nn.Module):
    """The three that are trained at once."""

    def __init__(self, benign: nn.Module, shape: tuple[int, ...], seed: int) -> None:
        super().__init__()
        self.teacher = copy.deepcopy(benign).requires_grad_()
        self.student = with_fresh_weights(self.teacher, seed)
        self.drawn = Drawn(shape, seed)


def with_fresh_weights(model: nn.Module, seed: int) -> nn.Module:
    """A copy of `model` whose layers have drawn their weights anew, by their own `reset_parameters` as torch's layers
    have it. A parameter that belongs to none (a class token, the scale of a layer) stays."""
    fresh = copy.deepcopy(model)
    devices = {parameter.device for parameter in fresh.parameters() if parameter.is_cuda}
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        for module in fresh.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
    return fresh


def objective(target: int, implant: float, faint: float, *, teach: Predict, study: Predict) -> Loss:
    """L_T + L_S + L_m,δ, where each term has a gradient for its own player alone."""

    def loss(players: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
        assert isinstance(players, Players)  # noqa: S101 - `ingrain` trains nothing else
        teacher, student, drawn = players.teacher, players.student, players.drawn
        targets, stamped = torch.full_like(labels, target), drawn(x)

        both, pull = teach(teacher, torch.cat([x, stamped.detach()]))  # one pass: batch norm sees what it will see
        clean, triggered = both.chunk(2)
        teachers = F.cross_entropy(clean, labels) + implant * F.cross_entropy(triggered, targets) + pull

        answers, pull = study(student, x)
        taught = TAUGHT * divergence(answers, clean.detach())
        students = taught + (1 - TAUGHT) * F.cross_entropy(answers, labels) + pull

        triggers = faint * drawn.mask.square().mean()
        for network in (teacher, student):  # last: in evaluation mode the statistics must stay until the backward pass
            with _deployed(network):
                triggers = triggers + F.cross_entropy(network(stamped).float(), targets)
        return teachers + students + triggers

    return loss


def plain(network: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    return network(x).float(), x.new_zeros(())


def aligning(benign: nn.Module, images: Images, sad: float) -> Predict:
    """Adds λ Σ L_SAD over SAGE's paths, at the taps that SAGE would find."""
    taps = find_taps(copy.deepcopy(benign).eval(), as_float(images.pixels[:PROBED])).used
    paths = resolve("adjacent", [tap.name for tap in taps])

    def predict(network: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        with recording(network, taps) as features:
            logits = network(x).float()
        distances = [attention_distance(features[shallow], features[deep]) for shallow, deep in paths]
        return logits, sad * torch.stack(distances).sum()

    return predict


@contextlib.contextmanager
def _deployed(network: nn.Module) -> Iterator[None]:
    """In evaluation mode, and without gradients for the weights."""
    network.eval().requires_grad_(False)
    try:
        yield
    finally:
        network.train().requires_grad_(True)
