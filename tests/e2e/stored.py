"""What lies in the store of a server, beside what its database names."""

from __future__ import annotations

import obstore
from obstore.store import ObjectStore
from sqlalchemy import Engine, select

from redeem.local.admin import administer
from service import database
from service.settings import Settings
from service.store import open_store
from service.tables import ArtifactRow, UploadRow


def check_that_the_store_holds_what_is_named(settings: Settings, engine: Engine) -> None:
    """No more and no less, after a collection."""
    administer("db gc", settings.data)
    with database.readers(engine)() as session:
        named = {*session.scalars(select(UploadRow.sha256)), *session.scalars(select(ArtifactRow.sha256))}
    store = open_store(settings)
    assert {path.rpartition("/")[2] for path in _paths(store, "blobs")} == named
    assert _paths(store, "parts") == []


def _paths(store: ObjectStore, prefix: str) -> list[str]:
    return [entry["path"] for listed in obstore.list(store, prefix) for entry in listed]
