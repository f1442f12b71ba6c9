from __future__ import annotations

import json
import re
import secrets
from typing import Any

import pytest
import structlog

from service import log
from service.settings import Settings
from tests.service.running import serving


def said(capfd: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capfd.readouterr().err.splitlines() if line.startswith("{")]


def test_a_request_tells_its_tenant_and_the_keys_public_part(
    settings: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    with serving(settings) as service:
        key = service.http.headers["authorization"].split()[1]
        service.job()
        service.http.get("/v1/jobs")
    printed = capfd.readouterr()
    line = json.loads(next(line for line in printed.err.splitlines() if '"GET"' in line))
    assert re.fullmatch(r"[0-9a-f-]{36}", line["tenant"])
    assert line["caller"] == f"key:{key.split('_')[1]}"
    for secret in (key, key.split("_", 2)[2], settings.signing_key_file.read_text().splitlines()[1]):
        assert secret not in printed.err + printed.out


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("no such key: redeem_{12}_{43}", "{43}"),
        ("redeem_{43} was refused", "{43}"),
        ("cannot reach redis://:{43}@10.0.0.1:6379/0", "{43}"),
        ("postgresql+psycopg://user:{43}@db/redeem", "{43}"),
        ("Authorization: Bearer {43}", "{43}"),
        ("the token eyJhbGciOi.{43}.{43} was refused", "{43}"),
        ("signed with whsec_{43}", "{43}"),
        ("-----BEGIN PRIVATE KEY-----\n{43}\n-----END PRIVATE KEY-----", "{43}"),
    ],
)
def test_secrets_are_blotted_out_wherever_they_are(text: str, secret: str, capfd: pytest.CaptureFixture[str]) -> None:
    log.configure()
    drawn = {"{43}": secrets.token_hex(22)[:43], "{12}": secrets.token_hex(6)}
    for name, value in drawn.items():
        text = text.replace(name, value)
    logger = structlog.get_logger()
    logger.info("told", reason=text)
    try:
        raise RuntimeError(text)
    except RuntimeError:
        logger.exception("failed")
    printed = capfd.readouterr().err
    assert len(printed.splitlines()) == 2
    assert drawn[secret] not in printed


def test_what_is_long_is_cut(capfd: pytest.CaptureFixture[str]) -> None:
    log.configure()
    structlog.get_logger().info("weights", content="w" * 1_000_000)
    (line,) = said(capfd)
    assert len(line["content"]) < 9000
