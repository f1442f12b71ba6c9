from __future__ import annotations

import io
from datetime import UTC, datetime

from rich.console import Console
from rich.progress import Progress

from redeem.cli.progress import _draw, _steps
from redeem.contract import JobEvent, JobState, Stage

AT = datetime(2026, 1, 1, 12, 30, tzinfo=UTC)
STAGES = [(Stage.fetch, 0.0), (Stage.fetch, 1.0), (Stage.purify, 0.0), (Stage.purify, 0.4)]
EVENTS = [
    JobEvent(seq=1, at=AT, type="state", state=JobState.queued, stage=None, progress=0.0),
    *(
        JobEvent(seq=2 + number, at=AT, type="progress", state=JobState.running, stage=stage, progress=progress)
        for number, (stage, progress) in enumerate(STAGES)
    ),
]


def test_without_a_terminal_every_step_is_one_line() -> None:
    assert list(_steps(iter(EVENTS))) == ["12:30:00 queued", "12:30:00 running fetch", "12:30:00 running purify"]


def test_on_a_terminal_every_stage_has_a_bar() -> None:
    with Progress(console=Console(file=io.StringIO(), force_terminal=True)) as progress:
        _draw(progress, iter(EVENTS))
    assert [(task.description, task.completed) for task in progress.tasks] == [("fetch", 1.0), ("purify", 0.4)]
