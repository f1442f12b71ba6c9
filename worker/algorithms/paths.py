"""Which pairs of taps are aligned: SAGE's paths ⟨i, j⟩, shallow to deep."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal

from worker.algorithms.errors import UnfitOptions

Paths = Literal["adjacent", "skip", "all"] | Sequence[tuple[int | str, int | str]]
"""Neighbours, all that are no neighbours, both, or a list of pairs: taps by number (from 1, the shallowest) or name."""


def resolve(paths: Paths, taps: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of names out of `taps`, which are ordered from shallow to deep; a pair is turned round where it has to be.

    A name may lack the leading `network.` of the classifier around the suspect. Raises `UnfitOptions` for a tap that
    there is none of, a path from a tap to itself, and no path at all.
    """
    every = list(itertools.combinations(taps, 2))
    adjacent = list(itertools.pairwise(taps))
    if paths == "all":
        found = every
    elif paths == "adjacent":
        found = adjacent
    elif paths == "skip":
        found = [path for path in every if path not in adjacent]
    else:
        found = [_ordered(_find(one, taps), _find(other, taps), taps) for one, other in paths]
    if not found:
        raise UnfitOptions(f"paths {paths!r} leave none between the {len(taps)} taps {_listed(taps)}")
    return found


def _ordered(one: str, other: str, taps: Sequence[str]) -> tuple[str, str]:
    if one == other:
        raise UnfitOptions(f"a path needs two taps, and one leads from {one} to itself")
    return (one, other) if taps.index(one) < taps.index(other) else (other, one)


def _find(wanted: int | str, taps: Sequence[str]) -> str:
    if isinstance(wanted, int) and 1 <= wanted <= len(taps):
        return taps[wanted - 1]
    found = [name for name in taps if name in (wanted, f"network.{wanted}")]
    if not found:
        raise UnfitOptions(f"a path names the tap {wanted!r}; the taps are, by number or name: {_listed(taps)}")
    return found[0]


def _listed(taps: Sequence[str]) -> str:
    return ", ".join(f"{number} {name.removeprefix('network.')}" for number, name in enumerate(taps, start=1))
