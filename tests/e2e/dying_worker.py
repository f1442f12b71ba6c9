"""The real worker, but for one thing: its process dies by `kill -9` where a test wants it to.

Each line of the file `deaths` in the server's folder names a point, at which the process that runs the job dies once.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator, Sequence
from typing import Any

from obstore.store import ObjectStore

from redeem.contract import Outcome, Stage
from redeem.report import Artifact
from tests.e2e.deaths import PARENT, POISON
from worker import lease
from worker.app import app, settings
from worker.lease import Lease, Order

app.conf.include = [__name__]  # what the process of a job imports; of itself it is the modules that have tasks

order, stage, keep, succeed = lease.order, lease.stage, lease.keep, lease.succeed


def _reached(point: str) -> None:
    wanted = settings.data / "deaths"
    lines = wanted.read_text().splitlines() if wanted.exists() else []
    for line in lines:
        if line.removesuffix(PARENT) == point:
            wanted.write_text("".join(f"{other}\n" for other in lines if other != line))
            if line != point:
                os.kill(os.getppid(), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)


def _order(held: Lease) -> Order:
    wanted = order(held)
    if wanted.seed == POISON:
        os.kill(os.getpid(), signal.SIGKILL)
    return wanted


@contextlib.contextmanager
def _stage(held: Lease, name: Stage) -> Iterator[None]:
    with stage(held, name):
        _reached(f"{name} has begun")
        yield
        _reached(f"{name} is done")


def _keep(held: Lease, artifact: Artifact) -> str | None:
    _reached(f"{artifact.name} is written and not yet named")
    superseded = keep(held, artifact)
    _reached(f"{artifact.name} is named")
    return superseded


def _succeed(held: Lease, store: ObjectStore, verdict: Outcome, artifacts: Sequence[Artifact], **measured: Any) -> None:
    _reached("the end is not yet written")
    succeed(held, store, verdict, artifacts, **measured)
    _reached("the end is written")


lease.order, lease.stage, lease.keep, lease.succeed = _order, _stage, _keep, _succeed
