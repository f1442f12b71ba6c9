from __future__ import annotations

from pathlib import Path

import pytest

from redeem.settings import child_environment, read_settings


def test_empty_variables_count_as_unset() -> None:
    settings = read_settings({"REDEEM_SERVER": "", "REDEEM_API_KEY": "", "REDEEM_DATA": ""})
    assert (settings.server, settings.api_key, settings.data) == (None, None, Path("redeem-data"))


def test_children_do_not_see_the_users_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDEEM_API_KEY", "secret")
    monkeypatch.setenv("REDEEM_MAX_ATTEMPTS", "7")
    environment = child_environment(REDEEM_DATA="here")
    assert "secret" not in environment.values()
    assert (environment["REDEEM_MAX_ATTEMPTS"], environment["REDEEM_DATA"]) == ("7", "here")
