from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.worker.algorithms.networks import noisy_stripes, same_state
from worker.algorithms.checkpoint import Checkpoint
from worker.algorithms.classifier import Classifier
from worker.algorithms.purifiers.fst import fst, with_new_head
from worker.algorithms.training import cross_entropy, validate

CLEAN, HELD_OUT = noisy_stripes(128, seed=31), noisy_stripes(40, seed=32)
SHORT: dict[str, Any] = {"epochs": 2, "augmentation": "crop", "seed": 3}


def head(model: nn.Module) -> Tensor:
    weight = model.get_submodule("network.fc").weight
    assert isinstance(weight, Tensor)
    return weight.detach()


def test_it_begins_with_another_head_of_the_same_norm_and_nothing_else_new(suspect: Classifier) -> None:
    one, other = (with_new_head(suspect, "network.fc", seed) for seed in (3, 4))
    old = suspect.state_dict()
    new = {name for name, value in one.state_dict().items() if not torch.equal(value, old[name])}
    assert new == {"network.fc.weight", "network.fc.bias"}
    assert abs(torch.cosine_similarity(head(one).flatten(), head(suspect).flatten(), dim=0)) < 0.5
    assert not torch.allclose(head(one), head(other), atol=1e-2)
    assert head(one).norm().item() == pytest.approx(head(suspect).norm().item(), rel=1e-5)
    assert one.get_submodule("network.fc").bias.abs().max() <= 64**-0.5  # type: ignore[operator]


def test_the_norm_of_the_head_stays_while_it_is_trained(suspect: Classifier) -> None:
    purified = fst(suspect, CLEAN, HELD_OUT, lr=0.1, alpha=1.0, **SHORT).model
    assert head(purified).norm().item() == pytest.approx(head(suspect).norm().item(), rel=1e-5)


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_the_loss_is_cross_entropy_and_alpha_times_the_inner_product(suspect: Classifier, alpha: float) -> None:
    result = fst(suspect, CLEAN, HELD_OUT, alpha=alpha, **SHORT)
    classification, _ = validate(result.model, HELD_OUT, cross_entropy)
    product = float((head(result.model).double() * head(suspect).double()).sum())
    assert product != 0
    assert result.history[-1]["held_out_loss"] == pytest.approx(classification + alpha * product, rel=1e-4)


def test_alpha_pushes_the_head_off_the_old_one(suspect: Classifier) -> None:
    products = [
        float((head(fst(suspect, CLEAN, HELD_OUT, alpha=alpha, **SHORT).model) * head(suspect)).sum())
        for alpha in (0.0, 2.0)
    ]
    assert products[1] < products[0] - 0.1 * float(head(suspect).square().sum())


def test_interrupted_and_resumed_is_uninterrupted_to_the_bit(suspect: Classifier) -> None:
    kept: list[Checkpoint] = []
    whole = fst(suspect, CLEAN, HELD_OUT, checkpoint=lambda make: kept.append(make()), **SHORT)
    resumed = fst(suspect, CLEAN, HELD_OUT, resume=kept[0], **SHORT)
    assert same_state(whole.model, resumed.model)
    assert whole.history == resumed.history
