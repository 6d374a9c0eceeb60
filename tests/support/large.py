"""Models that are nearly too large for protobuf."""

from __future__ import annotations

from onnx import helper

from optimum_htp.onnxfile.wire import encode_bytes_field, encode_varint

LIMIT = (1 << 31) - 1


def sparse(path, size):
    """Write a model of a given size in bytes, mostly a weight that takes no space on the disk."""
    value = helper.make_tensor_value_info
    node = helper.make_node("Cast", ["x"], ["y"], name="/a/Cast", to=1)
    graph = helper.make_graph([node], "g", [value("x", 1, [1])], [value("y", 1, [1])]).SerializeToString()
    head = b"\x08\x0a" + encode_bytes_field(8, b"\x10\x12")
    weight = size - len(head) - len(graph) - 60
    while True:
        named = encode_bytes_field(8, b"w") + b"\x10\x02\x08" + encode_varint(weight) + b"\x4a" + encode_varint(weight)
        tensor = b"\x2a" + encode_varint(len(named) + weight) + named
        start = head + b"\x3a" + encode_varint(len(graph) + len(tensor) + weight) + graph + tensor
        if len(start) + weight == size:
            break
        weight += size - len(start) - weight
    with path.open("wb") as stream:
        stream.write(start)
        stream.truncate(size)
    return path
