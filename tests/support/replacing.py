"""Small models to replace, processes that replace them, and shared caches."""

from __future__ import annotations

import os
import subprocess
import sys

import onnx
import pytest
from onnx import TensorProto, helper

POSIX = pytest.mark.skipif(os.name != "posix", reason="POSIX's permissions, locks and signals")


def save(path, scopes=("a", "b"), megabytes=0.0, **properties):
    """Write a chain of nodes in these modules, and a weight of a given size."""
    values = ["x", *(f"/{scope}/Relu_output_0" for scope in scopes)]
    nodes = [
        helper.make_node("Relu", [values[i]], [values[i + 1]], name=f"/{scope}/Relu") for i, scope in enumerate(scopes)
    ]
    weight = TensorProto(name="w", data_type=TensorProto.UINT8, dims=[int(megabytes * (1 << 20))])
    weight.raw_data = os.urandom(int(megabytes * (1 << 20)))
    value = helper.make_tensor_value_info
    graph = helper.make_graph(nodes, "g", [value("x", 1, [1])], [value(values[-1], 1, [1])], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, properties)
    onnx.save(model, path)
    return path


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def writers(calls):
    """Processes that each change every file that they are given, and report success or failure."""
    code = """
import sys
from optimum_htp.errors import FileChangedError
from optimum_htp.onnxfile import rewrite_model
from optimum_htp.stamping.originals import strip_metadata
from optimum_htp.stamping.tag import tag_file
print("ready", flush=True)
for line in sys.stdin:
    path = line.strip()
    try:
        CALL
        print("done", flush=True)
    except FileChangedError:
        print("changed", flush=True)
"""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
    return [subprocess.Popen([sys.executable, "-c", code.replace("CALL", call)], **pipes) for call in calls]


LAYOUTS = [
    "hub",
    "folder of a digest",
    "blob",
    "copied links",
    "hub without links",
    "modelscope",
    "git-annex",
    "dvc",
    "read-only",
]


def cached(root, layout):
    """A model in a shared cache; return the path for the user, and the file that other processes read."""
    digest, commit = "ab" * 32, "cd" * 20
    repo = root / "hub" / "models--org--name"
    link, real = {
        "hub": (repo / "snapshots" / commit / "onnx" / "model.onnx", repo / "blobs" / digest),
        "blob": (repo / "blobs" / digest, repo / "blobs" / digest),
        "copied links": (root / "mine" / "model.onnx", repo / "blobs" / digest),
        "hub without links": (repo / "snapshots" / commit / "model.onnx",) * 2,
        "modelscope": (root / "models" / "org--name" / "snapshots" / commit / "model.onnx",) * 2,
        "git-annex": (root / "work" / "model.onnx", root / "work/.git/annex/objects/X/y" / f"SHA256E-{digest}.onnx"),
        "dvc": (root / "work" / "model.onnx", root / "cache" / "files" / "md5" / "ab" / digest[:30]),
        "folder of a digest": (root / "work" / "model.onnx", root / "store" / digest / "model.onnx"),
        "read-only": (root / "work" / "model.onnx", root / "store" / "model.onnx"),
    }[layout]
    real.parent.mkdir(parents=True)
    save(real, hf_model_type="local")
    if link != real:
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(real)
    if layout == "read-only":
        real.chmod(0o444)
    return link, real
