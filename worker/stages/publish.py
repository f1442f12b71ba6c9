"""Results to the store. Each blob is read back before it is named in the database; a job succeeds only after that."""

from __future__ import annotations

from pathlib import Path

from obstore.store import ObjectStore
from torch import Tensor

from redeem.contract import Artifact, Report
from service.store import put_bytes
from worker.stages.pictures import Picture
from worker.stages.weights import write_weights


def publish_files(
    store: ObjectStore, folder: Path, weights: dict[str, Tensor], metadata: dict[str, str], pictures: list[Picture]
) -> list[Artifact]:
    """The purified weights and the pictures."""
    path = folder / "purified.safetensors"
    write_weights(path, weights, metadata)
    artifacts = [_put(store, path.name, "application/octet-stream", path.read_bytes())]
    return artifacts + [_put(store, *picture) for picture in pictures]


def publish_report(store: ObjectStore, report: Report) -> Artifact:
    """The report names all other artifacts, so it comes last."""
    return _put(store, "report.json", "application/json", report.model_dump_json(indent=2).encode())


def _put(store: ObjectStore, name: str, media_type: str, content: bytes) -> Artifact:
    digest = put_bytes(store, content)
    return Artifact(name=name, media_type=media_type, size=digest.size, sha256=digest.sha256)
