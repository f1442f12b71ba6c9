from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from worker.algorithms import precision
from worker.algorithms.precision import GAIN, autocast, has_fast_bfloat16

torch.set_num_threads(1)

CPU = torch.device("cpu")
Taken = list[torch.dtype]


@pytest.fixture(autouse=True)
def no_verdict_of_before() -> Iterator[None]:
    precision._bfloat16_gain_on_cpu.cache_clear()
    yield
    precision._bfloat16_gain_on_cpu.cache_clear()


def a_cpu(monkeypatch: pytest.MonkeyPatch, *, gain: float, noise: float = 0.0) -> Taken:
    """A CPU that takes a second in float32 and 1 / `gain` in bfloat16, and `noise` more in all but every fifth try.
    Gives the list that the probe's tries are noted in."""
    tries: Taken = []

    def convolve(dtype: torch.dtype) -> float:
        tries.append(dtype)
        quiet = tries.count(dtype) % 5 == 0
        return (1 / gain if dtype == torch.bfloat16 else 1.0) + (0 if quiet else noise)

    monkeypatch.setattr(precision, "_convolve", convolve)
    return tries


@pytest.mark.parametrize(("gain", "fast"), [(0.55, False), (1.0, False), (GAIN - 0.01, False), (GAIN + 0.01, True)])
def test_a_cpu_gets_bfloat16_only_where_it_gains_clearly(
    monkeypatch: pytest.MonkeyPatch, gain: float, fast: bool
) -> None:
    a_cpu(monkeypatch, gain=gain)
    assert has_fast_bfloat16(CPU) is fast


@pytest.mark.parametrize(("gain", "fast"), [(0.6, False), (2.0, True)])
def test_what_else_the_machine_does_changes_nothing(monkeypatch: pytest.MonkeyPatch, gain: float, fast: bool) -> None:
    a_cpu(monkeypatch, gain=gain, noise=10.0)
    assert has_fast_bfloat16(CPU) is fast


def test_a_process_probes_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = a_cpu(monkeypatch, gain=2)
    has_fast_bfloat16(CPU)
    probed = len(tries)
    has_fast_bfloat16(CPU), autocast(CPU)
    assert len(tries) == probed > 0


@pytest.mark.parametrize(("capability", "fast"), [((7, 0), False), ((7, 5), False), ((8, 0), True), ((12, 0), True)])
def test_a_gpu_is_judged_by_its_generation_and_not_probed(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], fast: bool
) -> None:
    tries = a_cpu(monkeypatch, gain=0.5 if fast else 2.0)  # the CPU beside it says the opposite
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert has_fast_bfloat16(torch.device("cuda")) is fast
    assert tries == []


def test_other_devices_compute_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    a_cpu(monkeypatch, gain=2)
    assert not has_fast_bfloat16(torch.device("mps"))


@pytest.mark.parametrize(("gain", "dtype"), [(2.0, torch.bfloat16), (0.5, torch.float32)])
def test_matrix_products_run_in_the_format_and_weights_stay_float32(
    monkeypatch: pytest.MonkeyPatch, gain: float, dtype: torch.dtype
) -> None:
    a_cpu(monkeypatch, gain=gain)
    layer = torch.nn.Linear(4, 4)
    with autocast(CPU):
        output = layer(torch.ones(2, 4))
    output.float().sum().backward()
    assert output.dtype == dtype
    assert layer.weight.grad is not None
    assert layer.weight.dtype == layer.weight.grad.dtype == torch.float32


def test_the_real_probe_measures_and_leaves_torch_as_it_was() -> None:
    before = torch.get_num_threads(), torch.is_grad_enabled(), torch.random.get_rng_state()
    assert 0.02 < precision._bfloat16_gain_on_cpu() < 50
    after = torch.get_num_threads(), torch.is_grad_enabled(), torch.random.get_rng_state()
    assert before[:2] == after[:2]
    assert torch.equal(before[2], after[2])
