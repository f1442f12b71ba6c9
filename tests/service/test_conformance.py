"""Schemathesis against a real server: everything that the interface promises, by examples, boundaries, random data and
chains of calls, with and without a key."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from redeem.contract import Outcome
from service.settings import Settings
from service.tables import now
from service.webhooks import sending
from tests.redeem.conftest import make_report
from tests.service.running import Service, serving

BINARIES = Path(sys.executable).parent

# What exists, so that not every call ends in a 404. A reference or a size that is well-formed but wrong may be refused.
CONFIGURATION = """
[checks.positive_data_acceptance]
expected-statuses = [200, 201, 202, 204, 206, 304, 404, 409, 410, 413, 416, 422]

# A type that it cannot make; tests/service/test_resuming.py has that.
[[operations]]
include-name = "PATCH /v1/uploads/{{id}}/content"
enabled = false
{operations}"""
OPERATION = """
[[operations]]
include-path-regex = "^/v1/{collection}/{{id}}{rest}$"
exclude-method = "DELETE"
# Nobody works here, so nothing is worth waiting for.
parameters = {{ "path.id" = "{id}", "query.wait" = 0 }}
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One that posts no webhooks: there are many addresses in what is tried."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sending, "post", lambda *_: sending.Answer(status=204))
        with serving(Settings(data=tmp_path_factory.mktemp("data"))) as running:
            yield running


def test_the_server_is_what_its_openapi_says(service: Service, tmp_path: Path) -> None:
    """For a few seconds; tests/e2e/test_conformance.py takes its time, with a whole server."""
    key = service.http.headers["authorization"].removeprefix("Bearer ")
    conforms(service.url, key, existing(service), tmp_path, 20, "--max-examples", "5", "--seed", "1")


def conforms(url: str, key: str, ids: list[tuple[str, str, str]], folder: Path, seconds: int, *more: str) -> None:
    """Try everything for so long. Of `ids` each is a collection, the rest of paths with its ids, and one that is there.
    Raises AssertionError with what Schemathesis found."""
    configuration = folder / "schemathesis.toml"
    operations = [OPERATION.format(collection=collection, rest=rest, id=id) for collection, rest, id in ids]
    configuration.write_text(CONFIGURATION.format(operations="".join(operations)))
    command = [
        *(str(BINARIES / "schemathesis"), "--config-file", str(configuration), "run", f"{url}/openapi.json"),
        *("--header", f"Authorization: Bearer {key}", "--checks", "all"),
        # It takes what exists (below) for what was made just now, and that may be deleted through a list meanwhile.
        *("--exclude-checks", "ensure_resource_availability"),
        *("--max-time", str(seconds), "--continue-on-failure", "--no-shrink"),
        *more,
        *("--request-timeout", "10", "--no-color", "--suppress-health-check", "all"),
    ]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=seconds + 120)
    folder.joinpath("schemathesis.log").write_text(ran.stdout)
    assert ran.returncode == 0, ran.stdout[-20_000:] + ran.stderr


def existing(service: Service) -> list[tuple[str, str, str]]:
    done = service.job()
    service.artifact(done, "purified.safetensors", b"weights")
    service.artifact(done, "report.json", make_report(done, Outcome.passed).model_dump_json().encode())
    service.change(done, state="succeeded", verdict="pass", finished_at=now())
    return [
        ("uploads", "", service.upload("model")),
        ("models", "", service.model()),
        ("bundles", "", service.bundle()),
        ("webhooks", ".*", service.post("/v1/webhooks", {"url": "https://example.com/"}, 201)["id"]),
        ("jobs", "/(report|weights|artifacts|events)", str(done)),
        ("jobs", "(|/cancel|/retry)", str(service.job())),
    ]
