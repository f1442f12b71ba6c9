"""The one training loop. Purifiers, attacks and the lab differ in the loss they give it, never in the loop."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worker.algorithms.data import Images, as_float
from worker.algorithms.layout import layout
from worker.algorithms.precision import autocast

Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""(model, x float [0, 1] (N, C, H, W), labels (N,)) to a scalar. It calls the model once. Forward passes run under
autocast; reduce in float32."""

Augment = Callable[[Tensor, torch.Generator], Tensor]
"""uint8 (N, C, H, W) and a generator to uint8 (N, C, H, W)."""

Progress = Callable[[float], None]
"""Told the finished fraction of the work, 0 to 1. May raise: that is how a run is cancelled."""


def ignore(fraction: float) -> None:
    """A progress listener that does not listen."""


def between(progress: Progress, start: float, end: float) -> Progress:
    """A listener for the part of the work that takes `progress` from the fraction `start` to `end`."""
    return lambda fraction: progress(start + (end - start) * fraction)


def cross_entropy(model: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
    """Plain classification: mean cross-entropy."""
    return F.cross_entropy(model(x).float(), labels)


def train(
    model: nn.Module,
    images: Images,
    *,
    epochs: int,
    batch_size: int,
    optimizer: torch.optim.Optimizer,
    loss: Loss,
    augment: Augment,
    seed: int,
    first_epoch: int = 0,
    after_step: Callable[[], None] = lambda: None,
) -> Iterator[float]:
    """Train `model` in place, yielding the mean training loss after each epoch; stop iterating to stop training.

    The images must already be on the model's device. An epoch visits every image once, in batches of nearly equal
    size and at most `batch_size` (a last batch of one image would break batch norm). Shuffling, augmentation and
    dropout follow from `seed` and the epoch alone, so a run can go on at any `first_epoch`; the caller's random state
    is not touched. The host waits for the device once an epoch.
    """
    device = images.pixels.device
    memory_format = layout(model, device)
    model.to(memory_format=memory_format)  # type: ignore[call-overload]
    for epoch in range(first_epoch, epochs):
        model.train()
        total = torch.zeros((), device=device)
        with _randomness(seed, epoch, device) as generator:
            order = torch.randperm(len(images), generator=generator, device=device)
            for index in order.tensor_split(math.ceil(len(images) / batch_size)):
                pixels = augment(images.pixels[index], generator)
                x = as_float(pixels).contiguous(memory_format=memory_format)
                with autocast(device):
                    value = loss(model, x, images.labels[index])
                optimizer.zero_grad()
                value.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                after_step()
                total += value.detach() * len(index)
        yield (total / len(images)).item()


@torch.no_grad()
def validate(model: nn.Module, images: Images, loss: Loss, *, batch_size: int = 256) -> tuple[float, float]:
    """The mean loss and the accuracy on images as they are, in evaluation mode and in the number format of training:
    what may lead a run. For a report there is `metrics.py`, in float32. The model's mode is put back.

    One forward pass gives both: the accuracy takes the logits that the model gives to the loss.
    """
    device, was_training = images.pixels.device, model.training
    total, right = torch.zeros((), device=device), torch.zeros((), device=device)
    given: list[Tensor] = []
    hook = model.register_forward_hook(lambda module, x, logits: given.append(logits))
    model.eval()
    try:
        for part in torch.split(torch.arange(len(images), device=device), batch_size):
            x = as_float(images.pixels[part]).contiguous(memory_format=torch.channels_last)
            labels = images.labels[part]
            with autocast(device):
                total += loss(model, x, labels) * len(part)
            right += (given.pop().argmax(1) == labels).sum()
    finally:
        hook.remove()
        model.train(was_training)
    return (total / len(images)).item(), (right / len(images)).item()


@contextlib.contextmanager
def _randomness(seed: int, epoch: int, device: torch.device) -> Iterator[torch.Generator]:
    """The randomness of one epoch. It follows from (seed, epoch) alone, so a run can go on at any epoch.

    Dropout layers draw from torch's global generator, whatever one does: it is seeded for the epoch and given back.
    """
    of_epoch = seed * 1_000_003 + epoch
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(of_epoch)
        yield torch.Generator(device).manual_seed(of_epoch)


def fit(
    model: nn.Module,
    images: Images,
    *,
    augment: Augment,
    epochs: int = 20,
    batch_size: int = 128,
    lr: float = 0.1,
    weight_decay: float = 5e-4,
    seed: int = 0,
) -> Iterator[float]:
    """Train a classifier from scratch, in place, yielding the mean loss of each epoch: how the lab makes its suspects.

    SGD with Nesterov momentum 0.9, one cycle of the learning rate (Smith & Topin 2018): up to `lr` and down to zero.
    """
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum=0.9, nesterov=True, weight_decay=weight_decay)
    steps = epochs * math.ceil(len(images) / batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=lr, total_steps=steps + 1, cycle_momentum=False)
    yield from train(
        model,
        images,
        epochs=epochs,
        batch_size=batch_size,
        optimizer=optimizer,
        loss=cross_entropy,
        augment=augment,
        seed=seed,
        after_step=schedule.step,
    )
