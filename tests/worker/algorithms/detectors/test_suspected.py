from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch

from tests.worker.algorithms.networks import noisy_stripes
from worker.algorithms.aim import Aim
from worker.algorithms.classifier import Classifier
from worker.algorithms.detectors.anomaly import Anomaly
from worker.algorithms.detectors.neural_cleanse import NeuralCleanse
from worker.algorithms.detectors.reversal import ReversedTriggers
from worker.algorithms.detectors.suspected import Kind, Put, pack, suspected, unpack
from worker.algorithms.detectors.universal import Shift, UniversalPerturbations
from worker.algorithms.detectors.universal_warp import UniversalWarps
from worker.algorithms.triggers import Trigger
from worker.algorithms.warp import Warp

IMAGES = noisy_stripes(8)


def cleansed(norms: list[float], *, flagged: list[int], reached: list[bool]) -> NeuralCleanse:
    """What Neural Cleanse would say of labels whose triggers have these norms; each mask is full of norm / 256."""
    sizes = torch.tensor(norms)
    masks = (sizes / 256)[:, None, None, None].expand(-1, 1, 16, 16)
    patterns = torch.arange(len(norms))[:, None, None, None].expand(-1, 3, 16, 16) / 10
    triggers = ReversedTriggers(masks, patterns, sizes, torch.tensor(reached))
    statistics = Anomaly(0.0, None, flagged, "ratio", norms, float(sizes.median()), 0.0, False)
    return NeuralCleanse(triggers, sizes, torch.zeros(len(norms)), statistics, 1)


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the three searches find, to be given by the test."""
    results: dict[str, Any] = {
        "neural_cleanse": cleansed([9.0] * 4, flagged=[], reached=[False] * 4),
        "universal_perturbation": UniversalPerturbations(torch.zeros(4, 3, 16, 16), [0.1, 0.1, 0.2, 0.1], 0.1),
        "universal_warp": UniversalWarps(torch.zeros(4, 2, 4, 4), torch.zeros(4, 16, 16, 2), [0.1] * 4, 1.0),
    }
    module = importlib.import_module("worker.algorithms.detectors.suspected")
    for name in results:
        monkeypatch.setattr(module, name, lambda *_, name=name, **__: results[name])
    return results


def found(model: Classifier, *kinds: Kind) -> tuple[list[tuple[type, int]], int | None]:
    aims, smallest = suspected(model, IMAGES, IMAGES, kinds=kinds)
    return [(type(aim.trigger), aim.target) for aim in aims], smallest and smallest.target


def test_flagged_small_and_standing_out_ones_are_suspected(benign: Classifier, searches: dict[str, Any]) -> None:
    assert found(benign, "patch", "pattern", "warp") == ([], None)
    searches["neural_cleanse"] = cleansed([9.0, 6.0, 8.0, 1.0], flagged=[1], reached=[True] * 4)
    searches["universal_perturbation"].success[2] = 0.9
    searches["universal_warp"].success[0] = 0.8
    patches = [(Trigger, 3), (Trigger, 1)]
    assert found(benign, "patch", "pattern", "warp") == ([*patches, (Shift, 2), (Warp, 0)], 3)
    assert found(benign, "warp") == ([(Warp, 0)], None)


def test_the_smallest_patch_is_told_of_where_none_is_flagged(benign: Classifier, searches: dict[str, Any]) -> None:
    searches["neural_cleanse"] = cleansed([9.0, 6.0, 8.0], flagged=[], reached=[True] * 3)
    assert found(benign, "patch") == ([], 1)


def test_a_small_patch_that_did_not_reach_its_label_is_none(benign: Classifier, searches: dict[str, Any]) -> None:
    searches["neural_cleanse"] = cleansed([9.0, 1.0, 8.0], flagged=[], reached=[True, False, True])
    assert found(benign, "patch") == ([], 2)


def test_what_is_packed_is_unpacked() -> None:
    draw = torch.Generator().manual_seed(0)
    aims: list[Aim[Put]] = [
        Aim(Trigger(torch.rand(1, 4, 4, generator=draw), torch.rand(3, 4, 4, generator=draw)), 3),
        Aim(Warp(torch.rand(4, 4, 2, generator=draw)), 1),
        Aim(Shift(torch.rand(3, 4, 4, generator=draw)), 3),
    ]
    again = unpack(pack(aims))
    x = torch.rand(2, 3, 4, 4, generator=draw)
    assert [(type(aim.trigger), aim.target) for aim in again] == [(Trigger, 3), (Warp, 1), (Shift, 3)]
    for one, other in zip(aims, again, strict=True):
        assert torch.equal(one.trigger.put(x), other.trigger.put(x))
    assert unpack({}) == []
