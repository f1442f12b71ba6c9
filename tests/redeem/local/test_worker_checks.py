from __future__ import annotations

from typing import Any

import pytest

from redeem.local.worker_checks import gpu_checks, sandbox_check, worker_checks

GPU = {"name": "NVIDIA H100", "free": 70 * 2**30, "total": 80 * 2**30, "fault": ""}


def found(*gpus: dict[str, Any]) -> dict[str, Any]:
    return {"torch": "2.13.0", "cuda": "13.0", "gpus": gpus}


def test_a_gpu_is_told_with_its_memory() -> None:
    first, second = gpu_checks(found(GPU, GPU | {"free": 2**30}), has_driver=True)
    assert (first.name, first.state) == ("gpu 0", "ok")
    assert first.detail == "NVIDIA H100, 70.0 of 80.0 GiB free; torch 2.13.0, CUDA 13.0"
    assert (second.state, "nvidia-smi" in second.mend) == ("note", True)


def test_a_gpu_that_does_not_compute_is_bad() -> None:
    (check,) = gpu_checks(found(GPU | {"fault": "CUDA error: no kernel image is available"}), has_driver=True)
    assert (check.state, "no kernel image" in check.detail) == ("bad", True)


def test_a_gpu_that_torch_does_not_see_is_another_matter_than_none() -> None:
    (blind,) = gpu_checks(found(), has_driver=True)
    (none,) = gpu_checks(found(), has_driver=False)
    assert ("driver" in blind.mend, "driver" in none.mend) == (True, False)


def test_walls_that_a_system_lacks_are_named() -> None:
    check = sandbox_check({"limits": "memory", "landlock": "", "seccomp": ""})
    assert (check.state, "no landlock and no seccomp" in check.detail) == ("note", True)


def test_a_worker_that_does_not_import_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("redeem.local.worker_checks.PROGRAM", "import worker.nothing")
    (check,) = worker_checks()
    assert (check.state, "No module named" in check.detail) == ("bad", True)
