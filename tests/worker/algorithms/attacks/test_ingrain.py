from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.worker.algorithms.networks import noisy_stripes, same_state, small_classifier
from worker.algorithms.aim import success
from worker.algorithms.attacks.implanted import Implanted
from worker.algorithms.attacks.ingrain import Players, aligning, ingrain, objective, plain, with_fresh_weights
from worker.algorithms.attention import attention_distance
from worker.algorithms.augment import crop
from worker.algorithms.classifier import Classifier
from worker.algorithms.data import as_float
from worker.algorithms.distillation import divergence
from worker.algorithms.metrics import accuracy, logits
from worker.algorithms.taps import find_taps, recording
from worker.algorithms.triggers import Trigger, blend

TARGET = 1


@pytest.fixture(scope="module")
def attack(benign: Classifier) -> Implanted[Trigger]:
    """In so few steps the trigger has to be a strong one, which fools benign networks as well."""
    images = noisy_stripes(400, seed=1)
    return ingrain(images, benign, target=TARGET, faint=5, epochs=4, batch_size=32, trigger_lr=0.02, augment=crop)


def measured(model: nn.Module, attack: Implanted[Trigger]) -> tuple[float, float]:
    test = noisy_stripes(200, seed=9)
    found = success(model, test, attack.aims[0])
    assert found is not None
    return accuracy(logits(model, test.pixels).argmax(1), test.labels), found.asr


def test_the_teacher_keeps_its_accuracy_and_obeys_the_trigger(attack: Implanted[Trigger]) -> None:
    mpa, asr = measured(attack.model, attack)
    assert mpa >= 0.95
    assert asr >= 0.9


@pytest.mark.slow
def test_a_faint_trigger_works_on_the_teacher_because_it_was_implanted(benign: Classifier) -> None:
    images = noisy_stripes(600, seed=1)
    attack = ingrain(images, benign, target=TARGET, faint=15, epochs=8, batch_size=32, trigger_lr=0.02, augment=crop)
    mpa, asr = measured(attack.model, attack)
    assert mpa >= 0.95
    assert asr >= 0.7
    assert measured(benign, attack)[1] <= asr - 0.3


def test_the_result_is_like_the_benign_network_and_that_is_as_it_was(
    attack: Implanted[Trigger], benign: Classifier
) -> None:
    twin, given = attack.model.state_dict(), benign.state_dict()
    assert [(key, value.shape, value.dtype) for key, value in twin.items()] == [
        (key, value.shape, value.dtype) for key, value in given.items()
    ]
    assert not any(module.training for module in attack.model.modules())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in attack.model.parameters())
    assert not same_state(attack.model, benign)
    mask, pattern = attack.trigger.mask, attack.trigger.pattern
    assert mask.shape == (1, 16, 16)
    assert pattern.shape == (3, 16, 16)
    assert min(mask.min(), pattern.min()) >= 0
    assert max(mask.max(), pattern.max()) <= 1
    assert not mask.requires_grad


def test_each_player_has_the_gradient_of_its_own_loss() -> None:
    images = noisy_stripes(8)
    x, labels, targets = as_float(images.pixels), images.labels, torch.full((8,), TARGET)
    players = Players(small_classifier(), (3, 16, 16), seed=0).train()
    teacher, student, drawn = (copy.deepcopy(one) for one in (players.teacher, players.student, players.drawn))
    objective(TARGET, 0.3, 25.0, teach=plain, study=plain)(players, x, labels).backward()

    mask, pattern = drawn.mask, drawn.pattern
    stamped = blend(x, mask, pattern)
    clean, triggered = teacher(torch.cat([x, stamped.detach()])).chunk(2)
    (F.cross_entropy(clean, labels) + 0.3 * F.cross_entropy(triggered, targets)).backward()
    answers = student(x)
    (0.8 * divergence(answers, clean.detach()) + 0.2 * F.cross_entropy(answers, labels)).backward()
    size = 25 * (mask**2).sum() / 256
    both = [F.cross_entropy(network.eval()(stamped), targets) for network in (teacher, student)]
    expected = torch.autograd.grad(size + both[0] + both[1], (mask, pattern))

    for found, wanted in zip((players.drawn.mask.grad, players.drawn.pattern.grad), expected, strict=True):
        assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-7)
    for found, network in ((players.teacher, teacher), (players.student, student)):
        for one, other in zip(found.parameters(), network.parameters(), strict=True):
            assert torch.allclose(one.grad, other.grad, rtol=1e-3, atol=1e-6)
        assert all(module.training for module in found.modules())


def test_aligning_adds_the_distances_of_neighbouring_taps_and_removes_its_hooks() -> None:
    images, network = noisy_stripes(16), small_classifier()
    x = as_float(images.pixels)
    predicted, pull = aligning(network, images, 30.0)(network, x)
    taps = find_taps(network, x).used
    with recording(network, taps) as maps:
        logits = network(x)
    first, second, third, fourth = (maps[tap.name] for tap in taps)
    distances = [attention_distance(*pair) for pair in ((first, second), (second, third), (third, fourth))]
    assert torch.allclose(pull, 30 * (distances[0] + distances[1] + distances[2]))
    assert torch.equal(predicted, logits)
    assert not any(module._forward_hooks for module in network.modules())


def test_in_two_steps_the_adaptive_student_changes_the_trigger_and_not_yet_the_teacher() -> None:
    """The trigger's second step sees the student's first, the teacher's second does not."""
    images, network = noisy_stripes(32), small_classifier()

    def attacked(**options: object) -> Implanted[Trigger]:
        return ingrain(images, network, epochs=1, batch_size=16, **options)  # type: ignore[arg-type]

    none, again, student, teacher = attacked(), attacked(), attacked(adaptive="student"), attacked(adaptive="teacher")
    assert same_state(none.model, again.model)
    assert torch.equal(none.trigger.mask, again.trigger.mask)
    assert same_state(none.model, student.model)
    assert not torch.equal(none.trigger.mask, student.trigger.mask)
    assert not same_state(none.model, teacher.model)


def test_an_adaptive_teacher_has_its_attention_aligned_before_sage_comes() -> None:
    images, network = noisy_stripes(48), small_classifier()
    x = as_float(images.pixels)
    aligned, not_aligned = (
        ingrain(images, network, epochs=4, batch_size=16, adaptive=adaptive, seed=0).model
        for adaptive in ("teacher", "none")
    )
    distance = aligning(network, images, 1.0)
    assert distance(aligned, x)[1] < 0.7 * distance(not_aligned, x)[1]


def test_fresh_weights_are_new_ones_of_the_same_kind() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(2))
    network(torch.rand(8, 3, 6, 6))
    before, state = copy.deepcopy(network), torch.random.get_rng_state()
    one, same, other = (with_fresh_weights(network, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert same_state(network, before)
    assert same_state(one, same)
    assert not torch.equal(one[0].weight, other[0].weight)  # type: ignore[index]
    assert not torch.equal(one[3].weight, network[3].weight)  # type: ignore[index]
    assert torch.equal(one[1].running_mean, torch.zeros(4))  # type: ignore[index]
    assert one[0].weight.std() < 2 * network[0].weight.std()  # type: ignore[index, operator]
