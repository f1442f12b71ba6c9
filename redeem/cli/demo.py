"""`redeem demo`: a really backdoored model, purified before your eyes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import redeem
from redeem.cli.connection import AsJson
from redeem.cli.output import exit_code, out, print_json, print_report
from redeem.cli.run import own_server, run_job
from redeem.cli.side_by_side import pictures_side_by_side
from redeem.errors import BadInput
from redeem.jobfile import check_files, read_job_file


def demo(
    to: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for what comes out.")] = Path("demo-result"),
    example: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder with a job.json and its files; by default CIFAR-10, BadNets."),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Run the example on a server of its own: before, after, verdict, pictures."""
    job = read_job_file((example or find_example()) / "job.json")
    check_files(job)
    with own_server() as client:
        ended = run_job(client, job)
        client.download_weights(ended.id, to / "purified.safetensors")
        client.download_report(ended.id, to / "report.json")
        for artifact in client.artifacts(ended.id):
            if artifact.media_type.startswith("image/"):
                client.download(ended.id, artifact, to / Path(artifact.name).name)
        report = client.report(ended.id)
    real = job.model.file.parent / "trigger.png"
    for reversed_trigger in to.glob("reversed-trigger-*.png"):
        if real.is_file():
            beside_the_real_one = pictures_side_by_side({"reversed by Redeem": reversed_trigger, "the real one": real})
            reversed_trigger.with_name(f"{reversed_trigger.stem}-and-real.svg").write_text(beside_the_real_one)
    if as_json:
        print_json(report)
    else:
        print_report(report)
        out().print(f"in {to}: {', '.join(sorted(file.name for file in to.iterdir()))}")
    return exit_code(ended)


def find_example() -> Path:
    """The one of the checkout. A wheel does not bring it."""
    folder = Path(redeem.__file__).parent.parent / "examples" / "cifar10-badnets"
    if not (folder / "job.json").is_file():
        raise BadInput(
            "example_missing",
            f"There is no example at {folder}.",
            "Run it from a checkout of the repository, or name a folder with a job.json: redeem demo --example DIR.",
        )
    return folder
