from __future__ import annotations

import pytest

from worker.algorithms.errors import UnfitOptions
from worker.algorithms.paths import Paths, resolve

TAPS = ["network.a", "network.b", "network.c", "network.d"]


def short(paths: Paths) -> list[str]:
    return [one[-1] + other[-1] for one, other in resolve(paths, TAPS)]


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        ("adjacent", ["ab", "bc", "cd"]),
        ("skip", ["ac", "ad", "bd"]),
        ("all", ["ab", "ac", "ad", "bc", "bd", "cd"]),
        ([(1, 4)], ["ad"]),
        ([("a", "c"), ("network.b", 4)], ["ac", "bd"]),
        ([(4, 1), ("c", "b")], ["ad", "bc"]),  # the deeper one always comes second
    ],
)
def test_paths_by_word_number_and_name(paths: Paths, expected: list[str]) -> None:
    assert short(paths) == expected


@pytest.mark.parametrize(
    ("paths", "told"),
    [
        ([(1, 5)], "names the tap 5; the taps are, by number or name: 1 a, 2 b, 3 c, 4 d"),
        ([(0, 1)], "names the tap 0"),
        ([("a", "e")], "names the tap 'e'"),
        ([(2, "b")], "from network.b to itself"),
        ([], "leave none"),
    ],
)
def test_what_there_is_not_is_told(paths: Paths, told: str) -> None:
    with pytest.raises(UnfitOptions, match=told):
        resolve(paths, TAPS)


def test_two_taps_have_no_path_that_skips_one() -> None:
    with pytest.raises(UnfitOptions, match="leave none between the 2 taps"):
        resolve("skip", TAPS[:2])
