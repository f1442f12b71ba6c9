"""`redeem purify`: one command from a suspect file to a purified one, a report and an exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from redeem.architectures import ONNX, PURIFIED_GRAPH
from redeem.cli.connection import AsJson, Server
from redeem.cli.output import exit_code, print_json, print_report
from redeem.cli.run import client_for_one_run, run_job
from redeem.contract import Architecture, MethodRequest, Preprocessing
from redeem.jobfile import CleanFile, JobFile, ModelFile, TriggeredFile, check_files


def purify(
    suspect: Annotated[Path, typer.Argument(help="The weights to purify.")],
    architecture: Annotated[
        str, typer.Option(help="Its network, like paper/resnet18 or timm/resnet50; onnx for an ONNX file.")
    ],
    clean: Annotated[Path, typer.Option(help="Clean images: a zip with one folder a class, or a safetensors file.")],
    classes: Annotated[
        int | None, typer.Option(min=2, help="Number of classes; by default what the weights say.")
    ] = None,
    architecture_option: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="As in width=24; may be repeated.")
    ] = None,
    size: Annotated[str, typer.Option(metavar="N|H,W", help="The image size that the network wants.")] = "32",
    mean: Annotated[
        str | None, typer.Option(metavar="R,G,B", help="Mean of the normalisation, in [0, 1]; default 0.")
    ] = None,
    std: Annotated[str | None, typer.Option(metavar="R,G,B", help="Its standard deviation; default 1.")] = None,
    triggered: Annotated[
        Path | None, typer.Option(help="Stamped images under their true labels, to measure ASR.")
    ] = None,
    target: Annotated[int | None, typer.Option(min=0, help="The label that the trigger brings about.")] = None,
    purifier: Annotated[str, typer.Option(help="How to purify.")] = "sage",
    option: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Of the purifier, as in beta=300; may be repeated.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Same inputs, options and seed: same weights.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="The purified weights; by default purified.safetensors, or purified.onnx."),
    ] = None,
    report: Annotated[Path, typer.Option("--report", help="The report, as JSON.")] = Path("report.json"),
    html: Annotated[Path | None, typer.Option("--html", help="The report, as HTML.")] = None,
    server: Server = None,
    as_json: AsJson = False,
) -> int:
    """Purify a model: upload, wait, download, gate. Uses a server of its own where none is named."""
    if (triggered is None) != (target is None):
        raise typer.BadParameter("--triggered and --target belong together.")
    try:
        job = JobFile(
            model=ModelFile(
                file=suspect,
                architecture=Architecture(
                    name=architecture,
                    num_classes=classes,
                    options=key_values(architecture_option, "--architecture-option"),
                ),
                preprocessing=preprocessing(size, mean, std),
            ),
            clean=CleanFile(file=clean),
            triggered=TriggeredFile(file=triggered, target=target) if triggered and target is not None else None,
            purifier=MethodRequest(name=purifier, options=key_values(option, "--option")),
            seed=seed,
        )
    except ValidationError as error:
        raise typer.BadParameter(
            "; ".join(f"{e['loc'][-1] if e['loc'] else ''}: {e['msg']}" for e in error.errors())
        ) from error
    check_files(job)
    out = out or Path(PURIFIED_GRAPH if architecture == ONNX else "purified.safetensors")
    with client_for_one_run(server) as client:
        ended = run_job(client, job)
        client.download_weights(ended.id, out)
        client.download_report(ended.id, report)
        if html:
            client.download_report(ended.id, html, "text/html")
        content = client.report(ended.id)
    print_json(content) if as_json else print_report(content)
    return exit_code(ended)


def preprocessing(size: str, mean: str | None, std: str | None) -> Preprocessing:
    """Without a normalisation the network sees pixels in [0, 1] as they are."""
    if (mean is None) != (std is None):
        raise typer.BadParameter("--mean and --std belong together.")
    means, stds = numbers(mean or "0,0,0", "--mean"), numbers(std or "1,1,1", "--std")
    sides = numbers(size, "--size")
    return Preprocessing.model_validate(
        {
            "size": sides * 2 if len(sides) == 1 else sides,
            "mean": means,
            "std": stds,
            "channels": "L" if len(means) == 1 else "RGB",
        }
    )


def numbers(text: str, flag: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise typer.BadParameter(f"{flag} {text!r}: expected numbers with commas between them.") from error


def key_values(pairs: list[str] | None, flag: str) -> dict[str, Any]:
    """`width=24` and the like; a value that is no JSON is taken as text."""
    options: dict[str, Any] = {}
    for pair in pairs or []:
        name, separator, value = pair.partition("=")
        if not name or not separator:
            raise typer.BadParameter(f"{flag} {pair!r}: expected NAME=VALUE.")
        try:
            options[name] = json.loads(value)
        except ValueError:
            options[name] = value
    return options
