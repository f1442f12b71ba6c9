"""The re-tuning attack: does a backdoor come back when a few triggered images get into further training (Min, Qin,
Zhang, Cheng, NeurIPS 2024, "Uncovering, Explaining, and Mitigating the Superficial Safety of Backdoor Defense")?

The defender has no trigger, so the reversed one stands in for it. Five images teach any network something, so the same
is done with a trigger that was never there: a backdoor that sleeps is one that comes back faster than a new one comes.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import nn

from worker.algorithms.aim import Aim, success
from worker.algorithms.augment import unchanged
from worker.algorithms.data import Images
from worker.algorithms.errors import UnusableImages
from worker.algorithms.notes import Note
from worker.algorithms.out_of_memory import SMALLEST_BATCH, halving
from worker.algorithms.training import Progress, between, cross_entropy, ignore, train
from worker.algorithms.triggers import Stamp, Trigger

BACK = 0.5  # of the images: a surrogate ASR at which a backdoor works again
FASTER = 0.25  # more of the images than the control


@dataclass(frozen=True)
class Retuning:
    """Surrogate ASR of the purified model `before` and `after` a few steps with the reversed trigger, and the same of
    the control: a trigger that was never there, with the steps that it had. All on images that were not trained on."""

    before: float
    after: float
    control_before: float
    control_after: float

    @property
    def comeback(self) -> float:
        """How much more of the surrogate ASR came than of the control's; -2 to 2, about zero where nothing sleeps."""
        return (self.after - self.before) - (self.control_after - self.control_before)


def retuning(
    purified: nn.Module,
    clean: Images,
    tested: Images,
    surrogate: Aim[Trigger],
    *,
    triggered: int = 5,
    epochs: int = 5,
    batch_size: int = 64,
    lr: float = 0.01,
    momentum: float = 0.9,
    seed: int = 0,
    progress: Progress = ignore,
) -> Retuning:
    """Fine-tune copies of `purified` on `clean` and `triggered` stamped images, and measure the ASR on `tested` ones.

    `surrogate` is the reversed trigger of a flagged label, with that label; the images that get it are drawn from the
    other classes of `clean`. The control's trigger has the same mask, moved by half the image, and random colours.
    `purified` is not changed. Raises `UnusableImages` where no image of another class is left to train on or to test.

    Differs from the paper in the trigger, which is reversed, and in the control.
    """
    control = Aim(unrelated(surrogate.trigger, seed), surrogate.target)
    before, control_before = (_asr(purified, tested, aim) for aim in (surrogate, control))

    def retuned(batch_size: int) -> list[float]:
        return [
            _asr(
                _tuned(
                    purified,
                    _with_triggered(clean, aim, triggered, seed),
                    epochs=epochs,
                    batch_size=batch_size,
                    lr=lr,
                    momentum=momentum,
                    seed=seed,
                    progress=told,
                ),
                tested,
                aim,
            )
            for aim, told in ((surrogate, between(progress, 0, 0.5)), (control, between(progress, 0.5, 1)))
        ]

    (after, control_after), _ = halving(retuned, batch_size, smallest=SMALLEST_BATCH)
    return Retuning(before, after, control_before, control_after)


def notes(found: Retuning) -> list[Note]:
    """What re-tuning says of the purification."""
    if found.after < BACK or found.comeback < FASTER:
        return []
    return [
        Note(
            "backdoor_comes_back",
            f"A few steps with a few triggered images bring the surrogate ASR from {found.before:.2f} back to "
            f"{found.after:.2f}; a trigger that was never there comes from {found.control_before:.2f} to "
            f"{found.control_after:.2f}.",
            "The backdoor sleeps. Do not train this model on images that you do not trust, or purify it further.",
        )
    ]


def unrelated(trigger: Trigger, seed: int) -> Trigger:
    """A trigger as large and as opaque as `trigger`, elsewhere and of random colours."""
    height, width = trigger.mask.shape[1:]
    generator = torch.Generator().manual_seed(seed)
    colours = torch.rand(trigger.pattern.shape, generator=generator).to(trigger.pattern)
    return Trigger(trigger.mask.roll((height // 2, width // 2), (1, 2)), colours)


def _with_triggered(clean: Images, aim: Aim[Trigger], triggered: int, seed: int) -> Images:
    candidates = (clean.labels != aim.target).nonzero()[:, 0]
    if not len(candidates):
        raise UnusableImages(f"no clean image is of another class than {aim.target}, so none can be stamped")
    order = torch.randperm(len(candidates), generator=torch.Generator().manual_seed(seed))
    stamped = aim.trigger.stamp(clean.pixels[candidates[order[:triggered].to(candidates.device)]])
    labels = torch.full((len(stamped),), aim.target, device=clean.labels.device)
    return Images(torch.cat([clean.pixels, stamped]), torch.cat([clean.labels, labels]))


def _tuned(
    model: nn.Module,
    images: Images,
    *,
    epochs: int,
    batch_size: int,
    lr: float,
    momentum: float,
    seed: int,
    progress: Progress,
) -> nn.Module:
    tuned = copy.deepcopy(model)
    optimizer = torch.optim.SGD(tuned.parameters(), lr, momentum=momentum)
    steps = train(
        tuned,
        images,
        epochs=epochs,
        batch_size=batch_size,
        optimizer=optimizer,
        loss=cross_entropy,
        augment=unchanged,
        seed=seed,
    )
    for epoch, _ in enumerate(steps, start=1):
        progress(epoch / epochs)
    return tuned.eval()


def _asr(model: nn.Module, images: Images, aim: Aim[Stamp]) -> float:
    found = success(model, images, aim)
    if found is None:
        raise UnusableImages(f"no image is of another class than {aim.target}, so no ASR can be measured")
    return found.asr
