from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from tests.worker.algorithms.networks import noisy_stripes, same_state
from worker.algorithms.classifier import Classifier
from worker.algorithms.data import Images
from worker.algorithms.detectors.universal import Shift, UniversalPerturbations, notes, universal_perturbation

RADIUS = 20 / 255  # stripes are easier to tell apart than photographs, and withstand more


def found(success: list[float | None]) -> UniversalPerturbations:
    return UniversalPerturbations(torch.zeros(len(success), 3, 2, 2), success, 8 / 255)


def test_the_backdoors_label_is_by_far_the_easiest_and_not_on_the_twin(suspect: Classifier, benign: Classifier) -> None:
    shares = {}
    for name, model in {"suspect": suspect, "benign": benign}.items():
        one = universal_perturbation(
            model,
            noisy_stripes(60, seed=5),
            noisy_stripes(80, seed=6),
            num_classes=4,
            radius=RADIUS,
            steps=16,
            batch_size=8,
        )
        assert one.deltas.abs().max() <= RADIUS
        shares[name] = [share or 0.0 for share in one.success]
    assert shares["suspect"][0] > 0.15 > 2 * max(shares["suspect"][1:])
    assert shares["benign"][0] < 0.05


class Linear(nn.Module):
    """Logits W · x, whose best perturbation is known: the sign of the difference of the two rows of W."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, 12, generator=torch.Generator().manual_seed(3)))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T


def test_on_a_linear_network_it_is_the_sign_of_the_weights() -> None:
    pixels = torch.full((6, 3, 2, 2), 128, dtype=torch.uint8)
    images, model = Images(pixels, torch.tensor([0, 1, 0, 1, 0, 1])), Linear()
    one = universal_perturbation(model, images, images, num_classes=2, radius=0.1, steps=12, batch_size=6, seed=1)
    difference = (model.weight[0] - model.weight[1]).detach()
    best = 0.1 * difference.sign().view(3, 2, 2)
    assert torch.allclose(one.deltas[0], best, atol=0.02)
    assert torch.allclose(one.deltas[1], -best, atol=0.02)
    gain, start = 0.1 * float(difference.abs().sum()), float(difference.sum()) * 128 / 255
    assert one.success == [float(start + gain > 0), float(start - gain < 0)]


def test_images_of_the_label_itself_do_not_count() -> None:
    pixels = torch.zeros(4, 3, 2, 2, dtype=torch.uint8)
    images = Images(pixels, torch.ones(4, dtype=torch.int64))
    one = universal_perturbation(Linear(), images, images, num_classes=2, steps=2, batch_size=2)
    assert one.success[1] is None
    assert not one.deltas[1].any()  # nothing to lead there, nothing learned


def test_a_shift_is_added_clipped_and_rounded() -> None:
    shift = Shift(torch.tensor([8.4, -8.4]).view(1, 1, 2) / 255)
    pixels = torch.tensor([[250, 4], [100, 100]], dtype=torch.uint8).view(2, 1, 1, 2)
    assert shift.stamp(pixels).flatten().tolist() == [255, 0, 108, 92]


def test_the_seed_decides_and_the_model_is_left_as_it_was(suspect: Classifier) -> None:
    model, images = copy.deepcopy(suspect).train(), noisy_stripes(16)
    before = copy.deepcopy(model)
    one, same, other = (
        universal_perturbation(model, images, images, num_classes=4, steps=2, batch_size=4, seed=seed).deltas
        for seed in (0, 0, 1)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert same_state(model, before)
    assert model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("before", "after", "flagged", "codes"),
    [
        ([0.9, 0.1, 0.1, 0.2], [0.6, 0.1, 0.2, 0.1], [0], ["universal_flagged_easiest"]),
        ([0.9, 0.1, 0.1, 0.2], [0.6, 0.1, 0.2, 0.1], [1], []),
        ([0.9, 0.1, 0.1, 0.2], [0.2, 0.0, 0.0, 0.0], [0], []),  # easiest, but not easy
        ([0.9, 0.4, 0.4, 0.5], [0.5, 0.4, 0.4, 0.5], [0], []),  # easy, as all labels are
        ([0.9, 0.1, 0.1, 0.2], [0.1, 0.1, 0.5, 0.1], [0], ["universal_easier"]),
        ([0.9, 0.1, None, 0.2], [0.6, 0.1, None, 0.1], [0], ["universal_flagged_easiest"]),
        ([None, None, None, None], [None, None, None, None], [0], []),
    ],
)
def test_notes(before: list[float | None], after: list[float | None], flagged: list[int], codes: list[str]) -> None:
    assert [note.code for note in notes(found(before), found(after), flagged)] == codes
