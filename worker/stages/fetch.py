"""Store to files: the job's uploads, hashed again on the way. What is loaded is what was uploaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from obstore.store import ObjectStore

from service.store import CorruptBlob, download
from worker.stages.errors import StoreDamaged


@dataclass(frozen=True)
class Files:
    weights: Path
    clean: Path
    triggered: Path | None


def fetch(store: ObjectStore, folder: Path, *, weights: str, clean: str, triggered: str | None) -> Files:
    """Copy the blobs with these SHA-256 hashes into `folder`. Raises StoreDamaged when one is gone or altered."""

    def copy(sha256: str, name: str) -> Path:
        try:
            download(store, sha256, folder / name)
        except FileNotFoundError as error:  # its message has a path of the server
            raise StoreDamaged(f"the {name} of this job, {sha256}, are no longer in the store") from error
        except CorruptBlob as error:
            raise StoreDamaged(f"the {name} of this job cannot be read back: {error}") from error
        return folder / name

    return Files(copy(weights, "weights"), copy(clean, "clean"), copy(triggered, "triggered") if triggered else None)
