from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from benchmarks.lab.datasets import Dataset
from benchmarks.lab.profiles import RESERVED
from benchmarks.lab.suspects import Recipe, asr, mpa, parts, suspect
from tests.benchmarks.lab.conftest import TINY

CPU = torch.device("cpu")
BADNETS = Recipe("badnets", 0, TINY)


def test_a_suspect_has_its_backdoor_and_its_twin_has_not(tiny_lab: Dataset, cache: Path) -> None:
    figures = suspect(BADNETS, tiny_lab, cache, CPU).figures
    assert figures["asr"][0] > 0.6
    assert figures["asr_of_benign"][0] < 0.3
    assert figures["mpa"] > 0.5


def test_the_cache_gives_what_was_trained(tiny_lab: Dataset, cache: Path) -> None:
    first = suspect(BADNETS, tiny_lab, cache, CPU)
    files = {file: file.stat().st_mtime_ns for file in cache.iterdir()}
    again = suspect(BADNETS, tiny_lab, cache, CPU)
    assert {file: file.stat().st_mtime_ns for file in cache.iterdir()} == files
    assert round(mpa(again.model, tiny_lab.test[torch.arange(200)]), 4) == first.figures["mpa"]
    assert [round(asr(again.model, one).asr, 4) for one in again.stamped] == first.figures["asr"]


def test_triggered_images_have_their_true_labels_and_none_of_the_targets_class(tiny_lab: Dataset, cache: Path) -> None:
    (stamped,) = suspect(BADNETS, tiny_lab, cache, CPU).stamped
    test = tiny_lab.test[torch.arange(200)]
    others = test.labels != stamped.target
    assert stamped.images.labels.tolist() == test.labels[others].tolist()
    changed = (stamped.images.pixels != test.pixels[others]).flatten(2).any(1).sum(1)
    assert changed.min() > 0
    assert changed.max() <= 9  # a patch of three pixels square


def test_the_hash_is_of_what_the_training_follows_from() -> None:
    other_purifiers = dataclasses.replace(TINY, purifiers={}, attacks={**TINY.attacks, "sig": {"rate": 0.5}})
    assert dataclasses.replace(BADNETS, profile=other_purifiers).hash == BADNETS.hash
    same = dataclasses.replace(TINY, attacks={})
    assert dataclasses.replace(BADNETS, profile=same, options={"margin": 2, "rate": 0.2}).hash == BADNETS.hash
    tuned = dataclasses.replace(TINY, tune_epochs=2)
    assert dataclasses.replace(BADNETS, profile=tuned).hash == BADNETS.hash  # it starts from nothing
    hidden = dataclasses.replace(BADNETS, attack="hidden_trigger")
    assert dataclasses.replace(hidden, profile=tuned).hash != hidden.hash
    for changed in ({"seed": 1}, {"options": {"size": 4}}, {"profile": dataclasses.replace(TINY, epochs=3)}):
        assert dataclasses.replace(BADNETS, **changed).hash != BADNETS.hash


def test_reserved_images_are_not_trained_on(tiny_lab: Dataset) -> None:
    trained, reserved = parts(tiny_lab, TINY)
    assert (len(trained), len(reserved)) == (TINY.images, RESERVED)
    seen = {bytes(pixels.numpy().tobytes()) for pixels in trained.pixels}
    assert not any(pixels.numpy().tobytes() in seen for pixels in reserved.pixels)


def test_the_victim_of_a_hidden_trigger_trains_its_last_layer_alone(tiny_lab: Dataset, cache: Path) -> None:
    recipe = dataclasses.replace(BADNETS, attack="hidden_trigger", options={"steps": 2})
    twin = suspect(dataclasses.replace(BADNETS, attack="none"), tiny_lab, cache, CPU).model.state_dict()
    victim = suspect(recipe, tiny_lab, cache, CPU).model.state_dict()
    changed = {name for name, value in victim.items() if not torch.equal(value, twin[name])}
    assert changed == {"network.fc.weight", "network.fc.bias"}
