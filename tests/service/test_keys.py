from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import timedelta

import httpx
import pytest
from sqlalchemy import update

from redeem.access import Scope
from service import auth, keys, notes
from service.settings import Settings
from service.tables import DEFAULT_TENANT, ApiKey, now
from tests.service.running import Service, problem, serving, wait_until

OLD = f"redeem_{'a_B-' * 10}xyz"


def status(service: Service, key: str) -> int:
    return httpx.get(f"{service.url}/v1/jobs", headers={"Authorization": f"Bearer {key}"}).status_code


def row_of(service: Service, key: str) -> ApiKey:
    row = keys.find(service.parts.sessions, key)
    assert row is not None
    return row


def test_a_key_shows_its_prefix_and_keeps_its_secret(service: Service) -> None:
    key = service.key()
    row = row_of(service, key)
    assert key.startswith(f"redeem_{row.prefix}_")
    assert row.hash == hashlib.sha256(key.encode()).hexdigest()
    assert key.removeprefix(f"redeem_{row.prefix}_") not in str(vars(row))
    assert status(service, key) == 200


@pytest.mark.parametrize("change", ["last", "first", "prefix", "longer", "shorter"])
def test_a_key_that_differs_anywhere_is_unknown(service: Service, change: str) -> None:
    key = service.key()
    other = {
        "last": key[:-1] + ("a" if key[-1] != "a" else "b"),
        "first": key[:20] + ("a" if key[20] != "a" else "b") + key[21:],
        "prefix": "redeem_" + service.key()[7:19] + key[19:],
        "longer": f"{key}a",
        "shorter": key[:-1],
    }[change]
    assert other != key
    assert status(service, other) == 401


def test_a_key_of_the_old_form_goes_on_working(service: Service) -> None:
    digest = keys.key_hash(OLD)
    with service.parts.sessions.begin() as session:
        row = ApiKey(tenant_id=DEFAULT_TENANT, name="old", prefix=digest[:12], hash=digest, scopes=list(Scope))
        session.add(row)
    assert status(service, OLD) == 200
    assert status(service, f"{OLD[:-1]}y") == 401


def test_an_expired_key_and_a_revoked_one_are_refused_and_say_why(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "REMEMBERED", 0.3)
    expired = service.key(expires_at=now() - timedelta(seconds=1))
    lasting = service.key(expires_at=now() + timedelta(hours=1))
    assert status(service, lasting) == 200
    with service.parts.sessions.begin() as session:
        session.execute(update(ApiKey).where(ApiKey.id == row_of(service, lasting).id).values(revoked_at=now()))
    wait_until(lambda: status(service, lasting) == 401)
    for key, reason in ((expired, "expired"), (lasting, "revoked")):
        answer = httpx.get(f"{service.url}/v1/jobs", headers={"Authorization": f"Bearer {key}"})
        assert reason in problem(answer, 401, "unauthorized")["detail"]


@pytest.fixture
def quick(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    monkeypatch.setattr(notes, "EVERY", 0.05)
    with serving(settings) as running:
        yield running


def test_the_last_use_is_written_beside_the_requests(quick: Service) -> None:
    used, idle = quick.key(), quick.key()
    began = now()
    assert status(quick, used) == 200
    wait_until(lambda: row_of(quick, used).last_used_at is not None)
    last = row_of(quick, used).last_used_at
    assert last is not None
    assert began <= last <= now()
    assert row_of(quick, idle).last_used_at is None


def test_the_last_use_is_not_lost_when_the_server_stops(settings: Settings) -> None:
    with serving(settings) as first:
        key = first.key()
        assert status(first, key) == 200
        assert row_of(first, key).last_used_at is None
    with serving(settings) as second:
        assert row_of(second, key).last_used_at is not None
