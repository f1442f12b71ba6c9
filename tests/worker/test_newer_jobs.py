"""What a worker says of jobs that an API of a newer release has taken."""

from __future__ import annotations

from typing import Any

import pytest

from service import records
from service.tables import JobRow
from tests.worker.conftest import Workplace
from worker import pipeline


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"purifier": {"name": "tomorrows", "options": {}}}, "has no tomorrows"),
        ({"purifier": {"name": "sage", "options": {"of_tomorrow": 1}}}, "of_tomorrow"),
        ({"detectors": [{"name": "tomorrows", "options": {}}]}, "has no tomorrows"),
        ({"detectors": [{"name": "strip", "options": {"of_tomorrow": 1}}]}, "of_tomorrow"),
        ({"policy": {"of_tomorrow": 0.5}}, "of_tomorrow of Policy"),
    ],
)
def test_what_this_release_does_not_know_is_unsupported(
    workplace: Workplace, values: dict[str, Any], says: str
) -> None:
    job = workplace.job(workplace.model(b"never read"), workplace.bundle(b"nor this"))
    with workplace.sessions.begin() as session:
        for name, value in values.items():
            setattr(records.find(session, JobRow, job), name, value)
    pipeline.run(job, workplace.settings)
    row = workplace.row(job)
    assert (row.state, row.error_code) == ("failed", "unsupported")
    assert says in (row.error_detail or "")
    assert "upgrade the workers" in (row.error_hint or "")
