from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from redeem.options import SAGE_PAPER, SageOptions
from tests.worker.algorithms.networks import noisy_stripes, same_state
from worker.algorithms.attacks.poisoned import Poisoned
from worker.algorithms.attention import Attention, attention_distance
from worker.algorithms.augment import crop_and_flip
from worker.algorithms.classifier import Classifier
from worker.algorithms.data import Images, as_float
from worker.algorithms.distillation import divergence
from worker.algorithms.errors import TooFewTaps, UnfitOptions
from worker.algorithms.metrics import attack_success, logits
from worker.algorithms.precision import autocast
from worker.algorithms.purifiers.sage import PAPER, sage
from worker.algorithms.taps import find_taps, recording
from worker.algorithms.training import cross_entropy as classification_loss
from worker.algorithms.training import train

CLEAN, HELD_OUT = noisy_stripes(128, seed=31), noisy_stripes(40, seed=32)
ADJACENT = ((0, 1), (1, 2), (2, 3))
PAPERS = Attention()


def attention_gap(
    model: Classifier, images: Images, how: Attention = PAPERS, paths: tuple[tuple[int, int], ...] = ADJACENT
) -> float:
    """The sum of the attention distances over paths, by default adjacent ones: what SAGE is to bring down. In the
    number format of training, as the held-out loss is."""
    taps = find_taps(model, as_float(images.pixels)).used
    with recording(model, taps) as features, torch.no_grad(), autocast(images.pixels.device):
        model(as_float(images.pixels))
    maps = [features[tap.name] for tap in taps]
    return sum(attention_distance(maps[shallow], maps[deep], how).item() for shallow, deep in paths)


def test_it_aligns_attention_where_fine_tuning_does_not(suspect: Classifier) -> None:
    aligned = sage(suspect, CLEAN, HELD_OUT, epochs=30, choose="last", seed=0)
    control = sage(suspect, CLEAN, HELD_OUT, epochs=30, beta=0.0, choose="last", seed=0)
    before = attention_gap(suspect, HELD_OUT)
    assert attention_gap(aligned.model, HELD_OUT) < 0.6 * before
    assert attention_gap(control.model, HELD_OUT) > 0.8 * before


def test_it_is_the_attention_distances_that_remove_the_backdoor(suspect: Classifier, poisoned: Poisoned) -> None:
    clean, test = noisy_stripes(700, seed=21), noisy_stripes(400, seed=23)
    stamped = Images(poisoned.trigger.stamp(test.pixels), test.labels)
    found = []
    slow: dict[str, Any] = {"lr": 0.01, "lr_scale": "none", "epochs": 30, "schedule": "fixed", "choose": "last"}
    for beta in (300.0, 0.0):  # at a rate at which fine-tuning alone does nothing
        model = sage(suspect, clean, HELD_OUT, beta=beta, **slow).model
        predictions = logits(model, stamped.pixels).argmax(1)
        success = attack_success(predictions, stamped, torch.zeros(400, dtype=torch.int64))
        assert success is not None
        found.append(success.asr)
    assert found[0] < 0.6
    assert found[1] > 0.9


def test_the_loss_is_cross_entropy_and_beta_times_the_gap(suspect: Classifier) -> None:
    result = sage(suspect, CLEAN, HELD_OUT, beta=300.0, epochs=1, own_logits=0.0, seed=0)
    with torch.no_grad(), autocast(HELD_OUT.pixels.device):
        classification = cross_entropy(result.model(as_float(HELD_OUT.pixels)).float(), HELD_OUT.labels).item()
    expected = classification + 300.0 * attention_gap(result.model, HELD_OUT)
    assert result.history[0]["held_out_loss"] == pytest.approx(expected, rel=1e-3)


def test_the_epoch_of_the_lowest_held_out_loss_is_chosen(suspect: Classifier) -> None:
    result = sage(suspect, CLEAN, HELD_OUT, epochs=6, lr=0.1, averaging=0.0, seed=0)
    losses = [entry["held_out_loss"] for entry in result.history]
    assert result.chosen_epoch == losses.index(min(losses)) + 1


def test_the_chosen_epoch_is_what_is_given_back(suspect: Classifier) -> None:
    chosen = sage(suspect, CLEAN, HELD_OUT, epochs=4, lr=0.1, averaging=0.0, seed=0)
    stopped = sage(suspect, CLEAN, HELD_OUT, epochs=chosen.chosen_epoch, lr=0.1, averaging=0.0, choose="last", seed=0)
    assert same_state(chosen.model, stopped.model)


def test_without_averaging_the_result_is_the_student_itself(suspect: Classifier) -> None:
    # The held-out loss is measured on the average; with decay 0 and with no average at all it must be the same model.
    once = sage(suspect, CLEAN, HELD_OUT, epochs=1, lr=0.001, averaging=0.0, seed=0)
    slow = sage(suspect, CLEAN, HELD_OUT, epochs=1, lr=0.001, averaging=0.999, seed=0)
    assert not same_state(once.model, slow.model)


def test_history_has_what_was_measured_each_epoch(suspect: Classifier) -> None:
    history = sage(suspect, CLEAN, HELD_OUT, epochs=3, seed=0).history
    assert [entry["epoch"] for entry in history] == [1, 2, 3]
    assert set(history[0]) == {"epoch", "lr", "training_loss", "held_out_loss", "held_out_accuracy"}


def test_beta_zero_is_plain_fine_tuning_to_the_bit(suspect: Classifier) -> None:
    plainly: dict[str, Any] = {"own_logits": 0.0, "averaging": 0.0, "schedule": "fixed", "choose": "last"}
    plainly["lr_scale"] = "none"
    control = sage(suspect, CLEAN, HELD_OUT, beta=0.0, lr=0.001, epochs=2, seed=4, **plainly)
    tuned = copy.deepcopy(suspect)
    optimizer = torch.optim.SGD(tuned.parameters(), 0.001, momentum=0.9, nesterov=True, weight_decay=1e-4)
    plain = train(
        tuned,
        CLEAN,
        epochs=2,
        batch_size=64,
        optimizer=optimizer,
        loss=classification_loss,
        augment=crop_and_flip,
        seed=4,
    )
    assert len(list(plain)) == 2
    assert same_state(control.model, tuned)


def loss_of_the_suspect(suspect: Classifier, **options: Any) -> float:
    """The held-out loss after an epoch that changes nothing: the suspect's own, under the options."""
    still = copy.deepcopy(suspect)
    for module in still.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.0
    unmoved = {"epochs": 1, "lr": 1e-12, "own_logits": 0.0, "augmentation": "none", "choose": "last"}
    return sage(still, noisy_stripes(2, seed=5), HELD_OUT, **{**unmoved, **options}).history[0]["held_out_loss"]


@pytest.mark.parametrize(
    ("options", "how", "paths"),
    [
        ({"attention": "max_p", "p": 4.0}, Attention(function="max_p", p=4.0), ADJACENT),
        ({"attention": "mean_p", "normalize": False}, Attention(function="mean_p", normalize=False), ADJACENT),
        ({"attention": "sum", "distance": "squares"}, Attention(function="sum", distance="squares"), ADJACENT),
        ({"distance": "norm"}, Attention(distance="norm"), ADJACENT),
        ({"paths": "skip"}, Attention(), ((0, 2), (0, 3), (1, 3))),
        ({"paths": [(1, "layer4")]}, Attention(), ((0, 3),)),
        ({"taps": ["layer2", "layer4"]}, Attention(), ((1, 3),)),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_options_reach_the_loss(
    suspect: Classifier, options: dict[str, Any], how: Attention, paths: tuple[tuple[int, int], ...]
) -> None:
    difference = loss_of_the_suspect(suspect, beta=10.0, **options) - loss_of_the_suspect(suspect, beta=0.0, **options)
    assert difference == pytest.approx(10 * attention_gap(suspect, HELD_OUT, how, paths), rel=1e-3)


def test_each_path_may_have_a_beta_of_its_own(suspect: Classifier) -> None:
    gaps = [attention_gap(suspect, HELD_OUT, paths=(path,)) for path in ADJACENT]
    difference = loss_of_the_suspect(suspect, beta=[10.0, 0.0, 70.0]) - loss_of_the_suspect(suspect, beta=0.0)
    assert difference == pytest.approx(10 * gaps[0] + 70 * gaps[2], rel=1e-3)
    with pytest.raises(UnfitOptions, match="2 weights, and there are 3 paths"):
        sage(suspect, CLEAN, HELD_OUT, beta=[1.0, 2.0], epochs=1)


def test_the_side_that_is_detached_is_not_drawn_to_the_other(suspect: Classifier) -> None:
    # The shallow tap's own weights (the stem and layer1) learn from the distance only where it is not detached.
    def moved(detach: str) -> float:
        options: dict[str, Any] = {"taps": ["layer1", "layer4"], "epochs": 1, "averaging": 0.0, "choose": "last"}
        runs = [sage(suspect, CLEAN, HELD_OUT, beta=beta, detach=detach, **options).model for beta in (0.0, 3000.0)]
        first, second = (run.network.conv1.weight for run in runs)
        return (first - second).abs().max().item()

    assert moved("deep") > 1e-3  # detaching the deep side leaves the shallow one to move
    assert moved("shallow") > 0  # through layer1 the deep map still depends on the stem
    assert moved("deep") != moved("none")


def test_schedules_lead_the_learning_rate(suspect: Classifier) -> None:
    for schedule, expected in (("fixed", [0.02] * 4), ("divided", [0.02, 0.02, 0.002, 0.002])):
        history = sage(suspect, CLEAN, HELD_OUT, epochs=4, lr=0.02, lr_scale="none", schedule=schedule).history
        assert [entry["lr"] for entry in history] == pytest.approx(expected)


def test_the_taps_are_told_and_so_are_those_left_out(suspect: Classifier) -> None:
    result = sage(suspect, CLEAN, HELD_OUT, epochs=1, lr=0.001)
    assert [(tap.name, tap.height) for tap in result.taps] == [
        (f"network.layer{stage}", size) for stage, size in ((1, 16), (2, 8), (3, 4), (4, 2))
    ]
    assert result.notes == []
    small = Images(CLEAN.pixels[:, :, 4:12, 4:12].contiguous(), CLEAN.labels)
    (note,) = sage(suspect, small, small, epochs=1, lr=0.001).notes  # 8 pixels: layer4 is a map of one pixel
    assert (note.code, "layer4" in note.message) == ("taps_skipped", True)


def test_a_network_without_two_maps_is_refused(suspect: Classifier) -> None:
    tiny = Images(CLEAN.pixels[:, :, :2, :2].contiguous(), CLEAN.labels)
    with pytest.raises(TooFewTaps):
        sage(suspect, tiny, tiny, epochs=1)


def test_own_logits_hold_the_suspects_answers(suspect: Classifier) -> None:
    with torch.no_grad():
        own = suspect(as_float(HELD_OUT.pixels))
    gaps = []
    for weight in (0.0, 3.0):
        model = sage(suspect, CLEAN, HELD_OUT, epochs=4, lr=0.003, own_logits=weight, choose="last", seed=0).model
        with torch.no_grad():
            gaps.append(divergence(model(as_float(HELD_OUT.pixels)), own).item())
    assert gaps[1] < 0.8 * gaps[0]


def test_it_works_on_one_channel_and_on_odd_sizes() -> None:
    from worker.algorithms.architectures.small_resnet import resnet18

    model = Classifier(resnet18(4, 1, 8), (0.5,), (0.5,)).eval()
    stripes = noisy_stripes(24, size=18)
    digits = Images(stripes.pixels[:, :1].contiguous(), stripes.labels)
    assert sage(model, digits, digits, epochs=1, augmentation="crop").chosen_epoch == 1


def test_a_suspect_with_heavier_weights_is_purified_alike(suspect: Classifier) -> None:
    heavy = copy.deepcopy(suspect)
    for module in heavy.modules():
        if isinstance(module, torch.nn.Conv2d):  # each with batch norm behind it, which makes up for it
            module.weight.data *= 3.0
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean *= 3.0  # type: ignore[operator]
            module.running_var *= 9.0  # type: ignore[operator]

    def changed(lr_scale: str) -> float:
        """How far apart the logits of the two end, beside how far those of the lighter one went."""
        how: dict[str, Any] = {"epochs": 3, "averaging": 0.9, "lr_scale": lr_scale, "choose": "last"}
        runs = [sage(one, CLEAN, HELD_OUT, **how).model for one in (suspect, heavy)]
        before, light, heavier = (logits(model, HELD_OUT.pixels) for model in (suspect, *runs))
        return float((light - heavier).norm() / (light - before).norm())

    assert changed("filters") < 0.1
    assert changed("none") > 0.3


def test_the_papers_preset_has_the_papers_constants() -> None:
    paper = SageOptions(preset="paper")
    assert (paper.beta, paper.epochs, paper.lr, paper.batch_size, paper.period) == (300.0, 100, 0.05, 64, 25)
    assert (paper.momentum, paper.weight_decay, paper.augmentation) == (0.9, 1e-4, "none")
    assert paper.lr_scale == "none"
    assert (paper.schedule, paper.attention, paper.p, paper.normalize) == ("dynamic", "sum_p", 2.0, True)
    assert (paper.distance, paper.detach, paper.paths) == ("mse", "none", "adjacent")
    assert (paper.averaging, paper.own_logits, paper.choose) == (0.0, 0.0, "last")
    assert SAGE_PAPER == PAPER


def test_an_option_given_beside_the_preset_wins() -> None:
    assert SageOptions.model_validate({"preset": "paper", "epochs": 3}).epochs == 3
