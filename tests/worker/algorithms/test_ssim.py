from __future__ import annotations

import numpy as np
import pytest
import torch

from worker.algorithms.errors import UnusableImages
from worker.algorithms.ssim import ssim


def by_hand(x: np.ndarray, y: np.ndarray) -> float:
    """The paper's formula for one channel, window by window, with weighted means and variances."""
    offsets = np.arange(11) - 5
    row = np.exp(-(offsets**2) / (2 * 1.5**2))
    window = np.outer(row, row) / row.sum() ** 2
    values = []
    for top in range(x.shape[0] - 10):
        for left in range(x.shape[1] - 10):
            a, b = x[top : top + 11, left : left + 11], y[top : top + 11, left : left + 11]
            mean_a, mean_b = (window * a).sum(), (window * b).sum()
            variance_a, variance_b = (window * (a - mean_a) ** 2).sum(), (window * (b - mean_b) ** 2).sum()
            covariance = (window * (a - mean_a) * (b - mean_b)).sum()
            values.append(
                (2 * mean_a * mean_b + 0.01**2)
                * (2 * covariance + 0.03**2)
                / ((mean_a**2 + mean_b**2 + 0.01**2) * (variance_a + variance_b + 0.03**2))
            )
    return float(np.mean(values))


def test_it_is_the_papers_formula() -> None:
    generator = np.random.default_rng(0)
    x = generator.random((2, 3, 16, 20))
    y = np.clip(x + 0.2 * generator.standard_normal(x.shape), 0, 1)
    expected = [
        np.mean([by_hand(a, b) for a, b in zip(one, other, strict=True)]) for one, other in zip(x, y, strict=True)
    ]
    got = ssim(torch.from_numpy(x).float(), torch.from_numpy(y).float())
    assert got.numpy() == pytest.approx(expected, abs=1e-5)


def test_the_same_image_has_one_and_its_negative_less_than_zero() -> None:
    x = torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(ssim(x, x), torch.ones(3))
    assert (ssim(x, 1 - x) < 0).all()


def test_flat_images_differ_in_brightness_alone() -> None:
    x, y = torch.full((1, 3, 16, 16), 0.2), torch.full((1, 3, 16, 16), 0.8)
    assert ssim(x, y).item() == pytest.approx((2 * 0.2 * 0.8 + 1e-4) / (0.2**2 + 0.8**2 + 1e-4), abs=1e-3)


def test_its_gradient_leads_to_the_other_image() -> None:
    generator = torch.Generator().manual_seed(0)
    goal = torch.rand(2, 3, 16, 16, generator=generator)
    x = torch.rand(2, 3, 16, 16, generator=generator).requires_grad_()
    before = ssim(x, goal)
    before.sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert (ssim(x + x.grad, goal) > before).all()


def test_under_autocast_it_stays_in_float32() -> None:
    x = 0.5 + 0.01 * torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    y = x.flip(3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        within = ssim(x, y)
    assert torch.equal(within, ssim(x, y))


def test_an_image_smaller_than_the_window_is_refused() -> None:
    with pytest.raises(UnusableImages, match="11 × 11"):
        ssim(torch.rand(1, 3, 10, 16), torch.rand(1, 3, 10, 16))
