from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from worker.algorithms.attention import Attention, Function, Side, attention_distance, attention_map, normalized


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


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0, 4.0])
@pytest.mark.parametrize(
    ("function", "collapse"), [("sum_p", np.sum), ("max_p", np.max), ("mean_p", np.mean)], ids=["sum", "max", "mean"]
)
def test_maps_are_those_of_the_formulas(function: Function, collapse: Callable[..., np.ndarray], p: float) -> None:
    maps = features(2, 5, 4, 4)
    expected = collapse(np.abs(maps.double().numpy()) ** p, axis=1)
    np.testing.assert_allclose(attention_map(maps, function, p)[:, 0].numpy(), expected, rtol=1e-5)


def test_the_plain_sum_is_that_of_power_one_whatever_p_is() -> None:
    maps = features(2, 5, 4, 4)
    assert torch.equal(attention_map(maps, "sum", 4.0), attention_map(maps, "sum_p", 1.0))


@pytest.mark.parametrize("p", [1.0, 2.0, 4.0])
def test_sum_and_mean_are_one_under_normalisation_and_the_maximum_is_not(p: float) -> None:
    shallow, deep = features(2, 6, 8, 8), features(2, 12, 4, 4, seed=1)
    summed, mean, largest = (
        attention_distance(shallow, deep, Attention(function=function, p=p)).item()
        for function in ("sum_p", "mean_p", "max_p")
    )
    assert mean == pytest.approx(summed, rel=1e-4)
    assert largest != pytest.approx(summed, rel=0.02)
    raw = [
        attention_distance(shallow, deep, Attention(function=function, p=p, normalize=False)).item()
        for function in ("sum_p", "mean_p")
    ]
    assert raw[0] != pytest.approx(raw[1], rel=0.5)


def test_without_normalisation_the_scale_of_the_features_counts() -> None:
    shallow, deep = features(2, 4, 8, 8), features(2, 4, 4, 4, seed=1)
    raw = Attention(normalize=False)
    plain = attention_distance(shallow, deep, raw).item()
    assert attention_distance(3 * shallow, 3 * deep, raw).item() == pytest.approx(81 * plain, rel=1e-4)  # (3²)²


def test_scales_of_the_distance_are_one_another_s() -> None:
    shallow, deep = features(1, 4, 8, 8), features(1, 4, 4, 4, seed=1)
    mean, squares, norm = (
        attention_distance(shallow, deep, Attention(distance=distance)).item()
        for distance in ("mse", "squares", "norm")
    )
    assert squares == pytest.approx(64 * mean, rel=1e-5)
    assert norm == pytest.approx(squares**0.5, rel=1e-5)


def test_the_norm_is_averaged_over_images_and_finite_where_maps_agree() -> None:
    shallow, deep = features(3, 4, 8, 8), features(3, 4, 4, 4, seed=1)
    how = Attention(distance="norm")
    alone = [attention_distance(shallow[i : i + 1], deep[i : i + 1], how).item() for i in range(3)]
    assert attention_distance(shallow, deep, how).item() == pytest.approx(sum(alone) / 3, rel=1e-5)
    same = features(1, 4, 8, 8).requires_grad_()
    attention_distance(same, same.detach(), how).backward()
    assert same.grad is not None
    assert same.grad.isfinite().all()


@pytest.mark.parametrize(
    ("detach", "moved"), [("none", (True, True)), ("shallow", (False, True)), ("deep", (True, False))]
)
def test_the_detached_side_gets_no_gradient(detach: Side, moved: tuple[bool, bool]) -> None:
    pair = features(2, 4, 8, 8).requires_grad_(), features(2, 4, 4, 4, seed=1).requires_grad_()
    attention_distance(*pair, Attention(detach=detach)).backward()
    assert tuple(side.grad is not None for side in pair) == moved
    plain = features(2, 4, 8, 8), features(2, 4, 4, 4, seed=1)
    assert attention_distance(*plain, Attention(detach=detach)).item() == attention_distance(*plain).item()
