"""Weights are compared with the commit's tensors: changes and exchanges are found."""

from __future__ import annotations

import json
import shutil

import numpy as np
import onnx
import onnx.numpy_helper as nh
import pytest
import transformers
from safetensors import safe_open

from optimum_htp import inject_hub_metadata
from optimum_htp.libraries.dependencies import has_transformers_exporters
from optimum_htp.modules.prove import prove_weights
from tests.conftest import optimum_cli
from tests.support.changed_weights import QUERY, changed, weight_of
from tests.support.zoo import ZOO


def names_are_the_models(name, folder):
    """Whether transformers uses the checkpoint's names for tensors; it may convert others."""
    model = getattr(transformers, ZOO[name].model).from_pretrained(folder)
    with safe_open(folder / "model.safetensors", "pt") as checkpoint:
        return {*checkpoint.keys()} <= model.state_dict().keys()


@pytest.mark.parametrize("name", sorted(ZOO))
def test_every_weight_of_a_clean_export_is_from_its_commit(name, zoo_export):
    made = zoo_export(name)
    for path in made.output.rglob("*.onnx"):
        proof = prove_weights(path, made.model)
        assert not proof.foreign
        weights = [finding for finding in proof.findings if finding.evidence.value in ("proven", "derived")]
        assert len(weights) >= 10
        if names_are_the_models(name, made.model):
            assert sum(finding.by_value for finding in weights) <= len(weights) // 3  # for others, the place was known


def test_one_changed_float_is_found_and_named(bert, tmp_path):
    path, folder = bert
    name = weight_of(onnx.load(path), QUERY.format(1))

    def change(arrays, model):
        arrays[name][3, 5] = np.nextafter(arrays[name][3, 5], np.float32(9))

    proof = prove_weights(changed(path, tmp_path / "m.onnx", change), folder)
    (finding,) = proof.foreign
    assert finding.name == name
    assert finding.module == QUERY.format(1)
    assert f"element {5 * 32 + 3} of {QUERY.format(1)}.weight" in finding.how  # the checkpoint's tensor is transposed
    assert proof.modules["bert.encoder.layer.1"].value == "foreign"
    assert proof.modules["bert.encoder.layer.0"].value == "proven"


@pytest.mark.parametrize("position", ["content", "wiring"])
def test_exchanged_layers_are_found(bert, tmp_path, position):
    path, folder = bert
    model = onnx.load(path)
    one, other = (weight_of(model, QUERY.format(layer)) for layer in (0, 1))

    def change(arrays, model):
        if position == "content":
            arrays[one][:], arrays[other][:] = arrays[other].copy(), arrays[one].copy()
            return
        for node in model.graph.node:
            for at, value in enumerate(node.input):
                if value in (one, other):
                    node.input[at] = other if value == one else one

    proof = prove_weights(changed(path, tmp_path / "m.onnx", change), folder)
    assert {finding.name for finding in proof.foreign} == {one, other}
    assert all("place of" in finding.how for finding in proof.foreign)


def test_exchanged_vectors_of_one_module_are_found(bert, tmp_path):
    path, folder = bert
    norm = "bert.encoder.layer.0.output.LayerNorm"

    def change(arrays, model):
        arrays[f"{norm}.weight"], arrays[f"{norm}.bias"] = arrays[f"{norm}.bias"], arrays[f"{norm}.weight"]

    proof = prove_weights(changed(path, tmp_path / "m.onnx", change), folder)
    assert {finding.name for finding in proof.foreign} == {f"{norm}.weight", f"{norm}.bias"}


@pytest.mark.skipif(not has_transformers_exporters(), reason="transformers 4 has two tensors for them")
def test_exchanged_projections_of_an_expert_in_one_tensor_are_found(zoo_export, tmp_path):
    made = zoo_export("qwen3_moe")
    path = next(made.output.rglob("*.onnx"))
    name = next(finding.name for finding in prove_weights(path, made.model).findings if finding.how == "concatenated")

    def change(arrays, model):
        arrays[name][:] = np.roll(arrays[name], arrays[name].shape[1] // 2, axis=1)

    proof = prove_weights(changed(path, tmp_path / "m.onnx", change), made.model)
    assert [finding.name for finding in proof.foreign] == [name]


def test_weight_that_was_wiped_is_no_constant(bert, tmp_path):
    path, folder = bert

    def change(arrays, model):
        arrays[f"{QUERY.format(0)}.bias"][:] = 0

    assert len(prove_weights(changed(path, tmp_path / "m.onnx", change), folder).foreign) == 1


def test_file_without_tags_is_matched_by_value(bert, tmp_path):
    path, folder = bert

    def change(arrays, model):
        for node in model.graph.node:
            del node.metadata_props[:]
            node.name = ""
        del model.metadata_props[:]

    bare = changed(path, tmp_path / "m.onnx", change)
    proof = prove_weights(bare, folder)
    assert not proof.foreign
    assert not proof.unchecked  # in the order in which the model's code uses them
    assert not proof.tagged
    assert any(finding.by_value for finding in proof.findings)

    def spoil(arrays, model):
        change(arrays, model)
        arrays[weight_of(onnx.load(path), QUERY.format(1))][0, 0] += 1

    assert len(prove_weights(changed(path, tmp_path / "n.onnx", spoil), folder).foreign) == 1


def test_weights_in_half_precision_are_derived(bert, tmp_path):
    path, folder = bert

    def change(arrays, model):
        for name, array in arrays.items():
            if array.dtype == np.float32:
                arrays[name] = array.astype(np.float16)

    half = changed(path, tmp_path / "m.onnx", change)
    proof = prove_weights(half, folder)
    assert (proof.counts["foreign"], proof.counts["proven"]) == (0, 0)
    assert {finding.how for finding in proof.findings if finding.evidence.value == "derived"} == {
        "cast",
        "cast, transposed",
    }


def test_weights_in_other_forms_are_looked_at(bert, tmp_path):
    """A weight as the values of a Constant, or as a sparse tensor, counts as a weight."""
    path, folder = bert
    for form in ("value_floats", "sparse_value", "sparse_initializer"):
        for spoilt in (False, True):
            model = onnx.load(path)
            kind = "bias" if form == "value_floats" else "weight"  # the values of a Constant have one axis
            name = f"{QUERY.format(1)}.bias" if kind == "bias" else weight_of(model, QUERY.format(1))
            move(model, name, form, 0.5 if spoilt else 0.0)
            target = tmp_path / f"{form}{spoilt}.onnx"
            onnx.save(model, target)
            proof = prove_weights(target, folder)
            found = [finding for finding in proof.findings if f"{QUERY.format(1)}.{kind}" in finding.tensors]
            assert [finding.evidence.value for finding in found] == ["foreign" if spoilt else "proven"], form
            assert len(proof.foreign) == spoilt


def move(model, name, form, more):
    """Write an initializer in another form, with its first element changed by a given amount."""
    (tensor,) = [one for one in model.graph.initializer if one.name == name]
    array = nh.to_array(tensor).copy()
    array.flat[0] += more
    model.graph.initializer.remove(tensor)
    flat = onnx.helper.make_tensor(name, onnx.TensorProto.FLOAT, [array.size], array.reshape(-1))
    places = onnx.helper.make_tensor("", onnx.TensorProto.INT64, [array.size], range(array.size))
    sparse = onnx.helper.make_sparse_tensor(flat, places, array.shape)
    if form == "sparse_initializer":
        model.graph.sparse_initializer.append(sparse)
    elif form == "sparse_value":
        model.graph.node.insert(0, onnx.helper.make_node("Constant", [], [name], sparse_value=sparse))
    else:
        model.graph.node.insert(0, onnx.helper.make_node("Constant", [], [name], value_floats=array))


def test_folded_batch_norm_that_was_changed_is_found(zoo_export, tmp_path):
    made = zoo_export("resnet")
    path = made.output / "model.onnx"
    name = weight_of(onnx.load(path), "resnet.embedder.embedder.convolution")

    def change(arrays, model):
        arrays[name].reshape(-1)[11] *= 1.001

    assert any(f.name == name for f in prove_weights(changed(path, tmp_path / "m.onnx", change), made.model).foreign)


def test_command_proves_files_of_any_exporter(bert, plain_bert, access, tmp_path, empty_home):
    """One command for several files: an unchanged one, a changed one, and one of Optimum that was stamped later."""
    path, _ = bert

    def change(arrays, model):
        arrays[weight_of(model, QUERY.format(1))][0, 0] += 1

    clean = shutil.copy(path, tmp_path / "clean.onnx")
    bad = changed(path, tmp_path / "bad.onnx", change)
    inject_hub_metadata(plain_bert, "tiny/bert", access=access)
    done = optimum_cli("htp", "verify", "--weights", "--json", clean, bad, plain_bert, check=False, **empty_home)
    assert done.returncode == 3, done.stderr
    documents = json.loads(done.stdout)["files"]
    assert [one["weights"]["counts"]["foreign"] for one in documents] == [0, 1, 0]
    assert documents[1]["weights"]["modules"]["bert.encoder.layer.1"] == "foreign"
    text = optimum_cli("htp", "verify", "--weights", bad, check=False, **empty_home)
    assert text.returncode == 3
    assert "NOT FROM THIS COMMIT" in text.stderr
    assert "bert.encoder.layer.1.attention.self.query" in text.stderr


def test_recorded_digests_detect_a_change_of_the_repos_file(zoo_export, hub, access, plain_bert):
    import hashlib

    from optimum_htp import verify_metadata

    record = inject_hub_metadata(plain_bert, "tiny/bert", access=access)
    repo = hub.repos["tiny/bert"]
    files = repo.commits[repo.refs["main"]]
    assert record.weight_files == {"model.safetensors": hashlib.sha256(files["model.safetensors"]).hexdigest()}
    assert verify_metadata(plain_bert, access).status.name == "OK"
    repo.commits = {**repo.commits, repo.refs["main"]: {**files, "model.safetensors": b"other"}}
    verdict = verify_metadata(plain_bert, access)
    assert verdict.status.name == "MISMATCH"
    assert "was replaced" in verdict.reason


@pytest.mark.parametrize("other", ["bert", "llama", "t5"])
def test_model_of_another_architecture_is_foreign(other, zoo_export):
    proof = prove_weights(zoo_export("gpt2").output / "model.onnx", zoo_export(other).model)
    assert len(proof.foreign) > 20
    assert not proof.unchecked
