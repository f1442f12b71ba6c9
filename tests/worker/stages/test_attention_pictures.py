"""What the attention pictures say is what the networks do, checked with hooks and formulas of their own."""

from __future__ import annotations

import copy
import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from tests.worker import lab
from tests.worker.stages.test_load import loaded_from
from tests.worker.stages.test_pictures import texts, triggers
from worker.algorithms.classifier import Classifier
from worker.stages.attention_pictures import attention_pictures
from worker.stages.load import Inputs

STAGES = ("layer1", "layer2", "layer3", "layer4")


@pytest.fixture
def inputs(tmp_path: Path, weights: bytes) -> Inputs:
    return loaded_from(tmp_path, weights, triggered=lab.paint(40, 0), target=lab.TARGET)


@pytest.fixture
def purified(inputs: Inputs) -> Classifier:
    """Another network than the suspect."""
    other = copy.deepcopy(inputs.suspect)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in other.network.parameters():
            parameter += torch.randn(parameter.shape, generator=generator) * parameter.std(unbiased=False)
    return other


def decimals(written: list[str]) -> list[str]:
    return [text for text in written if re.fullmatch(r"\d\.\d\d", text)]


def drawn(inputs: Inputs, purified: nn.Module, flagged: tuple[int, ...] = ()) -> dict[str, bytes]:
    found = attention_pictures(inputs, purified, triggers() if flagged else None, flagged)
    assert {kind for _, kind, _ in found} <= {"image/svg+xml"}
    return {name: content for name, _, content in found}


def maps(model: Classifier, pixels: Tensor, size: int) -> list[NDArray[np.float64]]:
    """Σ|F|² of the four stages at `size` × `size`, each map of unit length."""
    x, found = (pixels / 255 - 0.5) / 0.25, []
    network = model.network
    with torch.no_grad():
        x = network.relu(network.bn1(network.conv1(x)))
        for stage in STAGES:
            x = network.get_submodule(stage)(x)
            grown = F.interpolate((x**2).sum(1, keepdim=True), size=(size, size), mode="bilinear")
            flat = grown.double().flatten(1).numpy()
            found.append(flat / np.linalg.norm(flat, axis=1, keepdims=True))
    return found


def distances(model: Classifier, pixels: Tensor) -> list[str]:
    """Mean squared distances of adjacent stages, the deeper one at the shallower one's size."""
    sizes = [16, 8, 4]
    pairs = [(maps(model, pixels, size)[number : number + 2]) for number, size in enumerate(sizes)]
    return [f"{((shallow - deep) ** 2).sum(1).mean():.2f}" for shallow, deep in pairs]


def bars_are(written: list[str], inputs: Inputs, purified: Classifier, *kinds: Tensor) -> bool:
    """Whether the distances on these kinds of images are `written`, in order, with the ticks of axes in between."""
    expected = [value for pixels in kinds for model in (inputs.suspect, purified) for value in distances(model, pixels)]
    rest = iter(decimals(written))
    return all(value in rest for value in expected)


def test_the_bars_are_the_mean_distances_of_adjacent_stages(inputs: Inputs, purified: Classifier) -> None:
    written = texts(drawn(inputs, purified)["attention-distances.svg"])
    assert inputs.triggered is not None
    counted = inputs.triggered.images.labels != lab.TARGET
    assert bars_are(written, inputs, purified, inputs.clean.report.pixels, inputs.triggered.images.pixels[counted])
    assert {"clean: 16 images", "triggered: 30 images", "suspect", "purified"} <= set(written)


def test_a_pair_of_maps_has_its_distance_below(inputs: Inputs, purified: Classifier) -> None:
    written = texts(drawn(inputs, purified)["attention.svg"])
    assert inputs.triggered is not None
    expected = []
    for images, label in ((inputs.clean.report, 0), (inputs.clean.report, 1), (inputs.triggered.images, 0)):
        first = images.pixels[images.labels == label][:1]
        for number, size in enumerate((16, 8, 4, 2)):
            pair = (maps(model, first, size)[number] for model in (inputs.suspect, purified))
            expected.append(((next(pair) - next(pair)) ** 2).sum())
    assert [text for text in written if text.startswith("label")] == ["label 0", "label 1", "label 0", "label 1"]
    assert len(decimals(written)) == 16
    assert [float(text) for text in decimals(written)[:12]] == pytest.approx(expected, abs=0.00501)
    assert max(expected) > 0.3
    assert [text for text in written if text.startswith("layer")] == [
        "layer1, 16×16", "layer2, 8×8", "layer3, 4×4", "layer4, 2×2"
    ]  # fmt: skip


def test_a_model_beside_itself_has_equal_maps(inputs: Inputs) -> None:
    assert set(decimals(texts(drawn(inputs, inputs.suspect)["attention.svg"]))) == {"0.00"}


def test_what_was_sent_or_reversed_is_named(inputs: Inputs, purified: Classifier) -> None:
    sent = texts(drawn(inputs, purified, flagged=(1,))["attention.svg"])
    assert (sent.count("clean"), sent.count("triggered")) == (2, 2)
    alone = dataclasses.replace(inputs, triggered=None)
    stamped = drawn(alone, purified, flagged=(1, 3))
    bars, others = texts(stamped["attention-distances.svg"]), inputs.clean.report.labels != 1
    assert {"clean: 12 images", "reversed trigger of label 1: 12 images"} <= set(bars)
    pixels = inputs.clean.report.pixels[others]
    assert bars_are(bars, inputs, purified, pixels, triggers()[1].stamp(pixels))
    labels = [text for text in texts(stamped["attention.svg"]) if text in {"label 0", "label 1", "label 2"}]
    assert labels == ["label 0", "label 2"] * 2
    clean = texts(drawn(alone, purified)["attention.svg"])
    assert (clean.count("clean"), clean.count("triggered")) == (2, 0)
    assert not any("reversed" in text for text in clean)


def test_triggered_images_that_are_all_of_the_target_are_not_shown(inputs: Inputs, purified: Classifier) -> None:
    assert inputs.triggered is not None
    useless = dataclasses.replace(inputs.triggered, targets=inputs.triggered.images.labels)
    written = texts(drawn(dataclasses.replace(inputs, triggered=useless), purified)["attention.svg"])
    assert (written.count("clean"), written.count("triggered")) == (2, 0)


def test_the_taps_can_be_named(inputs: Inputs, purified: Classifier) -> None:
    (_, _, picture), _ = attention_pictures(inputs, purified, None, (), ("layer1", "layer2.0", "layer3"))
    named = [text for text in texts(picture) if text.startswith("layer")]
    assert named == ["layer1, 16×16", "layer2.0, 8×8", "layer3, 4×4"]


def test_the_same_models_give_the_same_bytes_and_stay_as_they_were(inputs: Inputs, purified: Classifier) -> None:
    inputs.suspect.train()
    state = {key: tensor.clone() for key, tensor in inputs.suspect.state_dict().items()}
    assert drawn(inputs, purified) == drawn(inputs, purified)
    assert inputs.suspect.training
    assert all(torch.equal(tensor, state[key]) for key, tensor in inputs.suspect.state_dict().items())


def test_a_network_without_maps_has_no_attention_picture(inputs: Inputs) -> None:
    flat = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(768, 4)), [0.5] * 3, [0.5] * 3).eval()
    assert drawn(dataclasses.replace(inputs, suspect=flat), flat) == {}
