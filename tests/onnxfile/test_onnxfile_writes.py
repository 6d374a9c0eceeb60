"""Writes of ONNX files: complete, readable, and to regular files only."""

from __future__ import annotations

import os
import resource
import signal
import stat
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from onnx import GraphProto, ModelProto

from optimum_htp.errors import (
    FileChangedError,
    InvalidOnnxFileError,
    MetadataError,
    OnnxFileNotFoundError,
    OnnxWriteError,
)
from optimum_htp.onnxfile import read_header, read_metadata, rewrite_model
from optimum_htp.onnxfile.reader import header_of, opened


@pytest.mark.slow
def test_unrolled_mixture_of_experts_is_tagged_again_and_stripped(tmp_path):
    from optimum_htp import strip_metadata
    from optimum_htp.hierarchy.tags import read_modules
    from optimum_htp.stamping.tag import tag_file

    path = tmp_path / "moe.onnx"
    model = ModelProto(graph=GraphProto(name="g"), ir_version=10)
    for index in range(150_000):
        module = f"/model/layers.{index // 2000}/mlp/experts.{index // 10 % 200}/up_proj"
        model.graph.node.add(
            op_type="Relu", input=[f"{index}"], output=[f"{index + 1}"], name=f"{module}/Relu_{index}"
        )
    path.write_bytes(model.SerializeToString())
    before = path.read_bytes()
    tag_file(path)
    once = path.read_bytes()
    tag_file(path)
    assert path.read_bytes() == once
    assert len(read_modules(path)[0].nodes) == 150_000
    strip_metadata(path)
    assert path.stat().st_size == len(before)


def test_open_file_can_be_read_repeatedly(tmp_path):
    path = tmp_path / "long.onnx"
    path.write_bytes(ModelProto(graph=GraphProto(name="g"), doc_string="d" * (30 << 20)).SerializeToString())
    with opened(path) as window:
        for _ in range(4):
            assert len(header_of(window).doc_string) == 30 << 20


def test_properties_that_no_reader_would_take_together_are_not_written(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(ModelProto(graph=GraphProto(name="g")).SerializeToString())
    for index in range(9):
        rewrite_model(path, metadata={f"k{index}": "v" * (7 << 20)})
    with pytest.raises(MetadataError, match="64 MiB can be read"):
        rewrite_model(path, metadata={"k9": "v" * (7 << 20)})
    assert len(read_metadata(path)) == 9
    rewrite_model(path, metadata={"k9": "v" * (7 << 20)}, drop=lambda key: key == "k0")


def test_paths_that_are_not_files_are_rejected_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.onnx")
    for path in (tmp_path, tmp_path / "pipe.onnx"):
        with pytest.raises(InvalidOnnxFileError):
            read_header(path)
    with pytest.raises(OnnxFileNotFoundError):
        read_header(tmp_path / "file.onnx" / "below.onnx")


def test_write_that_fails_half_way_is_named_and_the_old_file_stays(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(ModelProto(graph=GraphProto(name="g")).SerializeToString())
    before = path.read_bytes()
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.raises(OnnxWriteError, match=r"File too large.*Nothing was changed"):
            rewrite_model(path, metadata={"k": "v" * 10_000})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    with pytest.raises(OnnxWriteError, match=r"No such file or directory"):
        rewrite_model(path, metadata={"k": "v"}, output=tmp_path / "missing" / "m.onnx")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_separate_output_keeps_the_file_and_copies_its_mode(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(ModelProto(graph=GraphProto(name="g")).SerializeToString())
    path.chmod(0o640)
    before = path.read_bytes()
    elsewhere = "/dev/shm" if os.path.isdir("/dev/shm") else str(tmp_path)  # noqa: PTH112
    output = os.path.join(elsewhere, f"optimum-htp-{os.getpid()}.onnx")  # noqa: PTH118
    try:
        rewrite_model(path, metadata={"k": "v"}, output=output)
        assert read_metadata(output) == {"k": "v"}
        assert stat.S_IMODE(os.stat(output).st_mode) == 0o640  # noqa: PTH116
    finally:
        os.unlink(output)  # noqa: PTH108
    assert path.read_bytes() == before


def test_parallel_writers_leave_a_complete_file(tmp_path):
    path = tmp_path / "model.onnx"
    model = ModelProto(graph=GraphProto(name="g"))
    model.graph.initializer.add(name="w", data_type=1, dims=[1 << 20]).raw_data = os.urandom(4 << 20)
    path.write_bytes(model.SerializeToString())

    def write(number):
        written = 0
        for _ in range(10):
            with suppress(FileChangedError):  # another process was faster: its change is kept
                rewrite_model(path, metadata={"k": "v" * number}, texts={"producer_name": "p" * (number * 7)})
                written += 1
        return written

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(write, range(1, 9)))
    assert ModelProto.FromString(path.read_bytes()).graph == model.graph
    assert list(tmp_path.iterdir()) == [path]


def test_property_that_no_reader_would_take_is_not_written(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(ModelProto(graph=GraphProto(name="g")).SerializeToString())
    with pytest.raises(MetadataError, match="'huge'"):
        rewrite_model(path, metadata={"huge": "v" * (9 << 20)})
