"""The sessions of a model of several files open in parallel, with the requested arguments."""

from __future__ import annotations

import gc
import logging
import os
import shutil
import sys
import threading
import weakref
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from optimum.onnxruntime import ORTModelForSeq2SeqLM, ORTStableDiffusionPipeline

from optimum_htp.errors import InvalidOnnxFileError
from optimum_htp.loading.in_parallel import SessionOpener
from optimum_htp.onnxfile import rewrite_model
from optimum_htp.profiling import can_map_weights
from tests.conftest import run

CPU = ["CPUExecutionProvider"]
LOGGER = "optimum_htp.loading.in_parallel"

several_cores = pytest.mark.skipif(
    not can_map_weights() or len(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(2)) < 2,
    reason="one core makes one session at a time, and what is not mapped is made as ever",
)


@pytest.fixture
def t5(exported, tmp_path):
    return Path(shutil.copytree(exported("t5"), tmp_path / "t5"))


@pytest.fixture
def opened_in_parallel(caplog):
    """Return the names of the files opened in parallel, by load."""
    caplog.set_level(logging.DEBUG, LOGGER)

    def loads():
        texts = [record.getMessage() for record in caplog.records if record.name == LOGGER]
        caplog.clear()
        return [sorted(Path(path).name for path in text.partition(": ")[2].split(", ")) for text in texts]

    return loads


def threads():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("optimum_htp")]


def generated(model):
    ids = torch.tensor([[5, 6, 7, 8]])
    return model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=6).tolist()


@several_cores
def test_sessions_open_the_files_of_the_class(t5, cache, opened_in_parallel, monkeypatch):
    load = ORTModelForSeq2SeqLM.from_pretrained
    merged = load(t5 / "encoder_model.onnx", cache_dir=cache)
    assert opened_in_parallel() == [["decoder_model_merged.onnx", "encoder_model.onnx"]]
    apart = load(t5 / "encoder_model.onnx", cache_dir=cache, use_merged=False)
    assert opened_in_parallel() == [["decoder_model.onnx", "decoder_with_past_model.onnx", "encoder_model.onnx"]]
    slow = load(t5 / "encoder_model.onnx", cache_dir=cache, use_merged=False, use_cache=False)
    assert opened_in_parallel() == [["decoder_model.onnx", "encoder_model.onnx"]]
    for model, decoder in ((merged, "decoder_model_merged"), (slow, "decoder_model")):
        sessions = [model.encoder.session, model.decoder.session]
        assert [Path(session._model_path).stem for session in sessions] == ["encoder_model", decoder]
        assert [type(session) for session in sessions] == [onnxruntime.InferenceSession] * 2
    monkeypatch.setenv("OPTIMUM_HTP_MMAP", "0")
    one_by_one = load(t5 / "encoder_model.onnx", cache_dir=cache)
    assert opened_in_parallel() == []
    assert generated(merged) == generated(apart) == generated(slow) == generated(one_by_one)
    assert threads() == []


@several_cores
@pytest.mark.slow
def test_parts_of_a_pipeline_are_opened_in_parallel(model_folder, hub, cache, tmp_path, opened_in_parallel):
    from optimum_htp import HTPExporter

    hub.add("tiny/pipeline", model_folder("stable_diffusion"), pipeline_tag="text-to-image", library_name="diffusers")
    HTPExporter().export("tiny/pipeline", tmp_path)
    opened_in_parallel()
    pipeline = ORTStableDiffusionPipeline.from_pretrained(tmp_path, cache_dir=cache)
    assert opened_in_parallel() == [["model.onnx"] * 4]
    parts = ("unet", "text_encoder", "vae_encoder", "vae_decoder")
    opened = {part: getattr(pipeline, part).session for part in parts}
    assert [Path(opened[part]._model_path).parent.name for part in parts] == list(parts)
    given = {f"{part}_session": opened[part] for part in parts[:3]}
    again = ORTStableDiffusionPipeline.from_pretrained(tmp_path, cache_dir=cache, **given)
    assert opened_in_parallel() == []  # a single file is opened alone
    assert again.unet.session is opened["unet"]


@several_cores
@pytest.mark.parametrize("broken", ["encoder_model.onnx", "decoder_model_merged.onnx"])
def test_invalid_file_is_reported(t5, cache, opened_in_parallel, broken):
    model = onnx.load(t5 / broken)
    model.graph.node[0].op_type = "NoSuchOperator"
    record = {entry.key: entry.value for entry in model.metadata_props}
    onnx.save(model, t5 / broken)
    rewrite_model(t5 / broken, metadata=record)
    with pytest.raises(InvalidOnnxFileError, match=broken):
        ORTModelForSeq2SeqLM.from_pretrained(t5 / "encoder_model.onnx", cache_dir=cache)
    assert opened_in_parallel()
    assert threads() == []


@several_cores
def test_session_with_other_arguments_is_created_with_them(t5):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    encoder, decoder = t5 / "encoder_model.onnx", t5 / "decoder_model.onnx"
    with SessionOpener([encoder, decoder]) as opener:
        first = opener.open(encoder, providers=CPU)
        other = opener.open(decoder, options, CPU)
        again = opener.open(encoder, providers=CPU)
    assert first.get_session_options().intra_op_num_threads == 0
    assert other.get_session_options().intra_op_num_threads == 1
    assert again is not first


@several_cores
def test_each_file_is_opened_once_with_any_form_of_its_path(t5, opened_in_parallel):
    encoder, decoder, other = (
        t5 / f"{name}.onnx" for name in ("encoder_model", "decoder_model", "decoder_model_merged")
    )
    with SessionOpener([encoder, encoder]) as opener:
        opener.open(encoder, providers=CPU)
        opener.expect(decoder)
        opener.expect(other)
        opener.open(decoder, providers=CPU)
        opener.open(other, providers=CPU)
    assert opened_in_parallel() == [["decoder_model.onnx", "decoder_model_merged.onnx"]]


@several_cores
def test_sessions_of_a_failed_load_are_freed(t5):
    (t5 / "decoder_model.onnx").write_bytes(b"no model")

    def load():
        with SessionOpener([t5 / "encoder_model.onnx", t5 / "decoder_model.onnx"]) as opener:
            session = opener.open(t5 / "encoder_model.onnx", providers=CPU)
            kept.append(weakref.ref(session))
            opener.open(t5 / "decoder_model.onnx", providers=CPU)

    kept = []
    gc.collect()
    gc.disable()
    try:
        with pytest.raises(InvalidOnnxFileError, match="decoder_model"):
            load()
        assert kept[0]() is None  # at once: the next try can need the memory
    finally:
        gc.enable()


DENORMAL = """
import sys
import numpy as np
import onnxruntime
from optimum_htp.loading.in_parallel import SessionOpener
options = onnxruntime.SessionOptions()
options.add_session_config_entry("session.set_denormal_as_zero", "1")
with SessionOpener(sys.argv[1:]) as opener:
    for path in sys.argv[1:]:
        opener.open(path, options, ["CPUExecutionProvider"])
print(bool((np.full(4, 1e-38, np.float32) * np.float32(0.1) == 0).all()))
"""


@several_cores
def test_denormals_as_zero_applies_to_the_calling_thread(t5):
    """ONNX Runtime changes the mode of the thread that creates the first session."""
    names = [t5 / "encoder_model.onnx", t5 / "decoder_model.onnx"]
    assert run(sys.executable, "-c", DENORMAL, *names).stdout.split() == ["True"]


AT_EXIT = """
import atexit, sys
from optimum.onnxruntime import ORTModelForSeq2SeqLM
def load():
    print(type(ORTModelForSeq2SeqLM.from_pretrained(sys.argv[1], local_files_only=True)).__name__)
atexit.register(load)
"""


@several_cores
def test_load_works_if_no_thread_can_start(t5):
    done = run(sys.executable, "-c", AT_EXIT, t5 / "encoder_model.onnx")
    assert done.stdout.split() == ["ORTModelForSeq2SeqLM"], done.stderr


@pytest.mark.parametrize("arguments", [{"providers": [["CPUExecutionProvider", {}]]}, {"providers": ()}, {}])
def test_unusual_arguments_are_passed_to_onnxruntime(t5, arguments):
    file = t5 / "encoder_model.onnx"
    with SessionOpener([file, t5 / "decoder_model.onnx"]) as opener:
        session = opener.open(file, **arguments)
    assert session.get_providers() == onnxruntime.InferenceSession(file, **arguments).get_providers()


def test_invalid_session_options_are_passed_to_onnxruntime(t5):
    """It rejects them, or, in earlier versions, ignores them."""
    file = t5 / "encoder_model.onnx"

    def outcome(make):
        try:
            return type(make(file, sess_options={}, providers=CPU))
        except Exception as error:  # noqa: BLE001 - which kind it is, is what is asked
            return type(error), str(error)

    with SessionOpener([file]) as opener:
        assert outcome(opener.open) == outcome(onnxruntime.InferenceSession)


def test_sessions_that_write_files_are_opened_one_after_the_other(t5, tmp_path, opened_in_parallel):
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    names = ("encoder_model.onnx", "decoder_model.onnx")
    with SessionOpener(t5 / name for name in names) as opener:
        for name in names:
            session = opener.open(t5 / name, sess_options=options, providers=CPU)
            written = onnxruntime.InferenceSession(tmp_path / "optimized.onnx", providers=CPU)
            assert [value.name for value in written.get_inputs()] == [value.name for value in session.get_inputs()]
    assert opened_in_parallel() == []


@several_cores
def test_loads_in_many_threads_use_their_own_files(t5, tmp_path, cache):
    """Two exports with different weights, sixteen loads each."""
    other = Path(shutil.copytree(t5, tmp_path / "other"))
    for file in other.glob("*.onnx"):
        model = onnx.load(file)
        for graph in (model.graph, *(a.g for node in model.graph.node for a in node.attribute if a.HasField("g"))):
            for weight in graph.initializer:
                if weight.data_type == onnx.TensorProto.FLOAT and len(weight.dims) == 2:
                    values = onnx.numpy_helper.to_array(weight)[::-1].copy()
                    weight.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(values), weight.name))
        onnx.save(model, file)
    folders, found, failed = (t5, other), {t5: [], other: []}, []

    def run(index):
        folder = folders[index % 2]
        try:
            for _ in range(4):
                model = ORTModelForSeq2SeqLM.from_pretrained(folder / "encoder_model.onnx", cache_dir=cache)
                paths = {Path(part.session._model_path).parent for part in (model.encoder, model.decoder)}
                found[folder].append((paths == {folder}, tuple(map(tuple, generated(model)))))
        except BaseException as error:
            failed.append(error)
            raise

    running = [threading.Thread(target=run, args=(index,)) for index in range(8)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert failed == []
    assert len(found[t5]) == len(found[other]) == 16
    assert set(found[t5]) != set(found[other])
    for results in found.values():
        assert len(set(results)) == 1
        assert results[0][0]
    assert threads() == []
