from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from benchmarks.lab import __main__ as lab
from benchmarks.lab.cells import Cell, bundle
from benchmarks.lab.claims import claim
from benchmarks.lab.datasets import Dataset
from benchmarks.lab.grids import GRIDS
from benchmarks.lab.profiles import PROFILES
from benchmarks.lab.suspects import Recipe, parts
from tests.benchmarks.lab.conftest import TINY
from worker.algorithms.attacks import ATTACKS
from worker.algorithms.purifiers import PURIFIERS

SAGE = Cell(Recipe("badnets", 0, TINY), "sage", 500)


def words(cache: Path, records: Path, *more: str) -> list[str]:
    chosen = ["--attacks", "badnets", "--purifiers", "sage", "fine_tuning", "--clean", "500", "--seeds", "0"]
    return ["--profile", "tiny", "--data", ".", "--cache", str(cache), "--records", str(records), *chosen, *more]


@pytest.mark.usefixtures("tiny_lab")
def test_a_grid_leaves_a_record_a_cell_and_goes_on_where_it_was(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lab.main(["run", *words(cache, tmp_path)])
    files = sorted(tmp_path.rglob("*.json"))
    assert len(files) == 3  # SAGE, its control and fine-tuning
    first = json.loads(files[0].read_text())
    files[0].unlink()
    before = {file: file.stat().st_mtime_ns for file in files[1:]}
    lab.main(["run", *words(cache, tmp_path, "--processes", "2")])
    assert [json.loads(files[0].read_text())[name] for name in ("mpa", "asr")] == [first["mpa"], first["asr"]]
    assert "2 of 3 cells have their record" in capsys.readouterr().out
    assert {file: file.stat().st_mtime_ns for file in files[1:]} == before
    lab.main(["table", *words(cache, tmp_path)])
    head, *_, sage, control, fine_tuning = capsys.readouterr().out.splitlines()
    assert head == "|  | badnets, 500 |"
    assert sage.startswith("| sage | ")
    assert control.startswith("| sage (beta 0.0) | ")
    assert fine_tuning.startswith("| fine_tuning | ")
    record = json.loads((tmp_path / f"{SAGE.name}.json").read_text())
    assert record["mpa_drop"] == pytest.approx(record["suspect"]["mpa"] - record["mpa"], abs=2e-4)
    assert 0 <= record["asr"][0] <= 1


@pytest.mark.usefixtures("tiny_lab")
def test_a_cell_comes_back_from_json() -> None:
    cell = Cell(Recipe("robnet", 3, TINY, options={"triggers": 3}), "nad", 250, 2, {"beta": 10.0}, seen=True)
    assert Cell.of_json(json.loads(json.dumps(cell.as_json()))) == cell
    assert cell.name != SAGE.name


def test_a_changed_default_is_another_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    def other(model: object, clean: object, held_out: object, *, beta: float = 300.0, seed: int = 0) -> None: ...

    monkeypatch.setitem(PURIFIERS, "sage", other)
    before, explicit = SAGE.name, dataclasses.replace(SAGE, options={"beta": 300.0}).name
    monkeypatch.setitem(other.__kwdefaults__, "beta", 100.0)  # type: ignore[arg-type]
    assert before == explicit == dataclasses.replace(SAGE, options={"beta": 300.0}).name
    assert before != SAGE.name


def test_more_images_are_no_more_steps_where_the_profile_says_so() -> None:
    limited = dataclasses.replace(TINY, steps_of=500, purifiers={})
    few, many = (Cell(Recipe("badnets", 0, limited), "mcr", clean).purifier_options for clean in (500, 2500))
    assert few == {}
    assert many == {"end_epochs": 10, "epochs": 20}  # a fifth
    assert Cell(Recipe("badnets", 0, TINY), "mcr", 2500).purifier_options == {}
    assert Cell(Recipe("badnets", 0, limited), "sage", 2500).purifier_options == {}  # which counts steps itself


def test_clean_images_are_reserved_ones_or_seen_ones(tiny_lab: Dataset) -> None:
    trained, reserved = ({pixels.numpy().tobytes() for pixels in part.pixels} for part in parts(tiny_lab, TINY))
    drawn = {pixels.numpy().tobytes() for pixels in bundle(SAGE, tiny_lab).pixels}
    assert drawn <= reserved
    seen = {pixels.numpy().tobytes() for pixels in bundle(Cell(SAGE.recipe, "sage", 500, seen=True), tiny_lab).pixels}
    assert seen <= trained


@pytest.mark.parametrize("grid", GRIDS)
def test_grids_name_what_there_is_and_every_cell_once(grid: str) -> None:
    cells = GRIDS[grid](PROFILES["cpu"])
    assert {cell.recipe.attack for cell in cells} <= {"none", *ATTACKS}
    assert {cell.purifier for cell in cells} <= PURIFIERS.keys()
    assert len({cell.name for cell in cells}) == len(cells)


def test_the_main_grid_tries_every_purifier() -> None:
    assert {cell.purifier for cell in GRIDS["main"](PROFILES["cpu"])} == PURIFIERS.keys()


def test_the_papers_claims_are_of_one_per_cent_of_cifar10() -> None:
    assert claim("cifar10", "robnet", "sage", 500, 50_000) == {"asr_before": 98.85, "asr": 10.83}
    assert claim("cifar10", "robnet", "anp", 500, 50_000) == {"asr_before": 98.85, "best_baseline_asr": 74.47}
    assert claim("cifar10", "robnet", "sage", 2500, 50_000) is None
    assert claim("mnist", "robnet", "sage", 600, 60_000) is None
