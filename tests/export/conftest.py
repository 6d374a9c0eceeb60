"""Shared fixtures."""

from __future__ import annotations

import pytest

from optimum_htp import HTPExporter
from tests.support.publisher import write_model


@pytest.fixture
def export(tmp_path):
    """Export with the cache of one test."""

    def run(*args, **kwargs):
        kwargs.setdefault("cache_dir", tmp_path / "cache")
        kwargs.setdefault("do_validation", False)
        return HTPExporter().export(*args, **kwargs)

    return run


@pytest.fixture
def bert(published, hub):
    published("bert")
    return hub.repos["tiny/bert"]


@pytest.fixture
def old_and_new(tmp_path):
    """An output folder with an old model and a foreign file, and a new model to publish there."""
    output = write_model(tmp_path / "work" / "out", "old")
    (output / "notes.txt").write_text("mine")
    return output, write_model(tmp_path / "new", "new")
