from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import measuring
from redeem.report import Environment
from worker.algorithms import precision

torch.set_num_threads(1)
CPU = torch.device("cpu")


def test_a_product_counts_a_multiplication_and_an_addition_for_every_term() -> None:
    one, other = torch.ones(3, 5), torch.ones(5, 7)
    assert measuring.counted_flops(lambda: one @ other) == 2 * 3 * 5 * 7


def test_the_backward_pass_is_counted() -> None:
    one, other = torch.ones(3, 5, requires_grad=True), torch.ones(5, 7, requires_grad=True)
    assert measuring.counted_flops(lambda: (one @ other).sum().backward()) == 3 * 2 * 3 * 5 * 7


def test_the_choice_of_a_number_format_is_no_part_of_the_work() -> None:
    precision._bfloat16_gain_on_cpu.cache_clear()
    one, other = torch.ones(3, 5), torch.ones(5, 7)

    def work() -> None:
        with precision.autocast(CPU):
            one @ other

    assert measuring.counted_flops(work) == 2 * 3 * 5 * 7


def test_the_matrix_rate_is_of_the_best_product(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = iter([2.0, 0.5, 4.0] * 10)
    monkeypatch.setattr(measuring, "seconds", lambda device, work: next(taken))
    assert measuring.matrix_rate(CPU, size=10) == 2 * 10**3 / 0.5


def test_spread_is_median_and_both_ends() -> None:
    assert measuring.spread([4, 1, 2.345]) == {"median": 2.35, "least": 1, "greatest": 4}


def test_a_record_says_how_it_was_made_and_on_what(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "some.py"
    monkeypatch.setattr("sys.argv", [str(script), "--seed", "3"])
    arguments = measuring.parser("", str(script)).parse_args(["--seed", "3"])
    measuring.write_record(arguments, str(script), rows=[1, 2])
    record = json.loads((tmp_path / "some.json").read_text())
    assert (record["command"], record["seed"], record["rows"]) == ("python benchmarks/some.py --seed 3", 3, [1, 2])
    assert record["environment"]["torch"] == torch.__version__
    assert record["machine"] == measuring.machine(CPU)


def test_a_record_of_a_gpu_lies_beside_that_of_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "machine", lambda device: "a GPU")
    environment = Environment(redeem="", torch="2", device="a GPU", threads=1, number_format="bfloat16")
    monkeypatch.setattr(measuring, "environment", lambda device, version: environment)
    arguments = measuring.parser("", "some.py").parse_args(["--device", "cuda"])
    measuring.write_record(arguments, str(tmp_path / "some.py"))
    assert [path.name for path in tmp_path.iterdir()] == ["some-cuda.json"]


def test_tables_are_markdown(capsys: pytest.CaptureFixture[str]) -> None:
    measuring.print_table(("way", "s"), ("ours", 1.5))
    assert capsys.readouterr().out == "| way | s |\n| --- | --- |\n| ours | 1.5 |\n"


def test_a_record_tells_no_address_and_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    typed = ["some.py", "--postgres", "postgresql+psycopg://user:secret@db/redeem", "--train", "/home/me/train.npz"]
    monkeypatch.setattr(sys, "argv", typed)
    assert measuring.command("some.py") == "python benchmarks/some.py --postgres URL --train train.npz"
