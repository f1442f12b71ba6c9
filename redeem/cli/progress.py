"""Progress on stderr: bars on a terminal, a line a step otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn

from redeem.cli.output import err
from redeem.client import Client
from redeem.contract import Job, JobEvent, Stage
from redeem.transfer import Advance, ignore


@contextmanager
def uploading(files: list[Path]) -> Iterator[Advance]:
    console, size = err(), sum(file.stat().st_size for file in files)
    if not console.is_terminal:
        console.print(f"uploading {len(files)} files, {size / 2**20:.1f} MiB")
        yield ignore
        return
    with Progress(TextColumn("{task.description}"), BarColumn(), DownloadColumn(), console=console) as progress:
        task = progress.add_task("upload", total=size)
        yield lambda count: progress.advance(task, count)


def follow(client: Client, job: UUID) -> Job:
    """Show the job's stages until it is at its end; returns it as it is then."""
    console = err()
    if console.is_terminal:
        columns = (TextColumn("{task.description:<14}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
        with Progress(*columns, console=console) as progress:
            _draw(progress, client.events(job))
    else:
        for line in _steps(client.events(job)):
            console.print(line)
    return client.get(job)


def _draw(progress: Progress, events: Iterator[JobEvent]) -> None:
    """One bar a stage, full when the next one begins."""
    stage: Stage | None = None
    bar: TaskID | None = None
    for event in events:
        if event.stage is not None and event.stage != stage:
            if bar is not None:
                progress.update(bar, completed=1.0)
            stage, bar = event.stage, progress.add_task(event.stage, total=1.0)
        if bar is not None:
            progress.update(bar, completed=event.progress)


def _steps(events: Iterator[JobEvent]) -> Iterator[str]:
    """A line for every change of state or stage."""
    seen: tuple[str, str | None] | None = None
    for event in events:
        if (now := (event.state, event.stage)) != seen:
            seen = now
            yield f"{event.at:%H:%M:%S} {event.state} {event.stage or ''}".rstrip()
