"""The client on a line that breaks, to a real server."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

import redeem.http
from benchmarks.cutting import cutting
from redeem.client import Client
from redeem.contract import BundleRole
from redeem.errors import Unreachable
from redeem.local.server import Address

SIZE = 6_000_000


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "images.zip"
    path.write_bytes(os.urandom(SIZE))  # new ones: bytes that the server has need not be sent
    return path


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redeem.http, "FIRST_PAUSE", 0.005)


def test_an_upload_that_is_cut_goes_on_by_itself(server: Address, file: Path) -> None:
    chance = random.Random(1)  # noqa: S311  no secret
    cuts = [chance.randrange(200_000, 900_000) for _ in range(6)]
    steps: list[int] = []
    with cutting(server.url, iter(cuts)) as url, Client(url, server.key) as client:
        bundle = client.upload_bundle(file, BundleRole.clean, advance=steps.append)
    assert (bundle.size, bundle.sha256) == (SIZE, hashlib.sha256(file.read_bytes()).hexdigest())
    assert sum(steps) == SIZE
    last_cut = max(place for place, step in enumerate(steps) if step < 0)
    gone_on_from = sum(steps[: last_cut + 1])
    assert gone_on_from > sum(cuts) / 2  # most of what came before a cut had not to come again


def test_a_line_over_which_nothing_gets_is_given_up(server: Address, file: Path) -> None:
    def short() -> Iterator[int]:
        yield 100_000  # the upload is opened, and begun
        while True:
            yield 10

    with (
        cutting(server.url, short()) as url,
        Client(url, server.key) as client,
        pytest.raises(Unreachable),
    ):
        client.upload_bundle(file, BundleRole.clean)


def test_a_refusal_is_not_tried_again(server: Address, tmp_path: Path, file: Path) -> None:
    with Client(server.url, server.key) as client:
        changing = redeem.transfer.digest

        def before_it_changed(path: Path) -> tuple[int, str]:
            size, _ = changing(path)
            return size, "0" * 64

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(redeem.transfer, "digest", before_it_changed)
            with pytest.raises(redeem.errors.ServerProblem) as refused:
                client.upload_bundle(file, BundleRole.clean)
    assert refused.value.code == "hash_mismatch"
    assert httpx.get(f"{server.url}/livez").status_code == 200
