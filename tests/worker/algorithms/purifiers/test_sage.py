from __future__ import annotations

import itertools

import pytest
import torch
from torch.nn.functional import cross_entropy

from redeem.options import SAGE_PAPER, SageOptions
from tests.worker.algorithms.networks import noisy_stripes, same_state
from worker.algorithms.attacks.poisoned import Poisoned
from worker.algorithms.attention import attention_distance, find_taps, recording
from worker.algorithms.classifier import Classifier
from worker.algorithms.data import Images, as_float
from worker.algorithms.errors import Diverged
from worker.algorithms.metrics import attack_success, logits
from worker.algorithms.purifiers.sage import PAPER, divergence, sage

CLEAN, HELD_OUT = noisy_stripes(128, seed=31), noisy_stripes(40, seed=32)


def attention_gap(model: Classifier, images: Images) -> float:
    """The sum of the attention distances of adjacent taps: what SAGE is to bring down."""
    taps = find_taps(model, as_float(images.pixels[:1]))
    with recording(model, taps) as features, torch.no_grad():
        model(as_float(images.pixels))
    return sum(
        attention_distance(features[shallow], features[deep]).item() for shallow, deep in itertools.pairwise(taps)
    )


def test_it_aligns_attention_where_fine_tuning_does_not(suspect: Classifier) -> None:
    aligned = sage(suspect, CLEAN, HELD_OUT, choose="last", seed=0)
    control = sage(suspect, CLEAN, HELD_OUT, beta=0.0, choose="last", seed=0)
    before = attention_gap(suspect, HELD_OUT)
    assert attention_gap(aligned.model, HELD_OUT) < 0.6 * before
    assert attention_gap(control.model, HELD_OUT) > 0.8 * before


def test_the_same_run_without_the_attention_distances_leaves_the_backdoor(
    suspect: Classifier, poisoned: Poisoned
) -> None:
    clean, test = noisy_stripes(700, seed=21), noisy_stripes(400, seed=23)
    stamped = Images(poisoned.trigger.stamp(test.pixels), test.labels)
    control = sage(suspect, clean, HELD_OUT, beta=0.0, choose="last", seed=0).model
    success = attack_success(logits(control, stamped.pixels).argmax(1), stamped, torch.zeros(400, dtype=torch.int64))
    assert success is not None
    assert success.asr > 0.9


def test_the_loss_is_cross_entropy_and_beta_times_the_gap(suspect: Classifier) -> None:
    result = sage(suspect, CLEAN, HELD_OUT, beta=300.0, epochs=1, own_logits=0.0, seed=0)
    with torch.no_grad():
        classification = cross_entropy(result.model(as_float(HELD_OUT.pixels)), HELD_OUT.labels).item()
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
    once = sage(suspect, CLEAN, HELD_OUT, epochs=1, averaging=0.0, seed=0)
    slow = sage(suspect, CLEAN, HELD_OUT, epochs=1, averaging=0.999, seed=0)
    assert not same_state(once.model, slow.model)


def test_history_has_what_was_measured_each_epoch(suspect: Classifier) -> None:
    history = sage(suspect, CLEAN, HELD_OUT, epochs=3, seed=0).history
    assert [entry["epoch"] for entry in history] == [1, 2, 3]
    assert set(history[0]) == {"epoch", "lr", "training_loss", "held_out_loss", "held_out_accuracy"}


def test_an_endless_rate_is_called_diverged(suspect: Classifier) -> None:
    with pytest.raises(Diverged, match="not a finite number"):
        sage(suspect, CLEAN, HELD_OUT, epochs=3, lr=1e6, averaging=0.0, own_logits=0.0, seed=0)


def test_own_logits_hold_the_suspects_answers(suspect: Classifier) -> None:
    with torch.no_grad():
        own = suspect(as_float(HELD_OUT.pixels))
    gaps = []
    for weight in (0.0, 10.0):
        model = sage(suspect, CLEAN, HELD_OUT, epochs=4, own_logits=weight, choose="last", seed=0).model
        with torch.no_grad():
            gaps.append(divergence(model(as_float(HELD_OUT.pixels)), own).item())
    assert gaps[1] < gaps[0]


def test_divergence_is_that_of_the_formula() -> None:
    predicted, own = torch.randn(5, 4), torch.randn(5, 4)
    p, q = (own / 2).double().softmax(1), (predicted / 2).double().softmax(1)
    expected = 4 * (p * (p / q).log()).sum(1).mean()
    assert divergence(predicted, own).item() == pytest.approx(expected.item(), rel=1e-4)
    assert divergence(own, own).item() == pytest.approx(0, abs=1e-6)


def test_it_works_on_one_channel_and_on_odd_sizes() -> None:
    from worker.algorithms.architectures.small_resnet import resnet18

    model = Classifier(resnet18(4, 1, 8), (0.5,), (0.5,)).eval()
    stripes = noisy_stripes(24, size=18)
    digits = Images(stripes.pixels[:, :1].contiguous(), stripes.labels)
    assert sage(model, digits, digits, epochs=1, augmentation="crop").chosen_epoch == 1


def test_the_papers_preset_has_the_papers_constants() -> None:
    paper = SageOptions(preset="paper")
    assert (paper.beta, paper.epochs, paper.lr, paper.batch_size, paper.period) == (300.0, 100, 0.05, 64, 25)
    assert (paper.momentum, paper.weight_decay, paper.augmentation) == (0.9, 1e-4, "none")
    assert (paper.averaging, paper.own_logits, paper.choose) == (0.0, 0.0, "last")
    assert SAGE_PAPER == PAPER


def test_an_option_given_beside_the_preset_wins() -> None:
    assert SageOptions.model_validate({"preset": "paper", "epochs": 3}).epochs == 3
