"""Pictures are well-formed, as many as there is something to show, and the same each time."""

from __future__ import annotations

import io
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from PIL import Image

from redeem.assessment import Assessment, NeuralCleanse
from tests.worker import lab
from tests.worker.stages.test_load import loaded_from
from worker.algorithms.detectors.reversal import ReversedTriggers
from worker.algorithms.triggers import Trigger
from worker.stages.pictures import on_grey, pictures

HISTORY = [{"epoch": epoch, "training_loss": 1.0 / epoch, "held_out_loss": 2.0 / epoch} for epoch in (1, 2)]


def triggers() -> ReversedTriggers:
    masks = torch.linspace(0.1, 1, 4)[:, None, None, None].expand(4, 1, 16, 16)
    patterns = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return ReversedTriggers(masks, patterns, masks.sum((1, 2, 3)), torch.ones(4, dtype=torch.bool))


def measured(*flagged: int, searched: bool = True, labels: int = 4) -> Assessment:
    norms = [9.0 + (5 * label) % 7 for label in range(labels)]
    found = NeuralCleanse(index=2.5, p_value=0.01, flagged=list(flagged), norms=norms, reached=[True] * labels)
    return Assessment(
        mpa=0.9,
        mpa_images=9,
        mpa_per_class=[0.9] * 4,
        asr=None,
        asr_images=0,
        recovery_accuracy=None,
        surrogate_asr=None,
        neural_cleanse=found if searched else None,
    )


def texts(picture: bytes) -> list[str]:
    """What is written in an SVG, in its order; text of two lines is in two parts."""
    nodes = ElementTree.fromstring(picture).iter()  # noqa: S314  our own
    return ["".join(node.itertext()).strip() for node in nodes if node.tag.endswith("}text")]


@pytest.mark.parametrize(("flagged", "shown"), [((), [0]), ((3,), [3]), ((3, 1), [3, 1]), ((3, 1, 0, 2), [3, 1, 0])])
def test_the_pictures_of_a_job(tmp_path: Path, weights: bytes, flagged: tuple[int, ...], shown: list[int]) -> None:
    inputs = loaded_from(tmp_path, weights, triggered=lab.paint(4, 0), target=2)
    before, after = measured(*flagged), measured()
    drawn = {name: (kind, content) for name, kind, content in pictures(inputs, before, after, triggers(), HISTORY)}
    pngs = [f"reversed-trigger-{label}.png" for label in shown]
    assert list(drawn) == ["history.svg", "triggers.svg", "norms.svg", *pngs]
    for name, (kind, content) in drawn.items():
        if name.endswith(".svg"):
            assert kind == "image/svg+xml"
            assert ElementTree.fromstring(content).tag.endswith("svg")  # noqa: S314  our own
        else:
            assert kind == "image/png"
            assert Image.open(io.BytesIO(content)).size == (16, 16)
    again = {name: (kind, content) for name, kind, content in pictures(inputs, before, after, triggers(), HISTORY)}
    assert again == drawn


def test_what_was_not_done_is_not_drawn(tmp_path: Path, weights: bytes) -> None:
    inputs, nothing = loaded_from(tmp_path, weights), measured(searched=False)
    assert [name for name, *_ in pictures(inputs, nothing, nothing, None, HISTORY)] == ["history.svg"]
    assert pictures(inputs, nothing, nothing, None, []) == []


def test_a_search_has_steps_and_no_training_loss(tmp_path: Path, weights: bytes) -> None:
    inputs, nothing = loaded_from(tmp_path, weights), measured(searched=False)
    search = [{"epoch": 1, "pruned": 3.0, "held_out_loss": 0.5, "held_out_accuracy": 0.9}]
    ((_, _, drawn),) = pictures(inputs, nothing, nothing, None, search)
    assert {"step", "held out loss"} <= set(texts(drawn))
    assert "training loss" not in texts(drawn)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_trigger_on_grey(channels: int) -> None:
    mask, pattern = torch.zeros(1, 4, 4), torch.ones(channels, 4, 4)
    mask[0, 0, 0] = 1
    shown = on_grey(Trigger(mask, pattern))
    assert shown.shape == (channels, 4, 4)
    assert (shown[:, 0, 0] == 255).all()
    assert (shown[:, 1:, :] == 127).all()


@pytest.mark.parametrize(("labels", "bars"), [(2, True), (20, True), (21, False), (1000, False)])
def test_many_labels_are_dots_in_the_order_of_their_norms(
    tmp_path: Path, weights: bytes, labels: int, bars: bool
) -> None:
    inputs, before = loaded_from(tmp_path, weights), measured(1, labels=labels)
    drawn = {name: content for name, _, content in pictures(inputs, before, measured(labels=labels), triggers(), [])}
    written = texts(drawn["norms.svg"])
    assert ("label" in written) == bars
    assert ("labels in the order of their norms" in written, "label 1" in written) == (not bars, not bars)
    assert not bars or {str(label) for label in range(labels)} <= set(written)
    assert len(drawn["norms.svg"]) < 400_000
    series = scattered(drawn["norms.svg"])
    assert [len(dots) for dots in series] == ([] if bars else [labels, labels, 1, 1])  # two of them in the legend
    for dots in series:
        heights = [height for _, height in sorted(dots)]
        assert heights == sorted(heights)


def scattered(picture: bytes) -> list[list[tuple[float, float]]]:
    """Where the dots of each series are, from the lower left corner."""
    groups = ElementTree.fromstring(picture).iter("{http://www.w3.org/2000/svg}g")  # noqa: S314  our own
    return [
        [(float(dot.attrib["x"]), -float(dot.attrib["y"])) for dot in group.iter("{http://www.w3.org/2000/svg}use")]
        for group in groups
        if group.get("id", "").startswith("PathCollection")
    ]
