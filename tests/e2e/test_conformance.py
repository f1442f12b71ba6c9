"""Schemathesis against the server that `redeem serve` starts, with a worker behind it, for ten minutes."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from redeem.client import Client
from redeem.contract import JobState
from redeem.local import local_server
from tests.e2e.sending import sent
from tests.service.test_conformance import conforms


@pytest.mark.slow
def test_a_whole_server_is_what_its_openapi_says(folder: Path) -> None:
    """Needs `-o faulthandler_timeout=0`."""
    with local_server(folder / "data") as server, Client(server.url, server.key) as client:
        order = sent(client, folder, epochs=2)
        done, other = (client.wait(client.submit(order).id, timeout=120) for _ in range(2))
        assert (done.state, other.state) == (JobState.succeeded, JobState.succeeded)
        headers = {"Authorization": f"Bearer {server.key}"}
        model = httpx.get(f"{server.url}/v1/models/{order.model}", headers=headers).raise_for_status().json()
        ids = [
            ("uploads", "", model["upload"]),
            ("models", "", str(order.model)),
            ("bundles", "", str(order.clean)),
            ("jobs", "/(report|weights|artifacts|events)", str(done.id)),
            ("jobs", "(|/cancel|/retry)", str(other.id)),
        ]
        conforms(server.url, server.key, ids, folder, 600)
