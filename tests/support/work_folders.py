"""A work folder of its own for every test, as a fixture that a conftest imports."""

import pytest


@pytest.fixture(autouse=True)
def work(tmp_path, monkeypatch):
    folder = tmp_path / "work"
    monkeypatch.setenv("TMAC_HOME", str(folder))
    monkeypatch.delenv("NO_COLOR", raising=False)
    return folder
