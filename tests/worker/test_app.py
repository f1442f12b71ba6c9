from __future__ import annotations

import os
import subprocess
import sys


def test_a_worker_without_a_broker_says_so_and_ends() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("REDEEM_")}
    program = [sys.executable, "-m", "celery", "-A", "worker.app", "worker"]
    ended = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode != 0
    assert "REDEEM_BROKER_URL is not set" in ended.stderr


def test_a_job_needs_no_web_framework() -> None:
    """Every job starts a process, which would import it anew."""
    program = "import sys, worker.heartbeat; print(sorted({'fastapi', 'starlette'} & sys.modules.keys()))"
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "[]\n"
