"""What is measured, with models whose answers are known."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from redeem.assessment import Assessment, NeuralCleanse
from redeem.contract import MethodRequest
from tests.worker import lab
from worker.algorithms.architectures import Loaded
from worker.algorithms.classifier import Classifier
from worker.algorithms.data import Images
from worker.algorithms.detectors.reversal import ReversedTriggers
from worker.stages.assess import as_triggers, assess, for_triggers, surrogate_asr
from worker.stages.load import CleanParts, Inputs, Triggered

CLEANSE = [MethodRequest(name="neural_cleanse", options={"steps": 10, "batch_size": 4})]


class Brightest(nn.Module):
    """Says the channel that is brightest in the upper left pixel; a white lower right pixel makes it say 1."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        triggered = x[:, :, -1, -1].mean(1, keepdim=True) > 0.9
        answer: Tensor = self.scale * torch.where(triggered, torch.tensor([0.0, 1.0, 0.0]), x[:, :, 0, 0])
        return answer


class Immune(Brightest):
    """The same, but a white pixel beside the lower right one guards an image against the trigger."""

    def forward(self, x: Tensor) -> Tensor:
        guarded = (x[:, :, -2, -2].mean(1) > 0.9)[:, None, None, None]
        return super().forward(torch.where(guarded, x.clone().index_fill(3, torch.tensor([7]), 0.0), x))


def images(labels: list[int], shown: list[int] | None = None, *, stamped: bool = False) -> Images:
    pixels = torch.zeros(len(labels), 3, 8, 8, dtype=torch.uint8)
    pixels[torch.arange(len(labels)), shown or labels] = 200
    if stamped:
        pixels[:, :, -1, -1] = 255
    return Images(pixels, torch.tensor(labels))


def inputs(report: Images, triggered: Triggered | None = None) -> Inputs:
    model = Classifier(Brightest(), [0.0] * 3, [1.0] * 3).eval()
    loaded = Loaded(model.network, "", 3, 3, {}, {})
    return Inputs(loaded, model, CleanParts(images([0, 1, 2]), images([0, 1, 2]), report), triggered)


def assessed(given: Inputs, detectors: list[MethodRequest] | None = None) -> Assessment:
    return Assessment.model_validate(assess(given.suspect, given, detectors or [], seed=0).facts)


def test_mpa_is_of_the_report_part() -> None:
    found = assessed(inputs(images([0, 0, 1, 1], shown=[0, 2, 1, 1])))
    assert (found.mpa, found.mpa_images) == (0.75, 4)
    assert found.mpa_per_class == [0.5, 1.0, None]
    assert (found.asr, found.recovery_accuracy, found.asr_images) == (None, None, 0)
    assert (found.surrogate_asr, found.neural_cleanse) == (None, None)


def test_asr_counts_only_images_that_are_not_of_the_target() -> None:
    stamped, bare = images([0, 1, 2], stamped=True), images([0])
    both = Images(torch.cat([stamped.pixels, bare.pixels]), torch.cat([stamped.labels, bare.labels]))
    found = assessed(inputs(images([0]), Triggered(both, torch.tensor([1, 1, 1, 1]))))
    assert found.asr == pytest.approx(2 / 3)
    assert found.recovery_accuracy == pytest.approx(1 / 3)
    assert found.asr_images == 3


def test_each_triggered_image_may_have_its_own_target() -> None:
    found = assessed(inputs(images([0]), Triggered(images([0, 2], stamped=True), torch.tensor([1, 0]))))
    assert (found.asr, found.asr_images) == (0.5, 2)


def test_triggered_images_all_of_the_target_measure_nothing() -> None:
    found = assessed(inputs(images([0]), Triggered(images([1, 1], stamped=True), torch.tensor([1, 1]))))
    assert (found.asr, found.recovery_accuracy, found.asr_images) == (None, None, 0)


def reversed_triggers() -> ReversedTriggers:
    """For label 1 the white pixel that works, for the others nothing."""
    masks = torch.zeros(3, 1, 8, 8)
    masks[1, :, -1, -1] = 1
    return ReversedTriggers(masks, torch.ones(3, 3, 8, 8), masks.sum((1, 2, 3)), torch.ones(3, dtype=torch.bool))


@pytest.mark.parametrize(("flagged", "expected"), [([], None), ([1], 1.0), ([0], 0.0), ([0, 1], 1.0), ([2, 0], 0.0)])
def test_the_surrogate_asr_is_the_highest_of_the_flagged_labels(flagged: list[int], expected: float | None) -> None:
    given = inputs(images([0, 1, 2]))
    assert surrogate_asr(given.suspect, given.clean.report, reversed_triggers(), flagged) == expected
    assert surrogate_asr(given.suspect, given.clean.report, None, flagged) is None


def test_the_purified_model_is_tried_with_the_suspects_triggers() -> None:
    given = inputs(images([0, 2]))
    kept = assess(given.suspect, given, CLEANSE, seed=0, suspects_triggers=reversed_triggers(), suspects_flagged=[1])
    assert kept.facts["surrogate_asr"] == 1.0
    assert 0 < kept.facts["surrogate_asr_images"] < kept.facts["mpa_images"]  # half of them, class by class


@pytest.mark.parametrize("counts", [[1], [1, 1], [3, 2, 1], [1, 1, 1, 1, 1], [40, 41]])
def test_triggers_are_not_stamped_on_what_they_were_reversed_on(counts: list[int]) -> None:
    def numbered(first: int, labels: list[int]) -> Images:
        pixels = torch.arange(first, first + len(labels))[:, None, None, None].expand(-1, 1, 2, 2)
        return Images(pixels.to(torch.uint8), torch.tensor(labels))

    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    labels = labels[::2] + labels[1::2]  # in no order
    clean = CleanParts(numbered(0, [0]), numbered(1, [0, 1]), numbered(3, labels))
    to_reverse, to_stamp = for_triggers(clean)
    reversed_on, stamped = set(to_reverse.pixels[:, 0, 0, 0].tolist()), set(to_stamp.pixels[:, 0, 0, 0].tolist())
    assert reversed_on | stamped == set(range(1, 3 + len(labels)))  # all but the image that was trained on
    assert not reversed_on & stamped
    assert {1, 2} <= reversed_on
    for label, count in enumerate(counts):
        assert abs(int((to_stamp.labels == label).sum()) - count / 2) <= 0.5


def test_the_surrogate_asr_is_of_the_images_kept_for_it() -> None:
    # Of two images one is immune to the trigger. Triggers are stamped on the first, and reversed on the second.
    report = images([0, 0])
    given = inputs(report)
    _, to_stamp = for_triggers(given.clean)
    assert len(to_stamp) == 1
    for immune, expected in ((0, 0.0), (1, 1.0)):
        pixels = report.pixels.clone()
        pixels[immune, :, -2, -2] = 255
        model = Classifier(Immune(), [0.0] * 3, [1.0] * 3).eval()
        kept = assess(
            model,
            inputs(Images(pixels, report.labels)),
            [],
            seed=0,
            suspects_triggers=reversed_triggers(),
            suspects_flagged=[1],
        )
        assert kept.facts["surrogate_asr"] == expected


def test_neural_cleanse_leaves_its_triggers_and_hears_of_its_progress() -> None:
    given, heard = inputs(images([0, 1, 2])), list[float]()
    kept = assess(given.suspect, given, CLEANSE, seed=0, progress=heard.append)
    triggers = as_triggers(kept.tensors)
    assert triggers is not None
    assert triggers.masks.shape == (3, 1, 8, 8)
    found = NeuralCleanse.model_validate(kept.facts["neural_cleanse"])
    assert found.norms == triggers.norms.tolist()
    assert (found.statistic, found.p_value) == ("ratio", None)  # of three labels
    assert found.index == max(found.indices)
    assert (found.median, found.mad) != (None, None)
    assert (found.pixels, found.images, found.seeds, found.spread) == (64, 4, 1, [0.0] * 3)
    assert heard == [1.0]
    assert as_triggers({}) is None


def test_some_detectors_have_their_turn_after_purification_with_the_smallest_trigger() -> None:
    given, heard = inputs(images([0, 2, 1, 1])), list[float]()
    wanted = [MethodRequest(name="weight_path", options={"points": 2}), *CLEANSE]
    before = assess(given.suspect, given, wanted, seed=0)
    assert (before.facts["weight_path"], before.facts["missing"]) == (None, [])
    after = assess(
        copy.deepcopy(given.suspect),
        given,
        wanted,
        seed=0,
        suspects_triggers=reversed_triggers(),
        suspects_flagged=[1, 0],  # smallest norm first
        progress=heard.append,
    )
    found = Assessment.model_validate(after.facts)
    assert found.weight_path is not None
    assert (found.weight_path.label, found.weight_path.surrogate_asrs) == (1, [1.0, 1.0])
    assert found.weight_path.images == found.surrogate_asr_images
    assert found.neural_cleanse is not None
    assert sorted({*heard}) == heard[:3] == [0.5, 0.75, 1.0]  # Neural Cleanse first


def test_a_detector_that_cannot_run_is_missing() -> None:
    given = inputs(images([0, 1, 2]))
    found = assessed(given, [MethodRequest(name="strip")])
    assert found.strip is None
    assert [(missing.detector, missing.kind) for missing in found.missing] == [("strip", "not_run")]


def test_measuring_changes_nothing(suspect: nn.Module) -> None:
    model = copy.deepcopy(Classifier(suspect, lab.PREPROCESSING.mean, lab.PREPROCESSING.std)).train()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    given = inputs(images([0, 1, 2]))
    assess(model, given, CLEANSE, seed=0)
    assert model.training
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
