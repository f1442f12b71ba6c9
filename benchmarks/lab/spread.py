"""The lab's cells as Celery tasks, so that a grid spreads over many machines.

On each machine, with the data folder at hand:

    export REDEEM_LAB_DATA=…
    celery -A benchmarks.lab.spread --broker redis://… --result-backend redis://… worker --pool solo

and on one of them `python -m benchmarks.lab run --broker redis://… …`, which writes the records as they come back. A
cell that nobody has answered when the command is interrupted is run again the next time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from celery import Celery
from celery.result import ResultSet

from benchmarks.lab import cells

app = Celery("redeem-lab")
app.conf.update(task_acks_late=True, worker_prefetch_multiplier=1, task_serializer="json", result_expires=86_400)
CACHE = Path(__file__).parent.parent / "zoo"  # or REDEEM_LAB_CACHE


@app.task(name="redeem.lab.cell")
def measure(told: dict[str, Any], command: str) -> dict[str, Any]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    data, cache = Path(os.environ["REDEEM_LAB_DATA"]), Path(os.environ.get("REDEEM_LAB_CACHE", CACHE))
    return cells.run(cells.Cell.of_json(told), data, cache, device, command)


def spread(wanted: list[cells.Cell], broker: str, command: str) -> Iterator[tuple[cells.Cell, dict[str, Any]]]:
    """Send the cells to the workers of `broker`, and give each with its record as it comes back."""
    app.conf.update(broker_url=broker, result_backend=broker)
    sent = {}
    for cell in wanted:
        result = measure.delay(cell.as_json(), command)
        sent[result.id] = (cell, result)
    results = ResultSet([result for _, result in sent.values()], app=app)
    for identity, answer in results.iter_native():
        if answer["status"] != "SUCCESS":
            raise RuntimeError(f"{sent[identity][0].name} failed on its worker: {answer['result']}")
        yield sent[identity][0], answer["result"]
