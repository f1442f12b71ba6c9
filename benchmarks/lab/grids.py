"""The cells of the paper's tables and of ours, by name."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from benchmarks.lab.cells import Cell
from benchmarks.lab.claims import BASELINES, CIFAR10
from benchmarks.lab.profiles import Profile
from benchmarks.lab.suspects import Recipe
from worker.algorithms.purifiers.sage import PAPER

PAPERS_ATTACKS = tuple(CIFAR10)
ALSO = ("blended", "sig")
FEWEST, MORE = 500, 2500  # 1 % and 5 % of CIFAR-10

SAGE, CONTROL = ("sage", {}), ("sage", {"beta": 0.0})
OURS = tuple((name, {}) for name in ("ft_sam", "fst", "clp", "i_bau", "unlearning", "auto"))
EVERY = (SAGE, CONTROL, *((name, {}) for name in BASELINES), *OURS)


def main(profile: Profile) -> list[Cell]:
    """Attack × purifier, with 1 % and 5 % clean images, three seeds of the bundle (tables II and III)."""
    return [
        Cell(Recipe(attack, 0, profile), purifier, clean, seed, options)
        for clean, seed in itertools.product((FEWEST, MORE), (0, 1, 2))
        for attack in (*PAPERS_ATTACKS, *ALSO)
        for purifier, options in EVERY
    ]


def benign(profile: Profile) -> list[Cell]:
    """What purification costs a network without a backdoor (table V)."""
    return [Cell(Recipe("none", 0, profile), name, FEWEST, 0, options) for name, options in EVERY]


def clean_sizes(profile: Profile) -> list[Cell]:
    """Clean images from 0.2 % to 5 % of the training set (figure 4)."""
    return [
        Cell(Recipe(attack, 0, profile), name, clean, 0, options)
        for attack in PAPERS_ATTACKS
        for name, options in (SAGE, CONTROL)
        for clean in (100, 250, FEWEST, 1000, MORE)
    ]


def ablations(profile: Profile) -> list[Cell]:
    """Each choice of SAGE against the others, on two suspects (tables XIV, XVI, XVIII, figures 5 to 7)."""
    varied = [
        {},
        {"normalize": False},
        *({"schedule": schedule} for schedule in ("dynamic", "fixed", "divided")),
        *({"attention": function} for function in ("sum", "max_p", "mean_p")),
        *({"p": p} for p in (1.0, 4.0)),
        *({"paths": paths} for paths in ("skip", "all", [(1, 2)], [(2, 3)], [(3, 4)])),
        *({"beta": beta} for beta in (0.0, 30.0, 100.0, 1000.0, 3000.0)),
        *({"detach": side} for side in ("shallow", "deep")),
        *({"distance": distance, "beta": beta} for distance, beta in (("squares", 3.0), ("norm", 1.0))),
        {"own_logits": 0.0},
        *({"averaging": decay} for decay in (0.0, 0.98)),
        {"lr_scale": "none"},
        PAPER,
    ]
    return [
        Cell(Recipe(attack, 0, profile), "sage", FEWEST, 0, options)
        for attack in ("badnets", "robnet")
        for options in varied
    ]


def shapes(profile: Profile) -> list[Cell]:
    """Seven shapes of TrojanNN's trigger (table IX)."""
    names = ("triangle", "square", "hexagon", "circle", "parallelogram", "quadrant", "semicircle")
    return _variants(profile, "trojan_nn", [{"shape": name} for name in names])


def large_triggers(profile: Profile) -> list[Cell]:
    """Square triggers of TrojanNN from 3 to 20 pixels, half transparent (table X)."""
    return _variants(profile, "trojan_nn", [{"size": size, "transparency": 0.5} for size in (3, 8, 12, 16, 20)])


def transparency(profile: Profile) -> list[Cell]:
    """TrojanNN from opaque to nearly invisible."""
    return _variants(profile, "trojan_nn", [{"transparency": share / 10} for share in (0, 3, 5, 7, 9)])


def several_triggers(profile: Profile) -> list[Cell]:
    """RobNet with one, three and five triggers, for one label and for several."""
    same = [{"triggers": count, "targets": (3,)} for count in (1, 3, 5)]
    several = [{"triggers": len(targets), "targets": targets} for targets in ((3, 4, 5), (3, 4, 5, 6, 7))]
    return _variants(profile, "robnet", [*same, *several])


def class_specific(profile: Profile) -> list[Cell]:
    """One source class, with cover images (table XI)."""
    return _variants(profile, "class_specific", [{}])


def adaptive(profile: Profile) -> list[Cell]:
    """Ingrain that knows of SAGE, by both readings (table XII)."""
    return _variants(profile, "ingrain", [{"adaptive": who} for who in ("student", "teacher")])


def _variants(profile: Profile, attack: str, options: list[dict[str, object]]) -> list[Cell]:
    return [
        Cell(Recipe(attack, 0, profile, options=one), name, FEWEST, 0, purifier)
        for one in options
        for name, purifier in (SAGE, CONTROL)
    ]


GRIDS: dict[str, Callable[[Profile], list[Cell]]] = {
    "main": main,
    "benign": benign,
    "clean_sizes": clean_sizes,
    "ablations": ablations,
    "shapes": shapes,
    "large_triggers": large_triggers,
    "transparency": transparency,
    "several_triggers": several_triggers,
    "class_specific": class_specific,
    "adaptive": adaptive,
}
