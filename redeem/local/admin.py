"""Administration of the database: by a process of the service, as the command line knows no database itself."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from redeem.errors import RedeemError, ServeError
from redeem.settings import admin_environment


def administer(command: str, data: Path | None = None, **arguments: Any) -> dict[str, Any]:
    """Run a command of `service.admin` on the database of REDEEM_DATABASE_URL, or the one in the data folder (`data` or
    REDEEM_DATA). Gives its answer; raises RedeemError with the service's own code and hint."""
    if importlib.util.find_spec("sqlalchemy") is None:
        raise ServeError(
            "extras_missing",
            "This installation cannot administer a server: the extra service is not installed.",
            "pip install 'redeem[service]', or run the command where the server runs.",
        )
    finished = subprocess.run(  # noqa: S603  our own argv
        [sys.executable, "-m", "service.admin", command],
        input=json.dumps(arguments),  # not as arguments: every user of a machine sees those
        env=admin_environment(data),
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        answer: dict[str, Any] = json.loads(finished.stdout)
    except ValueError as error:
        last = (finished.stderr.strip().splitlines() or ["no message"])[-1]
        raise RedeemError(
            "admin_failed", f"`{command}` ended with exit code {finished.returncode}: {last}", "Check the settings."
        ) from error
    if "error" in answer:
        raise RedeemError(**answer["error"])
    return answer
