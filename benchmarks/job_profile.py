"""Where a job's time goes, from its start to its verdict, and how near its heavy stages come to the machine's own rate.

    python benchmarks/job_profile.py

Runs the example as `redeem demo` does, on a server of its own with real processes, and reads the seconds of each stage
from the job. Then the heavy algorithms run once more in this process under a counter of floating-point operations:
the same inputs, options and seed, so the same work. Counted over seconds, as a share of the rate of a plain matrix
product in the number format that the report names. About six minutes on two CPU cores; the worker takes a GPU if
there is one, and this script with it.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

import torch

from benchmarks.measuring import EXAMPLE, counted_flops, matrix_rate, parser, print_table, write_record
from redeem.cli.run import own_server
from redeem.contract import Job, JobState, MethodRequest
from redeem.jobfile import JobFile, read_job_file, send_job
from redeem.report import Report
from worker.algorithms.detectors import DETECTORS
from worker.algorithms.purifiers import PURIFIERS
from worker.stages.assess import for_triggers
from worker.stages.device import pick
from worker.stages.fetch import Files
from worker.stages.load import Inputs, load


def main(words: list[str] | None = None) -> int:
    arguments = parse(words)
    job = asked_for(arguments)
    ended, report, seconds = run(job)
    arguments.device = pick()  # the worker's
    flops, rate = heavy_work(job, arguments.device), matrix_rate(arguments.device)
    rows: list[dict[str, Any]] = []
    for stage, taken in ended.timings.items():
        rows.append({"stage": stage, "seconds": taken, "of_the_job": round(taken / sum(ended.timings.values()), 3)})
        if stage in flops:
            rows[-1] |= {"flops": flops[stage], "share_of_matrix_rate": round(flops[stage] / taken / rate, 3)}
    write_record(
        arguments,
        __file__,
        rows=rows,
        seconds=seconds,
        verdict=report.verdict.outcome.value,
        worker=report.environment.model_dump(exclude={"redeem"}),
        matrix_flops_per_second=round(rate),
    )
    print_table(
        ("stage", "seconds", "of the job", "TFLOP", "of the matrix rate"),
        *(
            (row["stage"], row["seconds"], f"{row['of_the_job']:.0%}")
            + ((f"{row['flops'] / 1e12:.2f}", f"{row['share_of_matrix_rate']:.0%}") if "flops" in row else ("", ""))
            for row in rows
        ),
        ("server start", seconds["server_start"], "", "", ""),
        ("upload to verdict", seconds["upload_to_verdict"], "", "", ""),
    )
    return 0


def parse(words: list[str] | None) -> argparse.Namespace:
    options = parser(__doc__, __file__)
    options.add_argument("--epochs", type=int, help="of SAGE; by default those of the example's job")
    options.add_argument("--steps", type=int, help="of Neural Cleanse, likewise")
    return options.parse_args(words)


def asked_for(arguments: argparse.Namespace) -> JobFile:
    """The example's job, shorter where that was asked for."""
    job = read_job_file(EXAMPLE / "job.json")
    epochs = {"epochs": arguments.epochs} if arguments.epochs else {}
    steps = {"steps": arguments.steps} if arguments.steps else {}
    return job.model_copy(
        update={
            "purifier": MethodRequest(name="sage", options={**job.purifier.options, **epochs}),
            "detectors": [MethodRequest(name="neural_cleanse", options={**job.detectors[0].options, **steps})],
            "seed": arguments.seed,
        }
    )


def run(job: JobFile) -> tuple[Job, Report, dict[str, float]]:
    """The job with its timings (those of the report cannot have its own publishing), its report, and the seconds around
    it: until the server answers, and from the first upload to the verdict."""
    started = time.perf_counter()
    with own_server() as client:
        up = time.perf_counter()
        ended = client.wait(send_job(client, job).id)
        over = time.perf_counter()
        if ended.state is not JobState.succeeded:
            raise SystemExit(f"the job {ended.state}: {ended.error}")
        report = client.report(ended.id)
    return ended, report, {"server_start": round(up - started, 2), "upload_to_verdict": round(over - up, 2)}


def heavy_work(job: JobFile, device: torch.device) -> dict[str, int]:
    """FLOPs of the stages that compute, without the forward passes for MPA and ASR: those are under a hundredth."""
    inputs, cleanse, sage = read(job, device), job.detectors[0].options, job.purifier.options
    unseen, _ = for_triggers(inputs.clean)

    def detect(model: torch.nn.Module) -> int:
        return counted_flops(
            lambda: DETECTORS["neural_cleanse"](
                model, unseen, num_classes=inputs.loaded.num_classes, seed=job.seed, **cleanse
            )
        )

    purified = None

    def purify() -> None:
        nonlocal purified
        clean = inputs.clean
        purified = PURIFIERS["sage"](inputs.suspect, clean.train, clean.held_out, seed=job.seed, **sage)

    before, between = detect(inputs.suspect), counted_flops(purify)
    assert purified is not None
    return {"assess_before": before, "purify": between, "assess_after": detect(purified.model)}


def read(job: JobFile, device: torch.device) -> Inputs:
    files = Files(weights=job.model.file, clean=job.clean.file, triggered=None)
    return load(files, job.model.architecture, job.model.preprocessing, None, seed=job.seed, device=device)


if __name__ == "__main__":
    sys.exit(main())
