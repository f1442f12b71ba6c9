"""Neural Cleanse: reverse a trigger for every label, and look for one that is far too small (Wang et al., S&P 2019)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worker.algorithms.data import Images, as_float
from worker.algorithms.precision import autocast
from worker.algorithms.training import Progress, ignore
from worker.algorithms.triggers import Trigger, blend

MAD_TO_SIGMA = 1.4826  # makes the median absolute deviation an estimate of a normal distribution's sigma
WINDOW = 10  # steps between two looks at the attack success, and so between two changes of the costs


@dataclass(frozen=True)
class ReversedTriggers:
    """One trigger a label: `masks` (K, 1, H, W) and `patterns` (K, C, H, W) in [0, 1]; `norms` (K,), the L1 norms of
    the masks in pixels; `reached` (K,) bool, whether the trigger ever flipped the demanded share of images. A
    label that was not reached has the norm of a full mask, H · W: no small trigger was found."""

    masks: Tensor
    patterns: Tensor
    norms: Tensor
    reached: Tensor

    def __getitem__(self, label: int) -> Trigger:
        return Trigger(self.masks[label], self.patterns[label])


@dataclass(frozen=True)
class Anomaly:
    """`index` is the MAD anomaly index of the smallest norm (0 when it is not below the median); `p_value` is how often
    the smallest of K norms of a benign model would look as extreme; `flagged` are the labels, smallest norm first."""

    index: float
    p_value: float
    flagged: list[int]


@dataclass(frozen=True)
class NeuralCleanse:
    triggers: ReversedTriggers
    anomaly: Anomaly


def neural_cleanse(
    model: nn.Module,
    images: Images,
    *,
    num_classes: int,
    steps: int = 300,
    batch_size: int = 32,
    lr: float = 0.1,
    asr_threshold: float = 0.99,
    initial_cost: float = 1e-3,
    cost_multiplier: float = 1.5,
    seed: int = 0,
    progress: Progress = ignore,
) -> NeuralCleanse:
    """Reverse a trigger for each label on clean `images`, and flag the labels whose trigger is an outlier."""
    triggers = reverse_triggers(
        model,
        images,
        num_classes=num_classes,
        steps=steps,
        batch_size=batch_size,
        lr=lr,
        asr_threshold=asr_threshold,
        initial_cost=initial_cost,
        cost_multiplier=cost_multiplier,
        seed=seed,
        progress=progress,
    )
    return NeuralCleanse(triggers, anomaly(triggers.norms, triggers.reached))


def reverse_triggers(
    model: nn.Module,
    images: Images,
    *,
    num_classes: int,
    steps: int,
    batch_size: int,
    lr: float,
    asr_threshold: float,
    initial_cost: float,
    cost_multiplier: float,
    seed: int,
    progress: Progress = ignore,
) -> ReversedTriggers:
    """min over (m, p) of CE(f((1 - m) x + m p), label) + cost · ‖m‖₁, for all labels at once (the paper's eq. 2 and 3).

    One batch of clean images serves all labels: K · batch_size inputs a step. The labels stay independent, since the
    sum of their losses has no term in common and Adam works element by element. Masks and patterns are tanh of
    free variables, as in the authors' code. Images of the label itself do not count: they would be free successes.

    Each label has its own cost: every `WINDOW` steps it is multiplied by `cost_multiplier` where the attack success
    over the window was at least `asr_threshold`, and divided by its 1.5th power where not. The result is the smallest
    mask at the end of a successful window. Differs from the authors' code in the fixed number of steps (early stops
    make the norms of labels incomparable) and in starting at a small cost instead of zero.

    The model is put in evaluation mode with frozen weights for the time, and left as it was.
    """
    device = images.pixels.device
    generator = torch.Generator(device).manual_seed(seed)
    _, channels, height, width = images.pixels.shape
    free_masks = torch.zeros(num_classes, 1, height, width, device=device, requires_grad=True)
    free_patterns = torch.randn(num_classes, channels, height, width, device=device, generator=generator)
    free_patterns.requires_grad_()
    optimizer = torch.optim.Adam([free_masks, free_patterns], lr=lr, betas=(0.5, 0.9))
    cost = torch.full((num_classes,), initial_cost, device=device)
    targets = torch.arange(num_classes, device=device)
    best = _nothing_found(free_masks, free_patterns)
    hits = torch.zeros(num_classes, device=device)
    tries = torch.zeros(num_classes, device=device)

    with _frozen(model):
        for step in range(1, steps + 1):
            chosen = torch.randint(len(images), (batch_size,), generator=generator, device=device)
            x, counts = as_float(images.pixels[chosen]), (images.labels[chosen] != targets[:, None]).float()
            masks, patterns = _squash(free_masks), _squash(free_patterns)
            logits = _logits(model, blend(x, masks[:, None], patterns[:, None]))
            losses = F.cross_entropy(logits.flatten(0, 1), targets.repeat_interleave(batch_size), reduction="none")
            classification = (losses.view_as(counts) * counts).sum(1) / counts.sum(1).clamp(min=1)
            norms = masks.sum((1, 2, 3))
            optimizer.zero_grad()
            (classification + cost * norms).sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            hits += ((logits.argmax(2) == targets[:, None]) * counts).sum(1)
            tries += counts.sum(1)
            if step % WINDOW == 0:
                success = hits >= asr_threshold * tries
                best = _smaller(best, ReversedTriggers(masks.detach(), patterns.detach(), norms.detach(), success))
                cost *= torch.where(success, cost_multiplier, cost_multiplier**-1.5)
                hits.zero_(), tries.zero_()
                progress(step / steps)
    return best


def _squash(free: Tensor) -> Tensor:
    return torch.tanh(free) / 2 + 0.5


def _logits(model: nn.Module, x: Tensor) -> Tensor:
    """(K, B, C, H, W) to float32 logits (K, B, classes)."""
    labels, batch = x.shape[:2]
    with autocast(x.device):
        logits = model(x.flatten(0, 1).contiguous(memory_format=torch.channels_last))
    return logits.float().view(labels, batch, -1)  # type: ignore[no-any-return]


def _nothing_found(free_masks: Tensor, free_patterns: Tensor) -> ReversedTriggers:
    masks = torch.ones_like(free_masks)
    reached = torch.zeros(len(masks), dtype=torch.bool, device=masks.device)
    return ReversedTriggers(masks, _squash(free_patterns).detach(), masks.detach().sum((1, 2, 3)), reached)


def _smaller(best: ReversedTriggers, found: ReversedTriggers) -> ReversedTriggers:
    better = found.reached & (found.norms < best.norms)
    return ReversedTriggers(
        torch.where(better[:, None, None, None], found.masks, best.masks),
        torch.where(better[:, None, None, None], found.patterns, best.patterns),
        torch.where(better, found.norms, best.norms),
        best.reached | found.reached,
    )


@contextlib.contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, and no gradients for weights: a backward pass then only computes those of the input."""
    was_training = model.training
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.eval().requires_grad_(False)
    try:
        yield
    finally:
        model.train(was_training)
        for parameter in trainable:
            parameter.requires_grad_()


def anomaly(
    norms: Tensor, reached: Tensor, *, threshold: float = 2.0, significance: float = 0.05, fraction: float = 0.25
) -> Anomaly:
    """The MAD outlier test of the paper, with a p-value beside it.

    index_k = |norm_k - median| / (1.4826 · MAD), with the true median (the mean of the two middle norms where K is
    even). A label is flagged when it was reached, its index is above `threshold`, and, which is ours, the index is
    significant and the norm below `fraction` of the median. The paper's threshold of 2 alone flags 10 % to 30 % of
    benign models of ten classes, and now and then a purified one for a label whose trigger is no small one at all.
    """
    norms = norms.double().cpu()
    indices = _indices_below_median(norms[None])[0]
    p_values = _p_values(norms)
    small = norms < fraction * norms.quantile(0.5)
    outlier = reached.cpu() & small & (p_values < significance) & (indices > threshold)
    smallest_first = norms.argsort().tolist()
    flagged = [label for label in smallest_first if outlier[label]]
    smallest = smallest_first[0]
    return Anomaly(index=float(indices[smallest]), p_value=float(p_values[smallest]), flagged=flagged)


def _indices_below_median(norms: Tensor) -> Tensor:
    """(S, K) norms to (S, K) anomaly indices; zero for norms at or above their median."""
    median = norms.quantile(0.5, dim=1, keepdim=True)
    deviation = median - norms
    mad = deviation.abs().quantile(0.5, dim=1, keepdim=True)
    # All norms alike: MAD is zero, and nothing is an outlier but what truly differs.
    return deviation.clamp(min=0) / (MAD_TO_SIGMA * mad).clamp(min=1e-6)


def _p_values(norms: Tensor, samples: int = 10_000) -> Tensor:
    """(K,) norms to (K,) p-values: how often the most extreme of K norms of a benign model lies as far below its
    median.

    The null hypothesis is that norms are log-normal (real ones are skewed to the right), so distances are taken between
    logarithms; measured in their own MAD they have no parameter left to estimate, and simulating is exact.
    """
    generator = torch.Generator().manual_seed(0)
    benign = torch.randn(samples, len(norms), generator=generator, dtype=torch.float64)
    extremes = _indices_below_median(benign).amax(1)
    observed = _indices_below_median(norms.clamp(min=1e-3).log()[None])[0]
    return (1 + (extremes >= observed[:, None]).sum(1)) / (1 + samples)
