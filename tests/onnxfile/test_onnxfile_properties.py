"""Any model, and any damage to one: our reader and writer against onnx's own parser."""

from __future__ import annotations

import itertools
import os
import resource
import signal
import stat
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import onnx
import pytest
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

from optimum_htp.errors import (
    FileChangedError,
    InvalidOnnxFileError,
    MetadataError,
    OnnxFileNotFoundError,
    OnnxWriteError,
)
from optimum_htp.onnxfile import external_files, read_graph, read_header, read_metadata, rewrite_model
from optimum_htp.onnxfile.contents import stored_tensors
from optimum_htp.onnxfile.graph import graph_of
from optimum_htp.onnxfile.reader import header_of, opened
from optimum_htp.onnxfile.writer import OpenModel

texts = st.text(max_size=12)
names = st.text("abcxyz/._0", max_size=10)
entries = st.dictionaries(texts, texts, max_size=4)


@st.composite
def nodes(draw, depth=2):
    node = NodeProto(name=draw(names), op_type=draw(names), domain=draw(names), doc_string=draw(texts))
    node.input.extend(draw(st.lists(names, max_size=3)))
    node.output.extend(draw(st.lists(names, max_size=2)))
    helper.set_model_props(node, draw(entries))
    if depth and draw(st.booleans()):
        attribute = node.attribute.add(name="branch")
        attribute.g.CopyFrom(draw(graphs(depth=depth - 1)))
        attribute.type = onnx.AttributeProto.GRAPH
    return node


@st.composite
def graphs(draw, depth=2):
    graph = GraphProto(name=draw(names))
    graph.node.extend(draw(st.lists(nodes(depth=depth), max_size=3)))
    for name in draw(st.lists(names, max_size=2)):
        tensor = TensorProto(name=name, data_type=1, dims=draw(st.lists(st.integers(0, 300), max_size=3)))
        tensor.raw_data = draw(st.binary(max_size=40))
        if draw(st.booleans()):
            tensor.external_data.add(key="location", value=draw(names))
        graph.initializer.append(tensor)
    for side in (graph.input, graph.output):
        for name in draw(st.lists(names, max_size=2)):
            dims = draw(st.lists(st.one_of(st.integers(0, 2**40), st.text("ab", min_size=1, max_size=3)), max_size=3))
            side.append(helper.make_tensor_value_info(name, draw(st.sampled_from([1, 6, 7, 9, 10])), dims))
    return graph


@st.composite
def models(draw):
    model = ModelProto(
        ir_version=draw(st.integers(-(2**63), 2**63 - 1)),
        producer_name=draw(texts),
        domain=draw(texts),
        doc_string=draw(texts),
    )
    model.graph.CopyFrom(draw(graphs()))
    for domain in draw(st.lists(names, max_size=3)):
        model.opset_import.add(domain=domain, version=draw(st.integers(-5, 2**40)))
    for key, value in draw(st.lists(st.tuples(texts, texts), max_size=4)):
        model.metadata_props.add(key=key, value=value)
    return model


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("properties") / "model.onnx"


every = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


def all_nodes(graph):
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            yield from all_nodes(attribute.g)


@every
@given(model=models())
def test_reading_agrees_with_onnx(model, path):
    path.write_bytes(model.SerializeToString())
    header, graph = read_header(path), read_graph(path)
    assert (header.ir_version, header.producer_name, header.domain, header.doc_string) == (
        model.ir_version,
        model.producer_name,
        model.domain,
        model.doc_string,
    )
    assert header.metadata == {entry.key: entry.value for entry in model.metadata_props}
    assert header.opsets == {one.domain: one.version for one in model.opset_import}
    assert [node.name for node in graph.nodes] == [node.name for node in all_nodes(model.graph)]
    assert [node.inputs for node in graph.nodes] == [tuple(node.input) for node in all_nodes(model.graph)]
    assert [(t.name, t.shape) for t in graph.initializers] == [
        (t.name, tuple(t.dims)) for t in model.graph.initializer
    ]
    weights = {t.name for t in model.graph.initializer}  # some files list them among the inputs too
    assert [spec.name for spec in graph.inputs] == [v.name for v in model.graph.input if v.name not in weights]
    for spec, value in zip(graph.outputs, model.graph.output, strict=True):
        shape = value.type.tensor_type.shape
        assert spec.shape == tuple(d.dim_param or d.dim_value for d in shape.dim)
        assert spec.dtype == helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name


@every
@given(model=models(), added=entries, tags=entries, version=st.none() | st.integers(0, 99))
def test_writing_agrees_with_onnx(model, added, tags, version, path):
    path.write_bytes(model.SerializeToString())
    turn = itertools.count()
    rewrite_model(
        path,
        metadata=added,
        drop=lambda key: key.startswith("a"),
        nodes=lambda known: {**known, **tags} if next(turn) % 2 else None,
        ir_version=version,
        doc_string="new",
    )
    kept = [e for e in model.metadata_props if e.key not in added and not e.key.startswith("a")]
    kept = [(e.key, e.value) for e in kept]
    del model.metadata_props[:]
    for key, value in [*kept, *added.items()]:
        model.metadata_props.add(key=key, value=value)
    for index, node in enumerate(all_nodes(model.graph)):
        if index % 2:
            helper.set_model_props(node, {**{e.key: e.value for e in node.metadata_props}, **tags})
    model.doc_string = "new"
    if version is not None:
        model.ir_version = version
    assert ModelProto.FromString(path.read_bytes()) == model


@every
@given(model=models())
def test_visiting_without_a_change_keeps_every_byte(model, path):
    before = model.SerializeToString()
    path.write_bytes(before)
    rewrite_model(path, nodes=lambda known: known)
    assert path.read_bytes() == before


@every
@given(model=models(), data=st.data())
def test_fields_in_any_order_are_understood(model, data, path):
    """Protobuf allows any order of fields, and unknown ones; the last of a repeated singular field counts."""
    parts = [ModelProto(producer_name="first").SerializeToString(), b"\xfa\x3f\x03new"]
    for field, _ in model.ListFields():
        part = ModelProto()
        if field.is_repeated if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED:
            getattr(part, field.name).extend(getattr(model, field.name))
        elif field.message_type:
            getattr(part, field.name).CopyFrom(getattr(model, field.name))
        else:
            setattr(part, field.name, getattr(model, field.name))
        parts.append(part.SerializeToString())
    shuffled = b"".join(data.draw(st.permutations(parts)))
    path.write_bytes(shuffled)
    expected = ModelProto.FromString(shuffled)
    assert read_header(path).producer_name == expected.producer_name
    rewrite_model(path, metadata={"k": "v"}, drop=lambda key: key == "k")
    written = ModelProto.FromString(path.read_bytes())
    assert read_metadata(path)["k"] == "v"
    del written.metadata_props[:], expected.metadata_props[:]
    assert written == expected
    assert b"\xfa\x3f\x03new" in path.read_bytes()


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(model=models(), data=st.data())
def test_damaged_files_are_refused_or_read_as_onnx_reads_them(model, data, path):
    content = bytearray(model.SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        if content:
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(0, len(content))) :]
    path.write_bytes(content)
    try:
        metadata = read_metadata(path)
    except InvalidOnnxFileError:
        return
    try:
        oracle = ModelProto.FromString(bytes(content))
    except DecodeError:
        return  # onnx looks into the graph, which we stepped over
    assert metadata == {entry.key: entry.value for entry in oracle.metadata_props}


def varint(value):
    encoded = b""
    while value > 0x7F:
        encoded += bytes([value & 0x7F | 0x80])
        value >>= 7
    return encoded + bytes([value])


def field(number, content):
    return varint(number << 3 | 2) + varint(len(content)) + content


lengths = st.sampled_from(
    [0, 1, 3, 30, 126, 127, 128, 129, 200, 254, 255, 256, 300, 900, 1010, 1023, 1024, 1030, 4096]
)
raw_texts = st.builds(lambda letter, length: letter * length, st.sampled_from([b"a", b"2", b"Z", b"\xff"]), lengths)
values = st.one_of(
    st.sampled_from([b"Add", b"MatMulNBits", b"htp.tag"]), raw_texts.filter(lambda content: len(content) < 200)
)


@st.composite
def raw_entries(draw):
    """A metadata property as it is mostly written, and in every other way."""
    parts = [field(1, draw(values)), field(2, draw(values))]
    other = draw(st.sampled_from(["", "", "", "", "turned", "no value", "more"]))
    if other == "turned":
        parts.reverse()
    elif other:
        parts = parts[:1] if other == "no value" else [*parts, field(3, b"x")]
    return field(9, b"".join(parts))


@st.composite
def raw_nodes(draw, depth=1):
    attributes = [raw_texts, st.just(field(1, b"axis") + b"\x18\x05"), st.just(b"\x0f" * 30)]
    if depth:
        attributes.append(raw_nodes(depth - 1).map(lambda node: field(6, field(1, node))))
    parts = st.one_of(
        st.builds(field, st.sampled_from([1, 2, 3, 4, 7]), values),
        st.builds(field, st.sampled_from([6, 8, 16, 40]), raw_texts),
        st.one_of(attributes).map(lambda content: field(5, content)),
        raw_entries(),
        raw_entries(),
        raw_entries().map(lambda entry: field(16, entry)),  # unknown, with a tag of two bytes
        st.sampled_from([b"\x48\x05", b"\x8d\x02abcd", b"\x4a\x83\x00\x0a\x01k"]),  # of other types and lengths
    )
    return b"".join(draw(st.lists(parts, max_size=8)))


numbers = st.sampled_from([0, 1, 7, 127, 128, 300, 16_383, 16_384, (1 << 64) - 1]).map(varint)
raw_tensors = st.lists(
    st.one_of(
        st.builds(lambda tag, number: tag + number, st.sampled_from([b"\x08", b"\x10", b"\x70"]), numbers),
        st.builds(field, st.sampled_from([1, 8, 9, 9, 13]), raw_texts),
        st.builds(lambda name: field(8, name), values),
    ),
    max_size=5,
).map(b"".join)
raw_models = st.lists(
    st.one_of(raw_nodes().map(lambda node: field(1, node)), raw_tensors.map(lambda one: field(5, one))),
    max_size=4,
).map(lambda parts: b"\x08\x08" + field(7, b"".join(parts) + field(2, b"g")))
VISITORS = {
    "add": lambda known: {**known, "tag": "t"},
    "clear": lambda known: {},
    "drop": lambda known: {key: value for key, value in known.items() if key != "htp.tag"},
    "leave": lambda known: None,
}


def read_and_tagged(path, visitors, *, at_once=False):
    """Return the graph of a file and its bytes with other metadata; or why there are none."""
    turn = itertools.cycle(visitors)
    try:
        with opened(path) as window:
            graph = graph_of(window)
        output = path.with_name("tagged.onnx")
        output.unlink(missing_ok=True)  # a damaged one is not replaced
        with OpenModel.at(path) as model:
            if at_once:
                assert model.graph == graph
            model.rewrite(nodes=lambda known: VISITORS[next(turn)](known), output=output)
            return graph, output.read_bytes()
    except InvalidOnnxFileError as error:
        return str(error)


@settings(max_examples=600, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    content=raw_models,
    damage=st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), max_size=2),
    visitors=st.lists(st.sampled_from(sorted(VISITORS)), min_size=1, max_size=4),
)
def test_short_nodes_are_read_and_written_as_long_ones_are(content, damage, visitors, path):
    damaged = bytearray(content)
    for position, value in damage:
        damaged[position % len(damaged)] = value
    path.write_bytes(damaged)
    found = read_and_tagged(path, visitors)
    assert read_and_tagged(path, visitors, at_once=True) == found
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("optimum_htp.onnxfile.plain._SHORT", -1)
        patch.setattr("optimum_htp.onnxfile.plain._HEAD", 0)
        assert read_and_tagged(path, visitors) == found


def nested(depth):
    """A graph in an attribute in a node in a graph, and so on."""
    content = b""
    for _ in range(depth):
        content = b"\x32" + varint(len(content)) + content  # AttributeProto.g
        content = b"\x2a" + varint(len(content)) + content  # NodeProto.attribute
        content = b"\x0a" + varint(len(content)) + content  # GraphProto.node
    return b"\x3a" + varint(len(content)) + content


HOSTILE = {
    "length beyond the file": b"\x3a\x00\x72" + varint(1 << 40),
    "length beyond 64 bits": b"\x3a\x00\x72" + b"\xff" * 9 + b"\x7f",
    "varint of 11 bytes": b"\x08" + b"\x80" * 10 + b"\x01",
    "field number zero": b"\x02\x00",
    "wire type seven": b"\x0f\x00",
    "group never closed": b"\x3a\x00\x0b\x08\x01",
    "group closed as another": b"\x3a\x00\x0b\x14",
    "groups too deep": b"\x0b" * 100_000,
    "no graph": b"\x08\x08",
    "key not utf-8": b"\x3a\x00\x72\x04\x0a\x02\xff\xff",
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_bytes_are_refused_by_reader_and_writer(case, tmp_path):
    path = tmp_path / "hostile.onnx"
    path.write_bytes(HOSTILE[case])
    for attempt in (read_header, lambda one: rewrite_model(one, metadata={"k": "v"})):
        with pytest.raises(InvalidOnnxFileError, match=r"hostile\.onnx"):
            attempt(path)
    assert path.read_bytes() == HOSTILE[case]
    assert list(tmp_path.iterdir()) == [path]


def test_deep_nesting_is_refused_where_it_matters(tmp_path):
    path = tmp_path / "deep.onnx"
    path.write_bytes(nested(3000))
    assert read_metadata(path) == {}  # the graph is stepped over
    for attempt in (read_graph, external_files, lambda one: rewrite_model(one, nodes=lambda known: None)):
        with pytest.raises(InvalidOnnxFileError, match="deep"):
            attempt(path)


def test_many_properties_are_read_and_replaced(tmp_path):
    path = tmp_path / "many.onnx"
    model = ModelProto(graph=GraphProto(name="g"))
    for index in range(100_000):
        model.metadata_props.add(key=f"key {index}", value="v")
    path.write_bytes(model.SerializeToString())
    assert len(read_metadata(path)) == 100_000
    rewrite_model(path, metadata={"k": "v"}, drop=lambda key: key.startswith("key"))
    assert read_metadata(path) == {"k": "v"}


def test_endless_text_is_refused_in_little_memory(tmp_path):
    path = tmp_path / "endless.onnx"
    with path.open("wb") as stream:
        stream.write(b"\x3a\x00\x32" + varint(4 << 30))
        stream.seek(4 << 30, os.SEEK_CUR)
        stream.truncate()
    tracemalloc.start()
    with pytest.raises(InvalidOnnxFileError, match="MiB of text"):
        read_header(path)
    assert tracemalloc.get_traced_memory()[1] < 10 << 20
    tracemalloc.stop()


def nodes_with_text(path, count, length):
    model = ModelProto(graph=GraphProto(name="g"))
    for index in range(count):
        node = model.graph.node.add(op_type="Relu", input=["x"], name=f"{index}")
        node.metadata_props.add(key="note", value="n" * length)
        model.graph.initializer.add(name=f"{index}", data_type=1, dims=[0]).doc_string = "d" * length
    path.write_bytes(model.SerializeToString())
    return path


def test_text_of_many_nodes_is_read_and_written_however_much_that_is(tmp_path):
    path = nodes_with_text(tmp_path / "many.onnx", 1000, 100_000)
    with OpenModel.at(path) as model:
        assert len(model.header.metadata) == 0
        assert len(model.graph.nodes) == 1000
        model.rewrite(nodes=lambda known: {**known, "k": "v"})
    with OpenModel.at(path) as model:
        assert all(node.metadata["k"] == "v" for node in model.graph.nodes)
        model.rewrite(nodes=lambda known: {"k": "v"})
    assert len(stored_tensors(path)) == 1000
    assert external_files(path) == ()


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


def test_text_of_few_nodes_is_refused_where_it_is_endless(tmp_path):
    path = nodes_with_text(tmp_path / "few.onnx", 90, 1 << 20)
    for attempt in (read_graph, lambda one: rewrite_model(one, nodes=lambda known: {**known, "k": "v"})):
        with pytest.raises(InvalidOnnxFileError, match="MiB of text"):
            attempt(path)


def test_file_is_read_as_often_as_one_likes(tmp_path):
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
    with pytest.raises(MetadataError, match="64 MiB are read"):
        rewrite_model(path, metadata={"k9": "v" * (7 << 20)})
    assert len(read_metadata(path)) == 9
    rewrite_model(path, metadata={"k9": "v" * (7 << 20)}, drop=lambda key: key == "k0")


def test_things_that_are_no_files_are_refused_at_once(tmp_path):
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
        with pytest.raises(OnnxWriteError, match=r"File too large.*Nothing there was changed"):
            rewrite_model(path, metadata={"k": "v" * 10_000})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    with pytest.raises(OnnxWriteError, match=r"No such file or directory"):
        rewrite_model(path, metadata={"k": "v"}, output=tmp_path / "missing" / "m.onnx")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_output_elsewhere_leaves_the_file_and_takes_its_mode(tmp_path):
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


def test_writers_at_the_same_time_leave_a_whole_file(tmp_path):
    path = tmp_path / "model.onnx"
    model = ModelProto(graph=GraphProto(name="g"))
    model.graph.initializer.add(name="w", data_type=1, dims=[1 << 20]).raw_data = os.urandom(4 << 20)
    path.write_bytes(model.SerializeToString())

    def write(number):
        written = 0
        for _ in range(10):
            with suppress(FileChangedError):  # another was faster: nothing of his is lost
                rewrite_model(path, metadata={"k": "v" * number}, producer_name="p" * (number * 7))
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


def test_thirty_nested_branches_are_read(tmp_path):
    path = tmp_path / "nested.onnx"
    path.write_bytes(nested(30))
    assert len(read_graph(path).nodes) == 30
