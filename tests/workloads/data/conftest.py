"""Keeps the tests of data sources away from the user's data and cache folders."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns an empty folder that `$PRUNEYARD_DATA` names; the cache is another folder next to it."""
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setenv("PRUNEYARD_DATA", str(folder))
    monkeypatch.setenv("PRUNEYARD_CACHE", str(tmp_path / "cache"))
    return folder
