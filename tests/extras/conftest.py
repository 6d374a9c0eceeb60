"""Shared fixtures."""

from __future__ import annotations

import pytest

from optimum_htp.hubs import HubAccess
from tests.support.pushes import READER, WRITER


@pytest.fixture
def org(hub):
    hub.writers = {WRITER: {"me"}}
    hub.tokens = {WRITER: set(), READER: set()}
    hub.stored = {}
    yield hub
    for name in [name for name in hub.repos if name.startswith("me/")]:
        del hub.repos[name]


@pytest.fixture
def writer(tmp_path):
    return HubAccess(token=WRITER, cache_dir=tmp_path / "cache")


@pytest.fixture
def bert(exported):
    return exported("bert") / "model.onnx"
