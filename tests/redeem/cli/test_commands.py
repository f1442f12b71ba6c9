"""Commands against a real server, through the entry point: what they print, and what they exit with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from redeem.cli import main
from redeem.cli.doctor import extras, storage
from redeem.client import Client
from redeem.contract import JobState, Outcome

Run = Callable[..., tuple[int, str, str]]
pytestmark = pytest.mark.usefixtures("environment")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """A command line's exit code, stdout and stderr."""

    def ran(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert isinstance(exit_.value.code, int)
        return exit_.value.code, captured.out, captured.err

    return ran


def test_a_job_file_is_submitted_listed_watched_and_cancelled(run: Run, files: Path, client: Client) -> None:
    code, out, err = run("submit", files / "job.json")
    job = UUID(out.strip())
    assert (code, client.get(job).seed) == (0, 7)
    assert "uploading 2 files" in err
    assert str(job) in run("jobs")[1]
    assert "queued" in run("status", job)[1]
    assert run("cancel", job)[0] == 0
    code, out, err = run("watch", job)
    assert (code, "cancelled" in out, "queued" in err) == (2, True, True)
    code, out, err = run("retry", job)
    assert (code, "queued" in out) == (0, True)
    assert run("retry", job)[0] == 2
    assert run("cancel", job)[0] == 0


@pytest.mark.parametrize(
    ("verdict", "state", "expected"),
    [
        (Outcome.passed, JobState.succeeded, 0),
        (Outcome.failed, JobState.succeeded, 1),
        (Outcome.inconclusive, JobState.succeeded, 2),
        (None, JobState.failed, 2),
        (None, JobState.cancelled, 2),
    ],
)
def test_watch_exits_with_the_verdict(
    run: Run, finish: Any, verdict: Outcome | None, state: JobState, expected: int
) -> None:
    code, out, _ = run("watch", finish(verdict, state).id)
    assert code == expected
    assert ("The weights are bad. [bad_weights]" in out) == (state is JobState.failed)


def test_json_is_one_document_on_stdout(run: Run, files: Path, finish: Any) -> None:
    job = finish()
    assert json.loads(run("submit", files / "job.json", "--json")[1])["state"] == "queued"
    assert json.loads(run("status", job.id, "--json")[1])["verdict"] == "pass"
    assert job.id in [UUID(listed["id"]) for listed in json.loads(run("jobs", "--json")[1])]
    assert json.loads(run("report", job.id, "--json")[1])["schema_version"] == "redeem.report/1"
    lines = [json.loads(line) for line in run("watch", job.id, "--json")[1].splitlines()]
    assert [line.get("seq") for line in lines] == [1, 2, None]


def test_a_report_shows_before_and_after_and_what_was_not_measured(run: Run, finish: Any, tmp_path: Path) -> None:
    job = finish(Outcome.failed)
    code, out, _ = run("report", job.id, "--out", tmp_path / "r.json", "--html", tmp_path / "r.html")
    assert code == 0
    for shown in ("81.25%", "80.00%", "not measured", "verdict: fail", "MPA fell by 0.0125", "purify 1.5"):
        assert shown in out
    assert json.loads((tmp_path / "r.json").read_text())["verdict"]["outcome"] == "fail"
    assert (tmp_path / "r.html").exists()


def test_weights_are_downloaded(run: Run, finish: Any, tmp_path: Path) -> None:
    code, out, _ = run("download", finish().id, "--out", tmp_path / "w.safetensors", "--json")
    assert (code, json.loads(out)["size"]) == (0, (tmp_path / "w.safetensors").stat().st_size)


def test_errors_have_code_and_hint_and_exit_2(run: Run) -> None:
    code, out, err = run("status", uuid4())
    assert (code, out) == (2, "")
    assert "[not_found]" in err
    code, out, err = run("status", uuid4(), "--json")
    assert (code, out) == (2, "")
    assert json.loads(err)["code"] == "not_found"


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["status", "no-uuid"],
        ["jobs", "--limit", "0"],
        ["purify", "s", "--clean", "c"],
        ["purify", "s", "--clean", "c", "--architecture", "paper/resnet18", "--target", "0"],
        ["purify", "s", "--clean", "c", "--architecture", "paper/resnet18", "--mean", "0,0,0"],
        ["purify", "s", "--clean", "c", "--architecture", "no-such-form"],
        ["purify", "s", "--clean", "c", "--architecture", "paper/resnet18", "--size", "wide"],
        ["purify", "s", "--clean", "c", "--architecture", "paper/resnet18", "--size", "1,2,3"],
        ["purify", "s", "--clean", "c", "--architecture", "paper/resnet18", "--option", "beta"],
    ],
)
def test_wrong_usage_exits_4(run: Run, arguments: list[str]) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (4, "")
    assert "Usage" in err or "Error" in err


def test_a_bad_job_file_names_every_mistake(run: Run, files: Path) -> None:
    job = json.loads((files / "job.json").read_text())
    (files / "job.json").write_text(json.dumps(job | {"seed": -1, "colour": "red"}))
    code, _, err = run("submit", files / "job.json")
    assert code == 2
    for mistake in ("seed", "colour", "[bad_job_file]"):
        assert mistake in err


def test_a_missing_file_is_told_before_anything_is_sent(run: Run, files: Path) -> None:
    (files / "clean.zip").unlink()
    code, _, err = run("submit", files / "job.json")
    assert code == 2
    assert "clean.zip" in err
    assert "uploading" not in err


def test_the_local_key_does_not_leave_this_machine(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDEEM_SERVER", "http://192.0.2.1:8642")
    code, _, err = run("jobs")
    assert code == 2
    assert "There is no API key for http://192.0.2.1:8642." in err


def test_without_a_server_and_its_folder_the_error_says_what_to_do(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("REDEEM_DATA", str(tmp_path))
    code, _, err = run("jobs")
    assert code == 2
    assert "redeem serve" in err


def test_doctor_finds_what_is_wrong_and_how_to_mend_it(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("doctor", "--json", "--data", tmp_path)
    checks = {check["name"]: check for check in json.loads(out)}
    assert code == 0
    assert checks["valkey"]["state"] == "ok"
    assert any(name.startswith("gpu") for name in checks)
    assert checks["sandbox"]["state"] in {"ok", "note"}
    assert "limits (address space" in checks["sandbox"]["detail"]
    (tmp_path / "file").write_text("")
    folder, _ = storage(tmp_path / "file" / "data")
    assert folder.state == "bad"
    assert folder.mend


def test_doctor_tries_what_hosts_share(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("redeem.cli.doctor.worker_checks", lambda: [])  # has tests of its own
    monkeypatch.setenv("REDEEM_BROKER_URL", "redis://:secret@127.0.0.1:9/0")
    code, out, _ = run("doctor", "--data", tmp_path)
    assert code == 2
    assert "bad  broker: the broker does not answer" in out
    assert "Check REDEEM_BROKER_URL" in out
    assert "note database: " in out
    assert not {"valkey:", "secret"} & {*out.split()}
    assert list(tmp_path.iterdir()) == []


def test_one_of_several_hosts_needs_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("redeem.cli.doctor.missing_extras", lambda: ["worker"])
    assert (extras(shares=True).state, extras(shares=False).state) == ("note", "bad")
    monkeypatch.setattr("redeem.cli.doctor.missing_extras", lambda: ["service", "worker"])
    assert extras(shares=True).state == "bad"


def test_a_job_may_name_who_is_told_of_its_end(run: Run, files: Path, client: Client) -> None:
    url = "https://ci.example.com/hooks/redeem"
    jobs, said = [], []
    for _ in range(2):
        code, out, err = run("submit", files / "job.json", "--webhook", url)
        assert code == 0
        jobs.append(client.get(UUID(out.strip())))
        said.append("whsec_" in err)
    (known,) = [webhook for webhook in client.webhooks() if webhook.url == url]
    assert [job.webhook for job in jobs] == [known.id, known.id]  # the second time it is known
    assert said == [True, False]
    assert known.events == []
    assert run("submit", files / "job.json", "--webhook", "ci.example.com")[0] == 2
    code, _, err = run("submit", files / "job.json", "--webhook", "https://127.0.0.1/", "--json")
    assert (code, json.loads(err.splitlines()[-1])["code"]) == (2, "webhook_forbidden")


def test_what_is_deleted_is_gone(run: Run, finish: Any) -> None:
    job = finish()
    assert run("delete", "job", job.id) == (0, f"deleted job {job.id}\n", "")
    assert run("status", job.id)[0] == 2
    assert "[not_found]" in run("delete", "job", job.id)[2]
