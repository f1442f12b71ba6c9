"""What people and programs read: results on stdout, progress and errors on stderr."""

from __future__ import annotations

import json
import sys
from typing import Any

from pydantic import BaseModel
from rich.console import Console
from rich.table import Table
from rich.text import Text

from redeem.assessment import Assessment, NeuralCleanse
from redeem.contract import Job, JobState, Outcome
from redeem.errors import RedeemError, ServerProblem
from redeem.report import Report

EXIT_PASS, EXIT_FAIL, EXIT_ERROR, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 4, 130
VERDICT_STYLE = {Outcome.passed: "bold green", Outcome.failed: "bold red", Outcome.inconclusive: "bold yellow"}


def out() -> Console:
    return Console(highlight=False, soft_wrap=True, markup=False)


def err() -> Console:
    return Console(stderr=True, highlight=False, soft_wrap=True, markup=False)


def print_json(value: BaseModel | list[Any] | dict[str, Any]) -> None:
    """One document on one line, so that a stream of them is JSON lines."""
    content = value.model_dump_json() if isinstance(value, BaseModel) else json.dumps(value)
    sys.stdout.write(f"{content}\n")
    sys.stdout.flush()


def print_error(error: RedeemError, as_json: bool) -> None:
    if as_json:
        sys.stderr.write(json.dumps({"code": error.code, "detail": error.detail, "hint": error.hint}) + "\n")
        return
    console = err()
    console.print(Text("Error: ", style="bold red").append(error.detail, style="default"))
    for field in error.errors if isinstance(error, ServerProblem) else []:
        console.print(f"  {field.where}: {field.message}")
    console.print(f"{error.hint} [{error.code}]")


def exit_code(job: Job) -> int:
    """What a pipeline gates on."""
    if job.state is not JobState.succeeded:
        return EXIT_ERROR
    return {Outcome.passed: EXIT_PASS, Outcome.failed: EXIT_FAIL}.get(job.verdict or Outcome.inconclusive, EXIT_ERROR)


def print_job(job: Job) -> None:
    console = out()
    console.print(f"{job.id}  {describe(job)}")
    console.print(f"  {job.purifier.name}, seed {job.seed}, created {job.created_at:%Y-%m-%d %H:%M:%S} UTC")
    if job.error:
        console.print(Text(f"  {job.error.detail} [{job.error.code}]", style="red"))
        console.print(f"  {job.error.hint}")
    if job.timings:
        console.print(f"  {stage_seconds(job.timings)}")


def describe(job: Job) -> str:
    """State, and what there is to say beyond it."""
    if job.state is JobState.running:
        stopping = ", asked to stop" if job.cancel_requested else ""
        return f"running {job.stage or ''} {job.progress:.0%}{stopping}".replace("  ", " ")
    return f"{job.state}, verdict {job.verdict}" if job.verdict else str(job.state)


def print_report(report: Report) -> None:
    """Before and after side by side, the verdict with its reasons, what to know before believing it."""
    console = out()
    table = Table("", "before", "after", title=f"{report.purifier.name} on {report.suspect.architecture.name}")
    for name, before, after in zip(MEASURED, measured(report.before), measured(report.after), strict=True):
        table.add_row(name, before, after)
    console.print(table)
    console.print(Text("verdict: ").append(str(report.verdict.outcome), style=VERDICT_STYLE[report.verdict.outcome]))
    for reason in report.verdict.reasons:
        console.print(f"  - {reason}")
    for flag in report.flags:
        console.print(f"note: {flag.message} {flag.advice} [{flag.code}]")
    console.print(stage_seconds(report.timings))


MEASURED = (
    "accuracy on clean images (MPA)",
    "attack success (ASR)",
    "recovery accuracy",
    "surrogate ASR",
    "anomaly index",
    "flagged labels",
)


def measured(assessment: Assessment) -> list[str]:
    """One cell for each of MEASURED; None is said to be not measured, never left blank."""
    cleanse = assessment.neural_cleanse
    return [
        _share(assessment.mpa, assessment.mpa_interval),
        _share(assessment.asr, assessment.asr_interval),
        _share(assessment.recovery_accuracy),
        _share(assessment.surrogate_asr),
        "not measured" if cleanse is None else _index(cleanse),
        "not measured" if cleanse is None else ", ".join(map(str, cleanse.flagged)) or "none",
    ]


def _share(value: float | None, interval: tuple[float, float] | None = None) -> str:
    """A fraction in per cent, with the 95 % interval of what it estimates."""
    if value is None:
        return "not measured"
    return f"{value:.2%}" if interval is None else f"{value:.2%} ({interval[0]:.1%} to {interval[1]:.1%})"


def _index(cleanse: NeuralCleanse) -> str:
    return f"{cleanse.index:.2f}" + (" (ratio of norms)" if cleanse.statistic == "ratio" else "")


def stage_seconds(timings: dict[str, float]) -> str:
    return "seconds: " + ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in timings.items())
