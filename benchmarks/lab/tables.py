"""The lab's tables, from its records."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.lab.cells import Cell

Record = dict[str, Any]


def read_records(cells: Iterable[Cell], records: Path) -> list[Record]:
    """The records of those of the cells that have been run."""
    files = [records / f"{cell.name}.json" for cell in cells]
    return [json.loads(file.read_text()) for file in files if file.exists()]


def table(records: Sequence[Record]) -> list[str]:
    """Markdown, suspects by purifiers, turned where it would be wider than long. Of the suspect and of its benign twin,
    which sees the same triggered images, MPA and ASR in per cent; in each cell the points of MPA lost and the ASR, of
    several seeds the means, each with the standard deviation of a seed. Of several triggers the highest ASR counts;
    `–` is not run."""
    columns = dict.fromkeys(map(purifier, records))
    rows = [["", "before", "benign twin", *columns]]
    for one in dict.fromkeys(map(suspect, records)):
        of_row = [record for record in records if suspect(record) == one]
        cells = [in_words([record for record in of_row if purifier(record) == other]) for other in columns]
        rows.append([one, *_before(of_row[0]), *cells])
    return markdown(rows if len(rows) > len(rows[0]) else list(zip(*rows, strict=True)))


def table_of_inputs(records: Sequence[Record]) -> list[str]:
    """Markdown, a row a suspect: it and its benign twin as they are, and what each loses and lets through when it sees
    purified inputs; figures as in `table`."""
    rows = [["", "before", "benign twin", "after", "benign twin after"]]
    rows += [[attack(one), *_before(one), in_words([one]), in_words([one["benign"]])] for one in records]
    return markdown(rows)


def markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    """The first row is the head."""
    head, *others = [f"| {' | '.join(row)} |" for row in rows]
    return [head, "| --- " * len(rows[0]) + "|", *others]


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


def _before(record: Record) -> list[str]:
    """The suspect, and its benign twin."""
    known = record["suspect"]
    return [_standing(known["mpa"], known["asr"]), _standing(known["mpa_of_benign"], known["asr_of_benign"])]


def _standing(accuracy: float, successes: list[float]) -> str:
    shown = f"{100 * accuracy:.1f}"
    return f"{shown} / {100 * max(successes):.1f}" if successes else shown
