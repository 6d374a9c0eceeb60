"""Reading an output folder during and after the replacement of its model."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from optimum_htp.errors import MissingSiblingError, ModelBeingReplacedError
from optimum_htp.onnxfile.replace_files import SWITCH, Watch, read_whole, replacement_is_pending
from tests.support.publisher import PARTS, publish_copy, versions
from tests.support.publishing import FIRST_OF_SWITCH, ended, posix, publisher, settle


@posix
def test_folder_of_a_half_replaced_model_is_not_taken_for_two_models(old_and_new):
    from optimum_htp.loading.named import stamped_file

    output, new = old_and_new
    for folder in (output, new):
        (folder / "config.json").unlink()
    assert stamped_file(output, {}) == output / PARTS[0]
    code, errors = ended(publisher(new, output, "--at", FIRST_OF_SWITCH, "kill"))
    assert code == -signal.SIGKILL, errors
    assert replacement_is_pending(output)
    with pytest.raises(ModelBeingReplacedError):
        stamped_file(output, {})
    settle(output)
    assert stamped_file(output, {}) == output / PARTS[0]


def test_reader_restarts_after_a_replacement_during_reading(old_and_new):
    output, new = old_and_new
    rounds = []

    def read(watch):
        watch.see(output / PARTS[0])
        found = {(output / PARTS[0]).read_bytes()}
        if not rounds:
            publish_copy(new, output)
        rounds.append(found)
        return versions(output, watch=watch)

    assert read_whole(output, read) == {"new"}
    assert len(rounds) == 2


def test_reader_waits_for_the_end_of_a_switch(old_and_new):
    output, _ = old_and_new
    (output / SWITCH).mkdir()
    threading.Timer(0.3, (output / SWITCH).rmdir).start()
    started = time.monotonic()
    assert read_whole(output, lambda watch: versions(output, watch=watch)) == {"old"}
    assert time.monotonic() - started >= 0.25


def test_error_of_a_reader_is_raised_without_a_replacement(tmp_path):
    def read(watch: Watch) -> None:
        calls.append(watch)
        raise MissingSiblingError("encoder_model.onnx is missing")

    calls: list[Watch] = []
    with pytest.raises(MissingSiblingError, match="is missing"):
        read_whole(tmp_path, read)
    assert len(calls) == 1


@posix
def test_half_replaced_model_does_not_load_and_names_the_remedy(old_and_new):
    from optimum.onnxruntime import ORTModelForSeq2SeqLM
    from transformers import T5Config

    output, new = old_and_new
    ended(publisher(new, output, "--at", FIRST_OF_SWITCH + 2, "kill"))
    assert versions(output) == {"old", "new"}
    with pytest.raises(ModelBeingReplacedError, match=r"again in a moment.*export again into"):
        ORTModelForSeq2SeqLM.from_pretrained(output / "encoder_model.onnx", config=T5Config())
    settle(output)
    assert versions(output) == {"new"}
