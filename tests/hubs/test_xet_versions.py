"""Earlier versions of hf_xet that users have: the same tests as with the installed version."""

from __future__ import annotations

import sys
from importlib import metadata

import pytest

from tests.conftest import run

pytest.importorskip("hf_xet")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("version", "tests"),
    [
        ("1.1.10", ("tests/hubs/test_xet.py",)),
        ("1.1.10", ("tests/cli/test_interrupts.py", "-k", "xet and python")),
        ("1.2.0", ("tests/hubs/test_xet.py",)),
    ],
    ids=str,
)
def test_transfers_with_an_earlier_hf_xet(version, tests, tmp_path_factory):
    if int(metadata.version("huggingface_hub").partition(".")[0]) >= 2:
        pytest.skip("huggingface_hub 2 needs a newer hf_xet")
    done = _run(version, tests, tmp_path_factory)
    assert " passed" in done.stdout
    assert "FATAL" not in done.stderr


@pytest.mark.slow
def test_transfers_with_the_oldest_hf_xet(tmp_path_factory):
    """Nothing ends a transfer that was cancelled: the process may crash at its end, after the error message."""
    if int(metadata.version("huggingface_hub").partition(".")[0]) >= 1:
        pytest.skip("huggingface_hub 1 needs a newer hf_xet")
    tests = ("tests/hubs/test_xet.py", "-k", "through or fetch")
    done = _run("1.1.3", tests, tmp_path_factory, check=False)
    assert " passed" in done.stdout
    assert " failed" not in done.stdout


def _run(version, tests, tmp_path_factory, *, check=True):
    """Run tests in a process with another version of hf_xet."""
    place = tmp_path_factory.getbasetemp() / f"hf_xet-{version}"
    if not place.exists():
        run(sys.executable, "-m", "pip", "install", "--no-deps", "--target", place, f"hf_xet=={version}")
    return run(
        *("env", "-u", "PYTEST_XDIST_WORKER", sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
        *("--basetemp", tmp_path_factory.mktemp("inner") / "tmp", *tests),
        check=check,
        PYTHONPATH=str(place),
    )
