"""What every detector promises, over the whole catalogue: a new one is picked up here."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.worker.algorithms.networks import noisy_stripes, same_state, small_classifier
from worker.algorithms.aim import Aim
from worker.algorithms.classifier import Classifier
from worker.algorithms.data import Images
from worker.algorithms.detectors import DETECTORS
from worker.algorithms.triggers import Trigger

Look = Callable[..., Any]


def corner(channels: int) -> Aim[Trigger]:
    mask = torch.zeros(1, 16, 16)
    mask[:, :3, :3] = 1
    return Aim(Trigger(mask, torch.ones(channels, 16, 16)), 0)


def images(count: int, channels: int = 3, seed: int = 0) -> Images:
    striped = noisy_stripes(count, seed=seed)
    return Images(striped.pixels[:, :channels].contiguous(), striped.labels)


def alone(name: str, options: dict[str, Any], model: Classifier, clean: Images, others: Images, **more: Any) -> Any:
    return DETECTORS[name](model, clean, **options, **more)


def beside(name: str, options: dict[str, Any], model: Classifier, clean: Images, others: Images, **more: Any) -> Any:
    return DETECTORS[name](model, clean, others, **options, **more)


def retuned(name: str, options: dict[str, Any], model: Classifier, clean: Images, others: Images, **more: Any) -> Any:
    return DETECTORS[name](model, clean, others, corner(clean.pixels.shape[1]), **options, **more)


def on_the_line(
    name: str, options: dict[str, Any], model: Classifier, clean: Images, others: Images, seed: int = 0, **more: Any
) -> Any:
    channels = clean.pixels.shape[1]
    other = small_classifier(seed=1, in_channels=channels)
    return DETECTORS[name](model, other, others, corner(channels), **options, **more)


# How to call it, with options of a run of a moment.
QUICK: dict[str, tuple[Look, dict[str, Any]]] = {
    "neural_cleanse": (alone, {"num_classes": 4, "steps": 10, "batch_size": 8}),
    "brain_stimulation": (
        beside,
        {"steps": 10, "batch_size": 4, "seeds": 4, "levels": 1, "most": 2, "consistency": 0.1},
    ),
    "universal_perturbation": (beside, {"num_classes": 4, "steps": 2, "batch_size": 4}),
    "universal_warp": (beside, {"num_classes": 4, "steps": 2, "batch_size": 4}),
    "strip": (beside, {"overlays": 2}),
    "sentinet": (beside, {"overlays": 2}),
    "activation_clustering": (beside, {"num_classes": 4}),
    "retuning": (retuned, {"epochs": 1, "triggered": 2}),
    "weight_path": (on_the_line, {"points": 2}),
}

every_detector = pytest.mark.parametrize("name", QUICK)


def look(name: str) -> Look:
    call, options = QUICK[name]
    return functools.partial(call, name, options)


def told(found: object) -> Any:
    """A result as plain values, to compare."""
    if isinstance(found, Tensor):
        return found.tolist()
    if dataclasses.is_dataclass(found):
        return {field.name: told(getattr(found, field.name)) for field in dataclasses.fields(found)}
    return [told(each) for each in found] if isinstance(found, list) else found


def finite(values: Any) -> bool:
    if isinstance(values, dict | list):
        return all(finite(value) for value in (values.values() if isinstance(values, dict) else values))
    return not isinstance(values, float) or abs(values) < float("inf")


def alike(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(alike, one, other))
    return one == (pytest.approx(other, rel=1e-2, abs=1e-3) if isinstance(one, float) else other)


def test_every_detector_is_tried_here() -> None:
    assert QUICK.keys() == DETECTORS.keys()


@every_detector
def test_nothing_that_was_given_is_changed(name: str) -> None:
    model, clean, others = small_classifier().train(), images(48), images(48, seed=1)
    model.network.conv1.weight.requires_grad_(False)
    before, pixels = copy.deepcopy(model), (clean.pixels.clone(), others.pixels.clone())
    look(name)(model, clean, others)
    assert same_state(model, before)
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    for parameter, old in zip(model.parameters(), before.parameters(), strict=True):
        assert (parameter.requires_grad, parameter.grad) == (old.requires_grad, None)
    assert torch.equal(clean.pixels, pixels[0])
    assert torch.equal(others.pixels, pixels[1])


@every_detector
def test_the_seed_decides(name: str) -> None:
    model, clean, others = small_classifier(), images(48), images(48, seed=1)
    first = told(look(name)(model, clean, others, seed=3))
    torch.rand(7)  # whatever state the caller's randomness is in
    assert told(look(name)(model, clean, others, seed=3)) == first


@every_detector
@pytest.mark.parametrize("channels", [1, 3])
def test_a_few_images_of_any_channels_do(name: str, channels: int) -> None:
    model = small_classifier(in_channels=channels)
    found = told(look(name)(model, images(6, channels), images(5, channels, seed=1)))
    assert finite(found)


@every_detector
def test_half_as_many_inputs_go_through_where_the_memory_does_not_hold_them(name: str) -> None:
    model, clean, others = small_classifier(), images(48), images(48, seed=1)
    expected, refused = told(look(name)(model, clean, others)), []

    def hungry(_: torch.nn.Module, inputs: tuple[Tensor]) -> None:
        if len(inputs[0]) > 16:  # as many are tried at once before a search
            refused.append(len(inputs[0]))
            raise torch.OutOfMemoryError("CUDA out of memory")

    model.network.layer4[0].conv1.register_forward_pre_hook(hungry)
    found = told(look(name)(model, clean, others))
    assert refused
    if name == "retuning":  # other batches are another training
        assert finite(found)
    else:
        assert alike(found, expected)


@every_detector
def test_progress_is_told_and_may_stop_the_run(name: str) -> None:
    heard: list[float] = []

    class Stop(Exception):
        pass

    def listen(fraction: float) -> None:
        heard.append(fraction)
        raise Stop

    with pytest.raises(Stop):
        look(name)(small_classifier(), images(12), images(12, seed=1), progress=listen)
    assert len(heard) == 1
    assert 0 < heard[0] <= 1


@every_detector
def test_progress_grows_to_the_end(name: str) -> None:
    heard: list[float] = []
    look(name)(small_classifier(), images(12), images(12, seed=1), progress=heard.append)
    assert heard == sorted(heard)
    assert heard[-1] == pytest.approx(1)
