from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks.lab import __main__ as lab
from benchmarks.lab.cells import Cell
from benchmarks.lab.grids import GRIDS
from benchmarks.lab.plots import pictures
from benchmarks.lab.profiles import PROFILES

Measured = tuple[float, list[float]]
"""MPA, and ASR of each trigger."""


def records(grid: str, measured: Callable[[Cell], Measured | None]) -> list[dict[str, Any]]:
    """As they come back from their files; of the cells that were `measured`."""
    made = []
    for cell in GRIDS[grid](PROFILES["cpu"]):
        if (one := measured(cell)) is not None:
            suspect = {"mpa": 0.9, "asr": [1.0] if one[1] else []}
            made.append({**cell.as_json(), "suspect": suspect, "mpa": one[0], "mpa_drop": 0.9 - one[0], "asr": one[1]})
    return json.loads(json.dumps(made))  # type: ignore[no-any-return]


def drawn(grid: str, made: Sequence[dict[str, Any]]) -> dict[str, ElementTree.Element]:
    return {name: ElementTree.fromstring(content) for name, _, content in pictures(grid, made)}  # noqa: S314  our own


def marks(picture: ElementTree.Element, series: str) -> list[tuple[float, float]]:
    """Where the marks of a series are in a picture, in its own units; its y goes downwards."""
    (group,) = [node for node in picture.iter() if node.get("id") == series]
    return [(float(node.get("x", "")), float(node.get("y", ""))) for node in group.iter() if node.tag.endswith("}use")]


def texts(picture: ElementTree.Element) -> list[str]:
    return ["".join(node.itertext()).strip() for node in picture.iter() if node.tag.endswith("}text")]


def one_attack(cell: Cell) -> bool:
    return cell.recipe.attack == "badnets"


def test_points_are_where_their_numbers_say() -> None:
    shares = {100: 0.0, 250: 0.25, 500: 0.5, 1000: 1.0, 2500: 0.1}

    def measured(cell: Cell) -> Measured | None:
        return (0.8, [shares[cell.clean], 0.0]) if one_attack(cell) else None

    picture = drawn("clean_sizes", records("clean_sizes", measured))["clean_sizes.svg"]
    x, y = zip(*marks(picture, "badnets-ASR-SAGE"), strict=True)
    zero, hundred = y[0], y[3]
    assert [(zero - one) / (zero - hundred) for one in y] == pytest.approx(list(shares.values()), abs=1e-4)
    tenfold = x[3] - x[0]
    assert (x[4] - x[1]) / tenfold == pytest.approx(1, abs=1e-4)  # 250 to 2,500 as far as 100 to 1,000: a log axis
    mpa = {one for _, one in marks(picture, "badnets-MPA-SAGE")}
    assert [(zero - one) / (zero - hundred) for one in mpa] == pytest.approx([0.8], abs=1e-4)
    assert len(marks(picture, "badnets-ASR-control-β-0")) == 5
    labels = {"clean images", "MPA and ASR, per cent", "badnets", "MPA, SAGE", "ASR, control (β = 0)"}
    assert labels <= set(texts(picture))


def test_what_was_not_run_or_refused_has_no_mark() -> None:
    def measured(cell: Cell) -> Measured | None:
        return (0.8, [0.3]) if one_attack(cell) and cell.clean != 250 else None

    made = records("clean_sizes", measured)
    refused = made[-1]  # the control with the most images
    assert (refused["clean"], refused["options"]) == (2500, {"beta": 0.0})
    del refused["mpa"], refused["mpa_drop"], refused["asr"]
    picture = drawn("clean_sizes", [*made[:-1], {**refused, "refused": "diverged"}])["clean_sizes.svg"]
    assert len(marks(picture, "badnets-ASR-SAGE")) == 4
    assert len(marks(picture, "badnets-ASR-control-β-0")) == 3
    assert len({y for _, y in marks(picture, "badnets-ASR-SAGE")}) == 1
    assert "250" not in texts(picture)
    assert "robnet" not in texts(picture)
    assert drawn("clean_sizes", []) == {}


def test_the_ablations_have_three_figures_and_each_record_one_place() -> None:
    def measured(cell: Cell) -> Measured:
        return 0.8, [cell.options.get("beta", 300.0) / 3000]

    figures = drawn("ablations", records("ablations", measured))
    assert list(figures) == ["ablations-beta.svg", "ablations-attention.svg", "ablations-paths.svg"]
    beta = marks(figures["ablations-beta.svg"], "robnet-ASR-SAGE")
    zero, most = beta[0][1], beta[-1][1]
    shares = [(zero - y) / (zero - most) for _, y in beta]
    assert shares == pytest.approx([0, 0.01, 1 / 30, 0.1, 1 / 3, 1], abs=1e-4)  # of β = 3000; 0 is the control
    attention = ["sum_p, p = 2", "sum", "max_p, p = 2", "mean_p, p = 2", "sum_p, p = 1", "sum_p, p = 4"]
    paths = ["adjacent", "skip", "all", "⟨1, 2⟩", "⟨2, 3⟩", "⟨3, 4⟩"]
    for name, places in (("attention", attention), ("paths", paths)):
        picture = figures[f"ablations-{name}.svg"]
        assert set(places) <= set(texts(picture))
        assert len(marks(picture, "badnets-MPA-SAGE")) == len(places)
        assert len(marks(picture, "badnets-MPA-control-β-0")) == 1


@pytest.mark.parametrize(
    ("grid", "option", "label"),
    [
        ("large_triggers", "size", "side of the trigger, pixels"),
        ("transparency", "transparency", "transparency, 0: opaque"),
    ],
)
def test_properties_of_a_trigger_are_on_the_axis(grid: str, option: str, label: str) -> None:
    made = records(grid, lambda cell: (0.8, [0.2]))
    picture = drawn(grid, made)[f"{grid}.svg"]
    values = [record["recipe"]["options"][option] for record in made if record["options"] == {}]
    x = [place for place, _ in marks(picture, "trojan_nn-ASR-SAGE")]
    shares = [(value - values[0]) / (values[-1] - values[0]) for value in values]
    assert [(place - x[0]) / (x[-1] - x[0]) for place in x] == pytest.approx(shares, abs=1e-4)
    assert label in texts(picture)


def test_other_grids_have_a_mark_a_purifier_the_mean_of_the_seeds() -> None:
    def measured(cell: Cell) -> Measured | None:
        return (0.8, [0.1 * cell.seed]) if one_attack(cell) else None

    figures = drawn("main", records("main", measured))
    assert list(figures) == ["main-500.svg", "main-2500.svg"]
    picture = figures["main-500.svg"]
    purifiers = {cell.purifier for cell in GRIDS["main"](PROFILES["cpu"])}
    assert {*purifiers, "control (β = 0)", "purifier, 500 clean images"} <= set(texts(picture))
    asr = marks(picture, "badnets-ASR-after")
    assert len({x for x, _ in asr}) == len(asr) == len(purifiers)
    ((_, before),) = {(0, y) for _, y in marks(picture, "badnets-ASR-before")}
    ((_, mpa),) = {(0, y) for _, y in marks(picture, "badnets-MPA-after")}
    ((_, mean),) = {(0, y) for _, y in asr}
    assert (mean - before) / (mpa - before) == pytest.approx(90 / 20, abs=1e-3)  # from 100: to 10, and to 80


def test_a_benign_network_has_no_asr() -> None:
    picture = drawn("benign", records("benign", lambda cell: (0.8, [])))["benign-500.svg"]
    assert marks(picture, "none-MPA-after")
    assert not any("ASR" in node.get("id", "") for node in picture.iter())


def test_the_command_leaves_the_same_files_each_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for record in records("clean_sizes", lambda cell: (0.8, [0.2]) if one_attack(cell) else None):
        file = tmp_path / "records" / f"{Cell.of_json(without_results(record)).name}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(record))
    words = ["plot", "--grid", "clean_sizes", "--records", str(tmp_path / "records")]
    for folder in ("one", "other"):
        lab.main([*words, "--out", str(tmp_path / folder)])
    one, other = ((tmp_path / folder / "clean_sizes.svg").read_bytes() for folder in ("one", "other"))
    assert one == other
    assert not re.search(rb"\d{4}-\d\d-\d\d", one)  # a date
    assert capsys.readouterr().out.split() == [f"{tmp_path}/{part}/clean_sizes.svg" for part in ("one", "other")]


def without_results(record: dict[str, Any]) -> dict[str, Any]:
    return {field.name: record[field.name] for field in dataclasses.fields(Cell)}
