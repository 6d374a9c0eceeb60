"""The public names: one list in three places that must agree."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

import optimum_htp


def signature_of(function):
    return inspect.signature(function).parameters if inspect.isfunction(function) else {}


def names_for_type_checkers():
    tree = ast.parse(Path(optimum_htp.__file__).read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    return {
        alias.name: node.module.removeprefix("optimum_htp.")
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def test_every_form_of_the_list_is_equal():
    eager = {"__version__", "activate", "deactivate"}
    assert set(optimum_htp.__all__) == set(optimum_htp._HOME) | eager
    assert names_for_type_checkers() == optimum_htp._HOME
    assert dir(optimum_htp) == sorted(optimum_htp.__all__)


@pytest.mark.parametrize("name", optimum_htp.__all__)
def test_every_public_name_exists(name):
    assert getattr(optimum_htp, name) is not None


@pytest.mark.parametrize(
    "name",
    [name for name in optimum_htp.__all__ if "access" in signature_of(getattr(optimum_htp, name))],
)
def test_functions_that_ask_a_hub_take_the_arguments_of_from_pretrained(name):
    assert {"token", "cache_dir", "local_files_only"} <= signature_of(getattr(optimum_htp, name)).keys()


def test_other_names_are_not():
    with pytest.raises(AttributeError, match="no attribute 'missing'"):
        _ = optimum_htp.missing
