"""The lab's tables, from its records."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks.lab.cells import Cell

Record = dict[str, Any]


def read_records(cells: Iterable[Cell], records: Path) -> list[Record]:
    """The records of those of the cells that have been run."""
    files = [records / f"{cell.name}.json" for cell in cells]
    return [json.loads(file.read_text()) for file in files if file.exists()]


def table(records: list[Record], row: Callable[[Record], str], column: Callable[[Record], str]) -> list[str]:
    """Markdown: in each cell the points of MPA lost and the ASR in per cent; of several seeds the means, each with the
    standard deviation of a seed. Of a suspect with several triggers the highest ASR counts; `–` is not run."""
    rows, columns = dict.fromkeys(map(row, records)), dict.fromkeys(map(column, records))
    lines = [f"| | before | {' | '.join(columns)} |", "| --- " * (len(columns) + 2) + "|"]
    for one in rows:
        of_row = [record for record in records if row(record) == one]
        cells = [in_words([record for record in of_row if column(record) == other]) for other in columns]
        lines.append(f"| {one} | {_before(of_row[0])} | {' | '.join(cells)} |")
    return lines


def in_words(records: list[Record]) -> str:
    """Of one cell, its seeds together; where a purifier refused, its error's code beside what the other seeds gave."""
    if not records:
        return "–"
    done = [record for record in records if "refused" not in record]
    codes = dict.fromkeys(f"`{record['refused']}`" for record in records if "refused" in record)
    drops, successes = [record["mpa_drop"] for record in done], [max(record["asr"]) for record in done if record["asr"]]
    return " / ".join([*(_per_cent(values) for values in (drops, successes) if values), *codes])


def _per_cent(fractions: list[float]) -> str:
    mean = f"{100 * statistics.mean(fractions):.1f}"
    return mean if len(fractions) == 1 else f"{mean} ± {100 * statistics.stdev(fractions):.1f}"


def purifier(record: Record) -> str:
    """The purifier with its options, as a column's head."""
    options = ", ".join(f"{name} {value}" for name, value in record["options"].items())
    return f"{record['purifier']} ({options})" if options else record["purifier"]


def suspect(record: Record) -> str:
    """The attack with its options and the number of clean images, as a row's head."""
    return f"{attack(record)}, {record['clean']}"


def attack(record: Record) -> str:
    """The attack with its options."""
    options = ", ".join(f"{name} {value}" for name, value in record["recipe"]["options"].items())
    name = str(record["recipe"]["attack"])
    return f"{name} ({options})" if options else name


def _before(record: Record) -> str:
    known = record["suspect"]
    accuracy = f"{100 * known['mpa']:.1f}"
    return f"{accuracy} / {100 * max(known['asr']):.1f}" if known["asr"] else accuracy
