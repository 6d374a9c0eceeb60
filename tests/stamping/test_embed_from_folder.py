"""`htp embed --from FOLDER`: for a model of a Hub, the files in the folder must be those of its commit."""

from __future__ import annotations

import logging
import shutil

import pytest

from optimum_htp import embed_files, inject_hub_metadata, verify_metadata
from optimum_htp.errors import MismatchError
from optimum_htp.hubs import HubAccess
from optimum_htp.metadata import read_record
from optimum_htp.stamping.verify import Status
from tests.conftest import optimum_cli


@pytest.fixture
def stamped(plain_bert, access):
    """A file of a Hub's model without embedded files."""
    inject_hub_metadata(plain_bert, "tiny/bert", embed="none", access=access)
    return plain_bert


@pytest.fixture
def folder(model_folder, tmp_path):
    """The files of the commit, for changes."""
    return shutil.copytree(model_folder("bert"), tmp_path / "folder")


def test_files_of_the_commit_are_embedded(stamped, folder, access):
    assert "config.json" in [file.name for file in embed_files(stamped, folder, access=access)]
    assert verify_metadata(stamped, access).status is Status.OK


@pytest.mark.parametrize("change", ["other", "further"])
def test_files_that_are_not_the_commits_are_refused(stamped, folder, access, change):
    name = "tokenizer_config.json" if change == "other" else "preprocessor_config.json"
    (folder / name).write_text('{"model_max_length": 7}')
    before = stamped.read_bytes()
    with pytest.raises(MismatchError, match=rf"^{name} in .* differs from tiny/bert@.* htp inject"):
        embed_files(stamped, folder, access=access)
    assert stamped.read_bytes() == before


def test_command_reports_the_result(stamped, folder, empty_home):
    (folder / "tokenizer_config.json").write_text("{}")
    done = optimum_cli("htp", "embed", stamped, "--from", folder, check=False, **empty_home)
    assert done.returncode == 1
    assert "tokenizer_config.json in" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("why", ["offline", "no answer", "no such model"])
def test_unchecked_files_are_embedded_with_a_warning(stamped, folder, access, hub, caplog, why):
    (folder / "tokenizer_config.json").write_text("{}")
    if why == "offline":
        access = HubAccess(cache_dir=access.cache_dir, local_files_only=True)
    elif why == "no answer":
        hub.status = 503
    else:
        del hub.repos["tiny/bert"]
    with caplog.at_level(logging.WARNING, logger="optimum_htp"):
        assert embed_files(stamped, folder, access=access)
    assert "was not checked" in caplog.text
    assert read_record(stamped).embedded_files


def test_any_files_of_a_local_model_are_embedded(plain_bert, folder, access, hub):
    inject_hub_metadata(plain_bert, folder, embed="none", access=access)
    (folder / "tokenizer_config.json").write_text("{}")
    with hub.recorded() as requests:
        assert embed_files(plain_bert, folder, access=access)
    assert requests == []
