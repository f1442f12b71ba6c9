from __future__ import annotations

import pytest
import torch

from worker.algorithms.out_of_memory import halving, out_of_memory


def run_with(room: int, tried: list[int]) -> object:
    def run(size: int) -> str:
        tried.append(size)
        if size > room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return f"{size} fit"

    return run


def test_halves_are_tried_until_one_fits() -> None:
    tried: list[int] = []
    assert halving(run_with(20, tried), 64) == ("16 fit", 16)
    assert tried == [64, 32, 16]


def test_what_fits_is_run_once() -> None:
    tried: list[int] = []
    assert halving(run_with(64, tried), 64) == ("64 fit", 64)
    assert tried == [64]


@pytest.mark.parametrize(("smallest", "expected"), [(1, [9, 4, 2, 1]), (4, [9, 4]), (10, [9])])
def test_below_the_smallest_the_error_is_raised(smallest: int, expected: list[int]) -> None:
    tried: list[int] = []
    with pytest.raises(torch.OutOfMemoryError):
        halving(run_with(0, tried), 9, smallest=smallest)
    assert tried == expected


def test_another_error_is_not_tried_again() -> None:
    with pytest.raises(ZeroDivisionError):
        halving(lambda size: size // 0, 8)


def test_what_torch_really_says_is_known() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert out_of_memory(caught.value)
    assert not out_of_memory(RuntimeError("shapes do not match"))
