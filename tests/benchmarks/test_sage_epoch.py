from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import sage_epoch

torch.set_num_threads(1)
TINY = ["--images", "32", "--width", "4", "--rounds", "1"]


def test_both_ways_train_alike_and_the_record_adds_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sage_epoch, "in_a_process", lambda arguments, side: {"ours": "300", "plain": "200"}[side])
    record_at = tmp_path / "record.json"
    assert sage_epoch.main([*TINY, "--record", str(record_at)]) == 0
    record = json.loads(record_at.read_text())
    ours, plain = record["rows"]
    assert (ours["way"], plain["way"], record["same_losses"]["agree"]) == ("ours", "plain", True)
    medians = [row["images_per_second"]["median"] for row in (ours, plain)]
    assert record["ratio"]["median"] == pytest.approx(medians[0] / medians[1], abs=0.01)  # of one round each
    at_the_rate = record["matrix_flops_per_second"] / record["flops_per_image"]
    assert ours["share_of_matrix_rate"] == pytest.approx(medians[0] / at_the_rate, abs=1e-3)
    assert (ours["peak_memory_bytes"], plain["peak_memory_bytes"], record["memory_ratio"]) == (300, 200, 1.5)


def test_peak_memory_is_of_a_process_of_its_own() -> None:
    here = torch.ones(2**27)  # half a gigabyte in this process is not that one's
    assert 2**20 < int(sage_epoch.in_a_process(sage_epoch.parse(TINY), "ours")) < here.nbytes


def test_peak_memory_is_what_the_epochs_take_and_nothing_before_them() -> None:
    arguments = sage_epoch.parse([*TINY, "--memory-of", "plain"])
    prepared = sage_epoch.prepared(arguments)
    before = torch.ones(2**27)  # half a gigabyte, and gone again
    most = before.nbytes
    del before
    assert sage_epoch.peak_memory(arguments, *prepared) < most / 2


def test_another_objective_on_one_side_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain_way = sage_epoch.plain_way
    monkeypatch.setattr(sage_epoch, "plain_way", lambda *of, **settings: plain_way(*of, **{**settings, "beta": 0.0}))
    monkeypatch.setattr(sage_epoch, "in_a_process", lambda arguments, side: "1")
    assert sage_epoch.main([*TINY, "--record", str(tmp_path / "record.json")]) == 1


def test_an_images_flops_are_those_of_the_formula() -> None:
    arguments = sage_epoch.parse(TINY)
    train, _, model = sage_epoch.prepared(arguments)
    width = 4
    shapes = [(3, width, 32, 3)] + [(width, width, 32, 3)] * 4
    for stage, size in ((2, 16), (4, 8), (8, 4)):
        wide, narrow = stage * width, stage * width // 2
        shapes += [(narrow, wide, size, 3)] + [(wide, wide, size, 3)] * 3 + [(narrow, wide, size, 1)]
    flops = [2 * inputs * outputs * size**2 * kernel**2 for inputs, outputs, size, kernel in shapes]
    forward = sum(flops) + 2 * 8 * width * 10
    # Twice forward, and backward for weights and inputs; nobody asks for the gradient of the image.
    assert sage_epoch.flops_of_an_image(arguments, train, model) == 4 * forward - flops[0]
