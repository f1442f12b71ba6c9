"""Keys and tenants administered from the command line. The first test does it by a real process of the service; the
others run its commands here, as each process takes seconds to start."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from redeem.cli import main
from redeem.errors import RedeemError
from service import auth
from service.admin import COMMANDS
from service.errors import ServiceError
from service.settings import Settings
from tests.service.running import Service, problem, serving


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with serving(Settings(data=tmp_path_factory.mktemp("data"))) as running:
        yield running


class Shell:
    def __init__(self, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.data, self.capsys = data, capsys

    def run(self, *arguments: str) -> tuple[int, str, str]:
        self.capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main([*arguments, "--data", str(self.data)])
        said = self.capsys.readouterr()
        return int(exit_.value.code or 0), said.out, said.err

    def json(self, *arguments: str) -> Any:
        code, out, error = self.run(*arguments, "--json")
        assert code == 0, error
        return json.loads(out)


@pytest.fixture
def remote_shell(service: Service, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.delenv("REDEEM_DATABASE_URL", raising=False)
    monkeypatch.setattr(auth, "REMEMBERED", 0.0)
    return Shell(service.parts.settings.data, capsys)


@pytest.fixture
def shell(remote_shell: Shell, monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.setattr("redeem.cli.keys.administer", run_here)
    monkeypatch.setattr("redeem.cli.audit.administer", run_here)
    return remote_shell


def run_here(command: str, data: Path, **arguments: Any) -> Any:
    """What `administer` does, without another process."""
    try:
        return COMMANDS[command](Settings(data=data), **json.loads(json.dumps(arguments)))
    except ServiceError as error:
        raise RedeemError(error.code, str(error), error.hint) from error


def test_a_process_of_the_service_makes_a_key(service: Service, remote_shell: Shell) -> None:
    assert jobs(service, remote_shell.json("keys", "create", "for the build")["key"]).status_code == 200


def jobs(service: Service, key: str) -> httpx.Response:
    return httpx.get(f"{service.url}/v1/jobs", headers={"Authorization": f"Bearer {key}"})


def test_a_key_is_made_shown_once_used_and_revoked(service: Service, shell: Shell) -> None:
    code, out, error = shell.run("keys", "create", "for the build")
    key, prefix = out.strip(), out.split("_")[1]
    assert code == 0
    assert "not shown again" in error
    assert key not in error
    assert jobs(service, key).status_code == 200
    listed = next(one for one in shell.json("keys", "list") if one["prefix"] == prefix)
    assert (listed["name"], listed["tenant"]) == ("for the build", "default")
    assert listed["scopes"] == ["jobs:write", "read", "uploads:write"]
    assert key not in json.dumps(listed)
    assert key not in shell.run("keys", "list")[1]
    assert "revoked" in shell.run("keys", "revoke", prefix)[1]
    problem(jobs(service, key), 401, "unauthorized")


def test_a_key_has_the_scopes_and_the_end_asked_for(service: Service, shell: Shell) -> None:
    made = shell.json("keys", "create", "reader", "--scope", "read", "--days", "2")
    assert made["scopes"] == ["read"]
    assert made["expires_at"][:10] > made["created_at"][:10]
    headers = {"Authorization": f"Bearer {made['key']}"}
    refused = httpx.post(f"{service.url}/v1/uploads", json={"kind": "model", "filename": "m"}, headers=headers)
    problem(refused, 403, "missing_scope")


def test_a_tenant_and_its_key(service: Service, shell: Shell) -> None:
    job = str(service.job())
    assert shell.json("tenants", "create", "team-a")["name"] == "team-a"
    key = shell.json("keys", "create", "theirs", "--tenant", "team-a")["key"]
    assert jobs(service, key).json()["items"] == []
    assert job in {item["id"] for item in service.http.get("/v1/jobs").json()["items"]}
    assert [tenant["name"] for tenant in shell.json("tenants", "list")] == ["default", "team-a"]
    assert [one["name"] for one in shell.json("keys", "list", "--tenant", "team-a")] == ["theirs"]


def test_rotation_gives_the_new_key_before_it_takes_the_old(service: Service, shell: Shell) -> None:
    old = shell.json("keys", "create", "rotated", "--scope", "read", "--days", "10")
    new = shell.json("keys", "rotate", old["prefix"])
    assert {name: new[name] for name in ("name", "tenant", "scopes")} == {
        name: old[name] for name in ("name", "tenant", "scopes")
    }
    assert jobs(service, old["key"]).status_code == jobs(service, new["key"]).status_code == 200
    after = {one["prefix"]: one for one in shell.json("keys", "list")}
    assert after[old["prefix"]]["expires_at"] < old["expires_at"] < new["expires_at"]
    newest = shell.json("keys", "rotate", new["prefix"], "--overlap", "0")
    assert jobs(service, new["key"]).status_code == 401
    assert jobs(service, newest["key"]).status_code == 200


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("keys", "revoke", "000000000000"), "unknown_key"),
        (("keys", "create", "k", "--tenant", "nobody"), "no_such_tenant"),
        (("keys", "list", "--tenant", "nobody"), "no_such_tenant"),
        (("tenants", "create", "default"), "bad_tenant"),
        (("tenants", "create", "../up"), "bad_tenant"),
    ],
)
def test_what_cannot_be_done_is_said(shell: Shell, arguments: tuple[str, ...], code: str) -> None:
    assert shell.run(*arguments)[0] == 2
    assert json.loads(shell.run(*arguments, "--json")[2])["code"] == code


def test_an_ended_key_is_not_rotated(shell: Shell) -> None:
    prefix = shell.json("keys", "create", "short")["prefix"]
    shell.run("keys", "revoke", prefix)
    assert "[key_ended]" in shell.run("keys", "rotate", prefix)[2]


def test_a_database_without_tables_is_told_to_be_upgraded(
    tmp_path: Path, shell: Shell, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "redeem db upgrade" in Shell(tmp_path, capsys).run("keys", "list")[2]


def test_the_audit_log_is_verified_and_exported(service: Service, shell: Shell) -> None:
    prefix = shell.json("keys", "create", "audited")["prefix"]
    code, out, _ = shell.run("audit", "verify")
    assert (code, "is whole" in out) == (0, True)
    rows = [json.loads(line) for line in shell.run("audit", "export")[1].splitlines()]
    assert (rows[-1]["action"], rows[-1]["object"], rows[-1]["actor"]) == ("key.created", prefix, "operator")
    assert shell.json("audit", "verify", "--head", rows[-1]["hash"])["rows"] == len(rows)
    with service.parts.engine.begin() as connection:
        connection.exec_driver_sql("DROP TRIGGER audit_log_no_update")
        connection.exec_driver_sql("UPDATE audit_log SET actor = 'nobody' WHERE seq = 1")
    code, out, _ = shell.run("audit", "verify")
    assert (code, "row 1 was changed" in out) == (1, True)
