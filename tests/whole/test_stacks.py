"""Files of one stack in the other: they give the logits and tokens of PyTorch there.

T5 is compared with the file's results in its own stack: PyTorch's T5 scales the outputs of its decoder differently in
the other, if the config does not define it.

`make demo` and `make demo STACK=newest` make the other environment.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from tests.conftest import ARCHITECTURES, ROOT, run

PYTHONS = [ROOT / folder / "bin" / "python" for folder in (".venv", ".venv-newest")]
OTHER = next((one for one in PYTHONS if one.exists() and one.parents[1].resolve() != Path(sys.prefix).resolve()), None)
NAMES = ["bert", "gpt2", "t5", "vit", "wav2vec2"]
EXPORT = """
import sys
from optimum_htp import HTPExporter

for repo_id in sys.argv[2:]:
    HTPExporter().export(repo_id, f"{sys.argv[1]}/{repo_id.rpartition('/')[2]}")
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(OTHER is None, reason="there is only one stack: `make demo` and `make demo STACK=newest`"),
]


@pytest.fixture(scope="module")
def exported_there(published, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported-there")
    run(OTHER, "-c", EXPORT, folder, *(published(name).repo_id for name in NAMES), HF_HOME=str(folder / "home"))
    return folder


def answers(python, name, folder, model, home):
    """Run `tests.support.compare` on a stack; return its report."""
    file = sorted(folder.glob("*.onnx"))[0]
    done = run(python, "-m", "tests.support.compare", ARCHITECTURES[name].ort_class, file, model, HF_HOME=str(home))
    return json.loads(done.stdout.splitlines()[-1])


def check(made_by, loaded_by, name, folder, model, home):
    report = answers(loaded_by, name, folder, model, home)
    if name == "t5":
        own = answers(made_by, name, folder, model, home)
        assert own["same_tokens"]
        assert own["transformers"] != report["transformers"]
        torch.testing.assert_close(torch.tensor(report["values"]), torch.tensor(own["values"]), atol=1e-4, rtol=0)
    else:
        assert report["difference"] < 1e-4
        assert report.get("same_tokens", True)
    assert report.get("distinct", 3) >= 3


@pytest.mark.parametrize("name", NAMES)
def test_file_of_the_other_stack_answers_here(name, exported_there, model_folder, tmp_path):
    check(OTHER, sys.executable, name, exported_there / name, model_folder(name), tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_file_of_this_stack_loads_there(name, exported, model_folder, tmp_path):
    check(sys.executable, OTHER, name, exported(name), model_folder(name), tmp_path)
