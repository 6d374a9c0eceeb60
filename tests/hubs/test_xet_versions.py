"""Earlier versions of hf_xet, which are among what users have: all that is tried with the installed one."""

from __future__ import annotations

import sys
from importlib import metadata

import pytest

from tests.conftest import run

pytest.importorskip("hf_xet")


@pytest.mark.slow
@pytest.mark.parametrize("version", ["1.1.10", "1.2.0"])
@pytest.mark.parametrize(
    "tests", [("tests/hubs/test_xet.py",), ("tests/cli/test_interrupts.py", "-k", "xet and python")], ids=" ".join
)
def test_transfers_with_an_earlier_hf_xet(version, tests, tmp_path_factory):
    if int(metadata.version("huggingface_hub").partition(".")[0]) >= 2:
        pytest.skip("huggingface_hub 2 needs a newer hf_xet")
    place = tmp_path_factory.getbasetemp() / f"hf_xet-{version}"
    if not place.exists():
        run(sys.executable, "-m", "pip", "install", "--no-deps", "--target", place, f"hf_xet=={version}")
    done = run(
        *("env", "-u", "PYTEST_XDIST_WORKER", sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
        *("--basetemp", tmp_path_factory.mktemp("inner") / "tmp", *tests),
        PYTHONPATH=str(place),
    )
    assert " passed" in done.stdout
    assert "FATAL" not in done.stderr
