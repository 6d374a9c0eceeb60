"""Shared fixtures."""

from __future__ import annotations

import pytest

from tests.support.installed import Environment


@pytest.fixture
def taken_apart(wheel, tmp_path):
    environment = Environment(tmp_path / "venv")
    environment.install(wheel)
    return environment
