"""Who leaves the least of each backdoor without losing more accuracy than is allowed, from the lab's records."""

from __future__ import annotations

import inspect
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.lab.claims import BASELINES
from benchmarks.lab.tables import Record, in_words, markdown, purifier, suspect
from worker.algorithms.purifiers.auto import auto

DROP, ASR = 0.03, 0.10
"""What may be lost of the MPA, and what `auto` may leave of a backdoor."""

RIVALS = ("sage", *BASELINES)
LADDER: Sequence[str] = inspect.signature(auto).parameters["ladder"].default


@dataclass(frozen=True)
class Entry:
    """A purifier on a suspect: means over seeds, of the highest ASR of several triggers; fractions."""

    name: str
    drop: float
    asr: float
    words: str
    notes: Sequence[str]

    @property
    def missed(self) -> str:
        """By how many points it exceeds the two limits of `auto`."""
        over = {"MPA": self.drop - DROP, "ASR": self.asr - ASR}
        return ", ".join(f"{name} by {100 * points:.1f}" for name, points in over.items() if points > 0) or "–"


def standings(records: Sequence[Record]) -> list[str]:
    """Markdown, a row a suspect: SAGE with its defaults; the best of the paper's six baselines; who of these seven has
    the lowest ASR at a drop of at most `DROP`, `–` where none keeps it; `auto`, by how many points it misses its
    limits, and what it tried, its choice in bold."""
    rows = [["", "SAGE", "best baseline", "lowest ASR", "auto", "auto misses", "auto tried"]]
    won = []
    for row in dict.fromkeys(map(suspect, records)):
        entries = _entries([record for record in records if suspect(record) == row])
        baselines, everyone = _least(entries, BASELINES), _least(entries, RIVALS)
        won.append(everyone is not None and everyone.name == "sage")
        cells = [
            row,
            _told(entries.get("sage")),
            f"{baselines.name} {baselines.words}" if baselines else "–",
            everyone.name if everyone else "–",
            _told(entries.get("auto")),
            entries["auto"].missed if "auto" in entries else "–",
            attempted(entries["auto"].notes) if "auto" in entries else "–",
        ]
        rows.append(cells)
    return [*markdown(rows), "", f"SAGE has the lowest ASR on {sum(won)} of {len(won)}."]


def attempted(notes: Sequence[str]) -> str:
    """The rungs that `auto` tried, in their order, from the notes on its result: "CODE: NAME: …", in older records the
    codes alone, of the ladder as it is by default."""
    attempts = [note.split(": ") for note in notes if note.startswith(("auto_attempt", "auto_chosen"))]
    tried = []
    for rung, (code, *words) in zip(LADDER, attempts, strict=False):
        name = words[0] if words else rung
        tried.append(f"**{name}**" if code == "auto_chosen" else name)
    return ", ".join(tried)


def _entries(records: Sequence[Record]) -> dict[str, Entry]:
    """By the purifier's name and options, of those that did not refuse and were measured with a trigger."""
    found: dict[str, list[Record]] = {}
    for record in records:
        if "refused" not in record and record["asr"]:
            found.setdefault(purifier(record), []).append(record)
    return {name: _entry(name, of_one) for name, of_one in found.items()}


def _entry(name: str, records: list[Record]) -> Entry:
    drop = statistics.mean(record["mpa_drop"] for record in records)
    asr = statistics.mean(max(record["asr"]) for record in records)
    return Entry(name, drop, asr, in_words(records), records[0]["notes"])


def _least(entries: dict[str, Entry], names: Sequence[str]) -> Entry | None:
    within = [entries[name] for name in names if name in entries and entries[name].drop <= DROP]
    return min(within, key=lambda entry: entry.asr, default=None)


def _told(entry: Entry | None) -> str:
    return "–" if entry is None else entry.words
