from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.worker.algorithms.networks import noisy_stripes
from worker.algorithms.classifier import Classifier
from worker.algorithms.data import Images
from worker.algorithms.detectors import reversal
from worker.algorithms.detectors.every_label import batches
from worker.algorithms.detectors.reversal import ReversedTriggers, reverse_triggers

IMAGES = noisy_stripes(60, seed=5)


@pytest.fixture(autouse=True)
def _float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Comparisons of sums that differ in their order need more digits than bfloat16 has."""
    monkeypatch.setattr("worker.algorithms.precision.has_fast_bfloat16", lambda device: False)


def reverse(model: nn.Module, labels: list[int], images: Images = IMAGES, **options: Any) -> ReversedTriggers:
    options = {
        "steps": 20,
        "batch_size": 8,
        "lr": 0.1,
        "asr_threshold": 0.8,
        "initial_cost": 1e-3,
        "cost_multiplier": 1.5,
        "seed": 0,
        **options,
    }
    return reverse_triggers(model, images, labels, **options)


def same(one: ReversedTriggers, other: ReversedTriggers) -> bool:
    return torch.equal(one.reached, other.reached) and all(
        torch.allclose(getattr(one, name), getattr(other, name), rtol=1e-3, atol=1e-3)
        for name in ("masks", "patterns", "norms")
    )


@pytest.fixture(scope="module")
def all_four(suspect: Classifier) -> ReversedTriggers:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("worker.algorithms.precision.has_fast_bfloat16", lambda device: False)
        found = reverse(suspect, [0, 1, 2, 3])
    assert found.reached.any()
    return found


@pytest.mark.parametrize("at_once", [20, 5])  # blocks of two labels, and of some images of one
def test_the_blocks_do_not_matter(at_once: int, suspect: Classifier, all_four: ReversedTriggers) -> None:
    assert same(reverse(suspect, [0, 1, 2, 3], at_once=at_once), all_four)


@pytest.mark.parametrize("label", [0, 3])
def test_a_label_alone_gives_what_it_gives_among_others(
    label: int, suspect: Classifier, all_four: ReversedTriggers
) -> None:
    alone = reverse(suspect, [label])
    row = slice(label, label + 1)
    among = ReversedTriggers(*(getattr(all_four, name)[row] for name in ("masks", "patterns", "norms", "reached")))
    assert same(alone, among)


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.weight = nn.Parameter(torch.randn(3, 2 * 4 * 4, generator=generator))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1) @ self.weight.T


def test_the_search_is_that_of_the_formulas() -> None:
    """Loss, gradient, Adam and cost written again in NumPy, label by label, for a linear network."""
    generator = torch.Generator().manual_seed(4)
    images = Images(torch.randint(256, (12, 2, 4, 4), generator=generator, dtype=torch.uint8), torch.arange(12) % 3)
    model, steps, threshold = Linear(), 40, 0.8
    found = reverse(model, [0, 1, 2], images, steps=steps, batch_size=6, asr_threshold=threshold, initial_cost=0.01)
    weight = model.weight.detach().double().numpy().reshape(3, 2, 4, 4)
    start = reversal._start(images, [0, 1, 2], 0).double().numpy()
    drawn = batches(12, steps, 6, 0).numpy()
    for label in range(3):
        free, mean, square, cost, best, hits, tries = start[label], 0.0, 0.0, 0.01, 16.0, 0, 0
        for step, batch in enumerate(drawn, start=1):
            x, others = images.pixels.numpy()[batch] / 255, images.labels.numpy()[batch] != label
            value = np.tanh(free) / 2 + 0.5
            mask, pattern = value[:1], value[1:]
            logits = np.einsum("nchw,kchw->nk", (1 - mask) * x + mask * pattern, weight)
            softmax = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
            by_logits = (softmax - np.eye(3)[label]) * others[:, None] / others.sum()
            by_input = np.einsum("nk,kchw->nchw", by_logits, weight)
            by_mask = (by_input * (pattern - x)).sum((0, 1))[None] + cost
            gradient = np.concatenate([by_mask, (by_input * mask).sum(0)]) * (1 - np.tanh(free) ** 2) / 2
            mean, square = 0.5 * mean + 0.5 * gradient, 0.9 * square + 0.1 * gradient**2
            free = free - 0.1 * (mean / (1 - 0.5**step)) / (np.sqrt(square / (1 - 0.9**step)) + 1e-8)
            hits, tries = hits + ((logits.argmax(1) == label) & others).sum(), tries + others.sum()
            if step % 10 == 0:
                success = hits >= threshold * tries
                best = min(best, mask.sum()) if success else best
                cost *= 1.5 if success else 1.5**-1.5
                hits = tries = 0
        assert float(found.norms[label]) == pytest.approx(best, rel=1e-3)
    assert found.reached.any()


def test_a_label_that_all_images_have_is_not_reached(suspect: Classifier) -> None:
    # No image is left to lead there: nothing was tried, and nothing succeeded.
    only_ones = IMAGES[IMAGES.labels == 1]
    found = reverse(suspect, [0, 1], only_ones)
    assert not found.reached[1]
    assert found.norms[1] == 256


def test_steps_that_fill_no_window_count_too(suspect: Classifier) -> None:
    heard: list[float] = []
    reverse(suspect, [0], steps=15, progress=heard.append)
    assert heard == [0.5, 1.0]


def test_the_smaller_trigger_of_each_label_that_was_reached() -> None:
    def triggers(norms: list[float], reached: list[bool]) -> ReversedTriggers:
        each = torch.tensor(norms)
        full = each[:, None, None, None].expand(-1, 1, 2, 2)
        return ReversedTriggers(full, full, each, torch.tensor(reached))

    found = triggers([4.0, 2.0, 9.0], [True, True, False]).smaller(triggers([3.0, 3.0, 1.0], [True, True, False]))
    assert found.norms.tolist() == [3.0, 2.0, 9.0]
    assert found.masks[:, 0, 0, 0].tolist() == [3.0, 2.0, 9.0]
    assert found.reached.tolist() == [True, True, False]
