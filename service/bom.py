"""The bill of materials of a purified model, as CycloneDX: what it is, what it was made from, what was measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType, Pedigree
from cyclonedx.model.tool import ToolRepository
from cyclonedx.output.json import JsonV1Dot6

from redeem.assessment import Assessment
from redeem.attestation import File
from redeem.report import Report
from service.tables import JobRow

WEIGHTS = "purified.safetensors"


def bill_of_materials(job: JobRow, report: Report, files: Sequence[File], inputs: Sequence[File]) -> bytes:
    """CycloneDX 1.6 as JSON. The suspect is the ancestor of the purified model, and the bundles are data that it was
    made with. The same rows and report give the same bytes."""
    by_name = {file.name: file for file in [*files, *inputs]}
    architecture = report.suspect.architecture.name
    purified = _model("purified", architecture, by_name.get(WEIGHTS))
    purified.properties.update(_properties(job, report))
    purified.pedigree = Pedigree(
        ancestors=[_model("suspect", architecture, by_name["suspect"])],
        notes=f"Purified with {report.purifier.name}; verdict {report.verdict.outcome}.",
    )
    data = [
        Component(name=name, type=ComponentType.DATA, bom_ref=name, hashes=_hashes(by_name[name]))
        for name in ("clean", "triggered")
        if name in by_name
    ]
    bom = Bom(
        serial_number=job.id,
        components=data,
        metadata=BomMetaData(
            component=purified, timestamp=job.finished_at, tools=ToolRepository(components=[_tool(report)])
        ),
    )
    bom.register_dependency(purified, data)
    document: dict[str, Any] = json.loads(JsonV1Dot6(bom).output_as_string())
    # The library has no class for it yet.
    document["metadata"]["component"]["modelCard"] = _model_card(report)
    return json.dumps(document, indent=1, sort_keys=True).encode()


def _model(ref: str, architecture: str, file: File | None) -> Component:
    return Component(
        name=architecture, type=ComponentType.MACHINE_LEARNING_MODEL, bom_ref=ref, hashes=_hashes(file) if file else []
    )


def _tool(report: Report) -> Component:
    return Component(name="redeem", type=ComponentType.APPLICATION, version=report.environment.redeem)


def _hashes(file: File) -> list[HashType]:
    return [HashType(alg=HashAlgorithm.SHA_256, content=file.digest.sha256)]


def _properties(job: JobRow, report: Report) -> list[Property]:
    said = {
        "job": str(job.id),
        "purifier": report.purifier.name,
        "seed": str(job.seed),
        "verdict": report.verdict.outcome,
        "torch": report.environment.torch,
        "device": report.environment.device,
    }
    return [Property(name=f"redeem:{name}", value=value) for name, value in said.items()]


def _model_card(report: Report) -> dict[str, Any]:
    metrics = [*_metrics("suspect", report.before), *_metrics("purified", report.after)]
    return {
        "modelParameters": {"task": "image classification", "modelArchitecture": report.suspect.architecture.name},
        "quantitativeAnalysis": {"performanceMetrics": metrics},
    }


def _metrics(model: str, assessment: Assessment) -> list[dict[str, str]]:
    """What was measured; nothing where it was not."""
    measured = {"MPA": assessment.mpa, "ASR": assessment.asr, "surrogate ASR": assessment.surrogate_asr}
    return [
        {"type": name, "value": f"{value:.6f}", "slice": model} for name, value in measured.items() if value is not None
    ]
