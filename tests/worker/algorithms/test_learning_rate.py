from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from torch import nn

from worker.algorithms.learning_rate import DividingRule, HalvingRule, Schedule, parameter_groups, rule


def rates(losses: list[float], **rule: float) -> list[float]:
    halving = HalvingRule(lr=1.0, **rule)  # type: ignore[arg-type]
    return [halving.after_epoch(loss) for loss in losses]


def falling(count: int, start: float = 10.0) -> list[float]:
    return [start - 0.01 * step for step in range(count)]


def rising_after(falls: int, total: int, start: float) -> list[float]:
    """`falls` epochs of a falling loss, then epochs that go up, `total` in all."""
    fallen = [start - 0.01 * (step + 1) for step in range(falls)]
    return fallen + [fallen[-1] + 0.01 * (step + 1) for step in range(total - falls)]


def test_a_loss_that_always_falls_keeps_the_rate() -> None:
    assert set(rates(falling(100))) == {1.0}


def test_eighteen_falls_of_twenty_five_halve_it() -> None:
    # 18 < 0.75 · 25 = 18.75: condition C1
    assert rates(rising_after(18, 25, start=10.0))[-1] == 0.5


def test_nineteen_falls_with_a_new_lowest_loss_keep_it() -> None:
    assert rates(rising_after(19, 25, start=10.0))[-1] == 1.0


def test_nineteen_falls_without_a_new_lowest_loss_halve_it() -> None:
    # The second interval falls 19 times, from a height that it never makes up for: condition C2.
    first, second = falling(25, start=1.0), rising_after(20, 25, start=9.0)
    assert rates(first + second)[24] == 1.0
    assert rates(first + second)[49] == 0.5


def test_after_a_halving_a_stall_is_forgiven_once() -> None:
    halved, stalled = rising_after(10, 25, start=1.0), rising_after(20, 25, start=9.0)
    after = rates(halved + stalled + stalled)
    assert (after[24], after[49], after[74]) == (0.5, 0.5, 0.25)


def test_the_rate_changes_only_at_the_end_of_an_interval() -> None:
    after = rates([1.0 + step for step in range(8)], period=4)
    assert after == [1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5, 0.25]


def test_falls_are_counted_anew_in_each_interval() -> None:
    # Four falls, then none: an unforgotten count would be 4 of 4 · 0.75 again.
    after = rates([4.0, 3.0, 2.0, 1.0, 2.0, 3.0, 4.0, 5.0], period=4)
    assert (after[3], after[7]) == (1.0, 0.5)


def test_a_fixed_rate_stays_whatever_the_loss_does() -> None:
    fixed = rule("fixed", 0.01, epochs=3, period=1)
    assert {fixed.after_epoch(loss) for loss in (1.0, 5.0, 9.0)} == {0.01}


def test_a_divided_rate_falls_to_a_tenth_every_two_epochs() -> None:
    divided = DividingRule(1.0)
    assert [divided.after_epoch(0.0) for _ in range(5)] == pytest.approx([1.0, 0.1, 0.1, 0.01, 0.01])


def test_a_cosine_falls_to_half_in_the_middle_and_to_zero_in_the_end() -> None:
    cosine = rule("cosine", 0.04, epochs=4, period=1)
    expected = [0.02 * (1 + math.sqrt(0.5)), 0.02, 0.02 * (1 - math.sqrt(0.5)), 0.0]
    assert cosine.lr == 0.04
    assert [cosine.after_epoch(9.0) for _ in range(4)] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("schedule", ["cosine", "dynamic", "fixed", "divided"])
def test_a_rule_made_of_the_fields_of_another_goes_on_as_it_would(schedule: Schedule) -> None:
    losses = [4.0, 3.0, 5.0, 2.0, 6.0, 7.0, 1.0, 8.0, 9.0, 9.5]
    whole, first = (rule(schedule, 1.0, epochs=10, period=3) for _ in range(2))
    expected = [whole.after_epoch(loss) for loss in losses]
    got = [first.after_epoch(loss) for loss in losses[:4]]
    second = type(first)(**dataclasses.asdict(first))  # type: ignore[call-overload]
    assert got + [second.after_epoch(loss) for loss in losses[4:]] == expected


def test_a_convolution_has_the_mean_square_of_its_filters_norms_and_all_else_one() -> None:
    network = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Conv2d(5, 5, 1), nn.Flatten(), nn.Linear(5, 2))
    parameters = list(network.parameters())
    first, second, others = parameter_groups(parameters, "filters")
    for group, weight in ((first, network[0].weight), (second, network[2].weight)):
        assert group["params"] == [weight]
        values = weight.detach().numpy().reshape(len(weight), -1)
        assert group["scale"] == pytest.approx(np.mean(np.linalg.norm(values, axis=1) ** 2))
    assert others["scale"] == 1.0
    assert {id(one) for group in (first, second, others) for one in group["params"]} == {id(one) for one in parameters}
    assert len(others["params"]) == len(parameters) - 2


def test_without_scale_there_is_one_group() -> None:
    (group,) = parameter_groups(list(nn.Conv2d(3, 2, 3).parameters()), "none")
    assert (len(group["params"]), group["scale"]) == (2, 1.0)


def test_filters_alone_make_no_empty_group() -> None:
    assert len(parameter_groups(list(nn.Conv2d(3, 2, 3, bias=False).parameters()), "filters")) == 1
