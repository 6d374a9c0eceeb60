"""Wrong usage of every command: one line on standard error, the right exit code, and no file written."""

from __future__ import annotations

import os
from pathlib import Path

import numpy
import onnx
import pytest
from onnx import TensorProto, helper

from tests.support import warm

OFFLINE = {"HF_HUB_OFFLINE": "1"}
AWAY = {"HF_ENDPOINT": "http://127.0.0.1:9"}
NOWHERE = "/proc/no-such/out"  # cannot be created, also not by root

# Command line; exit code; text of the message; environment.
CASES = [
    # Typos of commands and options
    ("htp verifi m.onnx", 2, "unknown command 'verifi' of htp. Did you mean verify? See optimum-cli htp --help", {}),
    ("htp verify --modle x m.onnx", 2, "unknown option --modle of htp verify. Did you mean --model?", {}),
    (
        "htp extract m.onnx --moduel x -o y.onnx",
        2,
        "unknown option --moduel of htp extract. Did you mean --module?",
        {},
    ),
    ("htp inject m.onnx -model x", 2, "unknown option -model of htp inject. Did you mean --model?", {}),
    ("htp info m.onnx --depht=3", 2, "unknown option --depht of htp info. Did you mean --depth?", {}),
    ("htp nodes m.onnx x --jason", 2, "unknown option --jason of htp nodes. Did you mean --json?", {}),
    ("htp unembed m.onnx --to x", 2, "unknown option --to of htp unembed.", {}),
    ("htp batch models.txt --ouput out", 2, "unknown option --ouput of htp batch. Did you mean --output?", {}),
    ("htp mirror tiny/bert --wieghts -o x", 2, "unknown option --wieghts of htp mirror. Did you mean --weights?", {}),
    ("export htp --model tiny/bert --dtpye fp16 out", 2, "unknown option --dtpye of export htp. Did you mean", {}),
    ("htp endpoint m.onnx --lite", 2, "unknown option --lite of htp endpoint. Did you mean --light?", {}),
    ("htp run m.onnx --offline", 2, "unknown option --offline of htp run.", {}),
    # Arguments that are missing, too many, empty or of the wrong type
    ("htp info", 2, "missing: FILE", {}),
    ("htp extract m.onnx --module x", 2, "missing: -o/--output", {}),
    ("htp report m.onnx", 2, "missing: -o/--output", {}),
    ("htp env extra", 2, "unexpected argument 'extra'", {}),
    ("htp extract m.onnx n.onnx --module x -o y.onnx", 2, "unexpected argument 'n.onnx'", {}),
    ("htp inject m.onnx --model ''", 2, "--model is empty", {}),
    ("htp strip m.onnx -o ''", 2, "--output: the path is empty", {}),
    ("htp info ''", 2, "FILE is empty", {}),
    ("htp info m.onnx --jobs 0", 2, "--jobs: 0 is less than 1", {}),
    ("htp info m.onnx --depth two", 2, "--depth: 'two' is not an integer", {}),
    ("htp compare m.onnx m.onnx --atol -1", 2, "--atol: -1 is not a non-negative number", {}),
    ("htp compare m.onnx m.onnx --rtol nan", 2, "--rtol: nan is not a non-negative number", {}),
    ("htp profile m.onnx --runs 0", 2, "--runs: 0 is less than 1", {}),
    ("htp profile m.onnx --batch-size -2", 2, "--batch-size: -2 is less than 1", {}),
    ("htp extract m.onnx --module x --call 1.5 -o y.onnx", 2, "--call: '1.5' is not an integer", {}),
    ("htp batch models.txt -o out --timeout 0", 2, "--timeout: 0 is not a positive number", {}),
    ("htp batch models.txt -o out --memory lots", 2, "'lots' is not an amount of memory such as 8GB", {}),
    ("htp batch --author tiny -o out --limit 0", 2, "--limit: 0 is less than 1", {}),
    ("export htp --model tiny/bert --opset latest out", 2, "--opset: 'latest' is not an integer", {}),
    ("export htp --model tiny/bert --model-kwargs {a:1} out", 2, "--model-kwargs: '{a:1}' is not JSON", {}),
    # Names that do not exist
    (
        "htp inject m.onnx --model tiny/bert --embed al",
        2,
        "'al' is not one of: all, config, none. Did you mean all?",
        {},
    ),
    ("export htp --model tiny/bert --engine optimu out", 2, "'optimu' is not one of", {}),
    ("export htp --model tiny/bert --dtype fp15 out", 2, "'fp15' is not one of", {}),
    ("export htp --model tiny/bert --task fil-mask out", 1, "fill-mask", {}),
    ("htp inject plain.onnx --model tiny/bert --task fil-mask", 1, "Did you mean fill-mask?", {}),
    ("htp run m.onnx text --task text-clasification", 2, "Did you mean text-classification?", {}),
    ("htp push m.onnx me/x --layout transformer.js", 2, "Did you mean transformers.js?", {}),
    ("htp nodes m.onnx bert.encodr", 1, "bert.encoder", {}),
    ("htp nodes m.onnx BertLayr", 1, "BertLayer", {}),
    ("htp extract m.onnx --module bert.poolr -o y.onnx", 1, "bert.pooler", {}),
    ("htp extract m.onnx --module bert.pooler --call 9 -o y.onnx", 1, "call", {}),
    ("htp profile m.onnx --provider GPU", 1, "GPU", {}),
    ("htp report m.onnx -o r.txt", 1, ".html", {}),
    ("htp compare m.onnx m.onnx -o r.pdf", 1, ".html", {}),
    # Arguments that contradict each other
    ("htp verify m.onnx --model tiny/bert", 1, "require --weights", {}),
    ("htp verify m.onnx --weights --revision main", 1, "--revision requires --model", {}),
    ("htp compare m.onnx", 1, "Pass either a second file B or --pytorch", {}),
    ("htp compare m.onnx n.onnx --pytorch", 1, "Pass either a second file B or --pytorch", {}),
    ("htp tag m.onnx plain.onnx -o x.onnx", 1, "--output is one file", {}),
    ("htp inject m.onnx --model tiny/bert@main --revision v1", 1, "revision", {}),
    ("htp push m.onnx me/x --private --public", 2, "not allowed with", {}),
    ("htp endpoint m.onnx --light --full", 2, "not allowed with", {}),
    ("htp batch models.txt --author tiny -o out", 1, "Pass one of LIST", {}),
    ("htp batch -o out", 1, "Pass one of LIST", {}),
    ("htp batch models.txt -o out --filter x", 1, "require --author", {}),
    ("htp batch models.txt -o s3://b/x --manifest y.json", 1, "requires a local output folder", {}),
    # Files that are missing, or are something else
    ("htp info none.onnx", 1, "none.onnx", {}),
    ("htp verify none*.onnx", 1, "none*.onnx", {}),
    ("htp info folder", 1, "folder", {}),
    ("htp extract folder --module x -o y.onnx", 1, "folder", {}),
    ("htp profile folder", 1, "folder", {}),
    ("htp strip text.onnx", 1, "text.onnx", {}),
    ("htp inject text.onnx --model tiny/bert", 1, "text.onnx", {}),
    ("htp tag cut.onnx --model tiny/bert", 1, "cut.onnx", {}),
    ("htp verify cut.onnx", 1, "cut.onnx", {}),
    ("htp info empty.onnx", 1, "empty.onnx", {}),
    ("htp verify plain.onnx", 1, "optimum-cli htp inject", {}),
    ("htp embed plain.onnx", 1, "optimum-cli htp inject", {}),
    ("htp push plain.onnx me/x", 1, "optimum-cli htp inject", {}),
    ("htp endpoint plain.onnx -o e", 1, "optimum-cli htp inject", {}),
    ("htp run plain.onnx text", 1, "optimum-cli htp inject", {}),
    ("htp nodes plain.onnx x", 1, "optimum-cli htp tag", {}),
    ("htp report plain.onnx -o r.txt", 1, ".html", {}),
    ("htp tag m.onnx --from none.onnx", 1, "none.onnx", {}),
    ("htp embed m.onnx --from none", 1, "none", {}),
    ("htp compare m.onnx m.onnx --inputs text.onnx", 1, "text.onnx", {}),
    ("htp compare m.onnx m.onnx --inputs other.npz", 1, "--inputs FILE", {}),
    ('htp run m.onnx {"a":1}', 1, "An input must be a text", {}),
    ("htp run m.onnx text -p top_k", 1, "NAME=VALUE", {}),
    ("htp inject plain.onnx --model folder", 1, "folder", {}),
    ("htp bom manifest.json -o b.json", 1, "cannot be read as a manifest", {}),
    ("htp verify manifest.json", 1, "cannot be read as a manifest", {}),
    ("htp batch --from-manifest manifest.json -o out", 1, "cannot be read as a manifest", {}),
    ("htp batch models.csv -o out", 1, "models.csv is a CSV file. Write one model per line", {}),
    ("htp batch empty.txt -o out", 1, "empty.txt lists no models", {}),
    ("htp batch folder -o out", 1, "folder is a folder, not a list", {}),
    ("htp batch none.txt -o out", 1, "none.txt", {}),
    # Outputs that cannot be written
    ("htp extract m.onnx --module bert.pooler -o folder", 1, "folder", {}),
    (f"htp extract m.onnx --module bert.pooler -o {NOWHERE}.onnx", 1, NOWHERE, {}),
    ("htp report m.onnx -o notes.md", 1, "notes.md", {}),
    ("htp report m.onnx -o m.json/r.html", 1, "m.json", {}),
    ("htp strip m.onnx -o text.onnx/x.onnx", 1, "text.onnx", {}),
    (f"htp strip m.onnx -o {NOWHERE}", 1, NOWHERE, {}),
    ("htp unembed m.onnx -o notes.md", 1, "notes.md", {}),
    ("htp bom m.onnx -o m.onnx", 1, "m.onnx", {}),
    ("htp endpoint m.onnx -o notes.md", 1, "notes.md", {}),
    ("htp mirror tiny/bert -o notes.md", 1, "notes.md", {}),
    ("htp batch models.txt -o notes.md", 1, "notes.md", {}),
    ("export htp --model tiny/bert notes.md", 1, "notes.md", {}),
    (f"export htp --model tiny/bert {NOWHERE}", 1, NOWHERE, {}),
    # Hubs
    ("export htp --model tiny/berd out", 1, "tiny/berd", {}),
    ("export htp --model tiny//bert out", 1, "tiny//bert", {}),
    ("export htp --model tiny/bert@no-such out", 1, "no-such", {}),
    ("htp inject plain.onnx --model tiny/bert --revision no-such", 1, "no-such", {}),
    ("htp inject plain.onnx --model tiny/gated", 1, "tiny/gated", {}),
    ("export htp --model tiny/gated out", 1, "tiny/gated", {}),
    ("htp mirror tiny/berd -o mirror", 1, "tiny/berd", {}),
    ("htp info hf://tiny/berd/model.onnx", 1, "tiny/berd", {}),
    ("htp push m.onnx not/a/repo", 1, "not/a/repo", {}),
    ("htp batch --collection tiny/no-such-0123 -o out", 1, "tiny/no-such-0123", {}),
    ("export htp --model tiny/bert out", 1, "HF_HUB_OFFLINE", OFFLINE),
    ("htp inject plain.onnx --model tiny/bert", 1, "HF_HUB_OFFLINE", OFFLINE),
    ("htp verify m.onnx", 4, "m.onnx", OFFLINE),
    ("htp verify m.onnx", 4, "127.0.0.1:9", AWAY),
    ("htp inject plain.onnx --model tiny/bert", 1, "127.0.0.1:9", AWAY),
    ("htp strip hf://tiny/bert/model.onnx", 1, "hf download", {}),
]


@pytest.fixture(scope="module")
def folder(exported, published, tmp_path_factory, _serving):
    """A folder with files of every kind."""
    from tests.conftest import _HUB

    folder = tmp_path_factory.mktemp("wrong")
    stamped = (exported("bert") / "model.onnx").read_bytes()
    (folder / "m.onnx").write_bytes(stamped)
    (folder / "cut.onnx").write_bytes(stamped[: len(stamped) // 2])
    (folder / "text.onnx").write_text("not a model\n")
    (folder / "empty.onnx").touch()
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", values[:1], values[1:])
    onnx.save(helper.make_model(graph, ir_version=9), folder / "plain.onnx")
    numpy.savez(folder / "other.npz", x=numpy.zeros(3))
    (folder / "folder").mkdir()
    (folder / "notes.md").write_text("mine\n")
    (folder / "m.json").write_text("{}\n")
    (folder / "manifest.json").write_text('{"models": 3}\n')
    (folder / "models.txt").write_text("tiny/bert\n")
    (folder / "models.csv").write_text("model\ntiny/bert\n")
    (folder / "empty.txt").touch()
    if "tiny/gated" not in _HUB.repos:
        _HUB.add("tiny/gated", {"config.json": b"{}"}, gated=True)
    yield folder
    _HUB.repos.pop("tiny/gated", None)


def listing(folder: Path) -> dict[str, bytes | None]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A cache that only these tests use."""
    return str(tmp_path_factory.mktemp("home"))


@pytest.mark.parametrize(("command", "code", "message", "env"), CASES, ids=[case[0][:70] for case in CASES])
def test_wrong_usage(command, code, message, env, folder, home):
    arguments = [word.replace("''", "") for word in command.split()]
    before = listing(folder)
    variables = {**os.environ, "OPTIMUM_HTP_TIMEOUT": "5", "HF_HOME": f"{home}/{'-'.join(env) or 'online'}", **env}
    done = warm.optimum_cli(arguments, folder, variables)
    assert done.returncode == code, done.stderr
    *others, line = done.stderr.splitlines()
    assert message in line
    assert line.startswith(("error: ", f"{arguments[2]}: ") if arguments[1] == "verify" else "error: ")
    assert others == [] or arguments[0] == "export"  # libraries warn when they are imported
    assert "Traceback" not in done.stderr
    assert listing(folder) == before
