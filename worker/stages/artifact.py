"""A result by name: its bytes are read back from the store before anybody names it in the database."""

from __future__ import annotations

from obstore.store import ObjectStore

from redeem.report import Artifact
from service.store import put_bytes


def store_artifact(store: ObjectStore, name: str, media_type: str, content: bytes) -> Artifact:
    digest = put_bytes(store, content)
    return Artifact(name=name, media_type=media_type, size=digest.size, sha256=digest.sha256)
