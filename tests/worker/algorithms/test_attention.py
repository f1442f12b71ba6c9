from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.worker.algorithms.networks import small_classifier
from worker.algorithms.attention import attention_distance, attention_map, find_taps, normalized, recording
from worker.algorithms.errors import TooFewTaps


def features(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def bilinear_2x(maps: np.ndarray) -> np.ndarray:
    """Twice the size, as written in any textbook: samples at pixel centres, edges repeated."""
    size = maps.shape[1] * 2
    out = np.empty((len(maps), size, size))
    for row in range(size):
        for column in range(size):
            y, x = (row + 0.5) / 2 - 0.5, (column + 0.5) / 2 - 0.5
            y0, x0 = int(np.floor(y)), int(np.floor(x))
            dy, dx = y - y0, x - x0
            clip = lambda index: min(max(index, 0), maps.shape[1] - 1)  # noqa: E731
            out[:, row, column] = (
                (1 - dy) * (1 - dx) * maps[:, clip(y0), clip(x0)]
                + (1 - dy) * dx * maps[:, clip(y0), clip(x0 + 1)]
                + dy * (1 - dx) * maps[:, clip(y0 + 1), clip(x0)]
                + dy * dx * maps[:, clip(y0 + 1), clip(x0 + 1)]
            )
    return out


def reference(shallow: Tensor, deep: Tensor) -> float:
    """ψ = N(U(G(·))) and the mean of squares, in NumPy and float64, from the formulas."""
    g_shallow = (shallow.double().numpy() ** 2).sum(1)
    g_deep = bilinear_2x((deep.double().numpy() ** 2).sum(1))
    unit = lambda maps: maps / np.sqrt((maps**2).sum((1, 2), keepdims=True))  # noqa: E731
    return float(((unit(g_shallow) - unit(g_deep)) ** 2).mean())


def test_distance_is_that_of_the_formulas() -> None:
    shallow, deep = features(3, 5, 8, 8), features(3, 7, 4, 4, seed=1)
    assert attention_distance(shallow, deep).item() == pytest.approx(reference(shallow, deep), rel=1e-5)


def test_deep_map_is_brought_to_the_shallow_size_before_it_is_normalised() -> None:
    # The other way round (the shallow map shrunk) the mean would be over 4 × 4 pixels, four times as large or so.
    shallow, deep = features(2, 4, 8, 8), features(2, 4, 4, 4, seed=1)
    swapped = attention_distance(deep, shallow).item()
    assert attention_distance(shallow, deep).item() != pytest.approx(swapped, rel=0.2)


def test_gradient_flows_into_both_maps() -> None:
    shallow, deep = features(2, 4, 8, 8).requires_grad_(), features(2, 4, 4, 4, seed=1).requires_grad_()
    attention_distance(shallow, deep).backward()
    for tensor in (shallow, deep):
        assert tensor.grad is not None
        assert tensor.grad.abs().sum() > 0


def test_distance_does_not_see_the_scale_of_the_features() -> None:
    shallow, deep = features(2, 4, 8, 8), features(2, 4, 4, 4, seed=1)
    assert attention_distance(5 * shallow, deep / 3).item() == pytest.approx(attention_distance(shallow, deep).item())


def test_equal_attention_has_no_distance_whatever_the_channels() -> None:
    shallow = features(2, 4, 8, 8)
    assert attention_distance(shallow, torch.cat([shallow, shallow], dim=1)).item() == pytest.approx(0, abs=1e-12)


def test_distance_is_bounded_by_that_of_disjoint_maps() -> None:
    left, right = torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)
    left[..., :2], right[..., 2:] = 1, 1
    assert attention_distance(left, right).item() == pytest.approx(2 / 16)


def test_map_is_float32_and_does_not_overflow_in_half_precision() -> None:
    large = torch.full((1, 512, 2, 2), 200.0, dtype=torch.float16)
    assert attention_map(large).dtype == torch.float32
    assert attention_map(large).isfinite().all()


def test_dead_map_gives_no_gradient_and_no_nan() -> None:
    dead = torch.zeros(1, 3, 8, 8, requires_grad=True)
    attention_distance(dead, features(1, 3, 4, 4)).backward()
    assert dead.grad is not None
    assert dead.grad.isfinite().all()
    assert normalized(torch.zeros(1, 1, 2, 2)).isfinite().all()


def test_taps_of_a_resnet_are_its_four_stages() -> None:
    model = small_classifier()
    assert find_taps(model, torch.rand(1, 3, 32, 32)) == [f"network.layer{stage}" for stage in (1, 2, 3, 4)]


def test_a_network_of_one_resolution_is_refused_with_what_was_found() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    with pytest.raises(TooFewTaps, match="8×8"):
        find_taps(model, torch.rand(1, 3, 8, 8))


def test_finding_taps_and_recording_leave_the_model_as_it_was() -> None:
    model = small_classifier().train()
    find_taps(model, torch.rand(1, 3, 16, 16))
    with recording(model, ["network.layer1"]) as outputs:
        model(torch.rand(2, 3, 16, 16))
        assert outputs["network.layer1"].shape == (2, 8, 16, 16)
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())
