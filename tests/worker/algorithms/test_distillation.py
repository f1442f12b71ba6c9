from __future__ import annotations

import pytest
import torch

from worker.algorithms.distillation import divergence


def test_divergence_is_that_of_the_formula() -> None:
    predicted, own = torch.randn(5, 4), torch.randn(5, 4)
    p, q = (own / 2).double().softmax(1), (predicted / 2).double().softmax(1)
    expected = 4 * (p * (p / q).log()).sum(1).mean()
    assert divergence(predicted, own).item() == pytest.approx(expected.item(), rel=1e-4)
    assert divergence(own, own).item() == pytest.approx(0, abs=1e-6)
