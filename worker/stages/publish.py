"""Results to the store; a job succeeds only after that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from obstore.store import ObjectStore
from torch import Tensor

from redeem.architectures import PURIFIED_GRAPH
from redeem.report import Artifact, Report
from worker.stages.artifact import store_artifact
from worker.stages.drawing import Picture
from worker.stages.weights import write_weights


def publish_files(
    store: ObjectStore, folder: Path, weights: dict[str, Tensor], metadata: dict[str, Any], pictures: list[Picture]
) -> list[Artifact]:
    """The purified weights and the pictures."""
    path = folder / "purified.safetensors"
    write_weights(path, weights, metadata)
    artifacts = [store_artifact(store, path.name, "application/octet-stream", path.read_bytes())]
    return artifacts + [store_artifact(store, *picture) for picture in pictures]


def publish_onnx(store: ObjectStore, content: bytes) -> Artifact:
    """The purified graph, where the suspect came as one."""
    return store_artifact(store, PURIFIED_GRAPH, "application/octet-stream", content)


def publish_report(store: ObjectStore, report: Report) -> Artifact:
    """The report names all other artifacts, so it comes last."""
    return store_artifact(store, "report.json", "application/json", report.model_dump_json(indent=2).encode())
