"""Links and planted files in an output folder do not redirect an export to other folders."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from optimum_htp.errors import ExportError, ModelBeingReplacedError, UnfinishedExportError
from optimum_htp.onnxfile.folder_lock import LOCK_FILE, file_lock
from optimum_htp.onnxfile.replace_files import SWITCH, read_whole
from tests.support.planted import PLANTS, contents, plant_known_list, plant_linked_file
from tests.support.publisher import publish_copy, versions, write_model
from tests.support.publishing import killed_switch, listed, posix, settle


def test_link_that_looks_like_a_staging_folder_is_not_followed(old_and_new, tmp_path):
    output, _ = old_and_new
    (output.parent / ".optimum-htp-staging-abcdefgh").symlink_to(tmp_path / "new")
    settle(output)
    assert versions(tmp_path / "new") == {"new"}


@posix
@pytest.mark.parametrize("plant", PLANTS)
def test_planted_switch_moves_and_deletes_nothing(old_and_new, tmp_path, plant):
    output, new = old_and_new
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "theirs").write_text("theirs")
    plant(tmp_path, output)
    before = contents(tmp_path)
    with pytest.raises(ExportError, match=r"\.optimum-htp\.switch|through a link") as caught:
        publish_copy(new, output)
    assert contents(tmp_path) == before
    if plant is not plant_known_list:
        assert isinstance(caught.value, UnfinishedExportError)
        assert f"Delete {output / SWITCH}" in str(caught.value)


@posix
@pytest.mark.parametrize("how", ["copied", "archived", "cloned", "of another user"])
def test_pending_files_copied_from_elsewhere_are_not_moved(old_and_new, tmp_path, how):
    output, new = old_and_new
    killed_switch(output, new)
    if how == "copied":
        subprocess.run(["cp", "-a", output, tmp_path / "copy"], check=True)
    elif how == "archived":
        subprocess.run(f"tar -C {output.parent} -cf - out | tar -C {tmp_path} -xf -", shell=True, check=True)
        (tmp_path / "out").rename(tmp_path / "copy")
    elif how == "cloned":
        git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", output]
        for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "model"]):
            subprocess.run([*git, *command], check=True)
        subprocess.run(["git", "clone", "-q", output, tmp_path / "copy"], check=True)
    else:
        if os.geteuid() != 0:
            pytest.skip("only root may give files away")
        output.rename(tmp_path / "copy")
        os.chown(tmp_path / "copy" / SWITCH, 1234, 1234)
    copy = tmp_path / "copy"
    before = contents(copy)
    with pytest.raises(UnfinishedExportError, match="Delete"):
        settle(copy)
    assert contents(copy) == before
    shutil.rmtree(copy / SWITCH)
    publish_copy(new, copy)
    assert versions(copy) == {"new"}


def test_planted_hidden_folder_is_named_in_the_error(old_and_new, tmp_path):
    output, _ = old_and_new
    plant_linked_file(tmp_path, output)
    with pytest.raises(ModelBeingReplacedError, match=r"delete .*\.optimum-htp\.switch"):
        read_whole(output, lambda watch: versions(output, watch=watch))


@posix
@pytest.mark.parametrize("names", [["unet/model.onnx"], ["unet/model.onnx", "vae/model.onnx"]])
def test_link_that_leads_out_of_the_output_folder_is_not_written_through(tmp_path, names):
    new = write_model(tmp_path / "new", "new", names)
    if len(names) == 1:
        (new / "config.json").unlink()
    for target in ("elsewhere", "missing"):
        output = tmp_path / f"out to {target}"
        output.mkdir()
        (tmp_path / "elsewhere").mkdir(exist_ok=True)
        (output / "unet").symlink_to(tmp_path / target, target_is_directory=True)
        before = contents(tmp_path)
        with pytest.raises(ExportError, match=r"unet leads out of .* through a link\. Nothing was changed"):
            publish_copy(new, output)
        assert contents(tmp_path) == before
        assert listed(output) == ["unet"]


@posix
def test_links_inside_the_output_folder_and_to_it_are_followed(tmp_path):
    names = ["unet/model.onnx", "vae/model.onnx"]
    (tmp_path / "disk" / "parts").mkdir(parents=True)
    (tmp_path / "disk" / "unet").symlink_to("parts")
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    publish_copy(write_model(tmp_path / "new", "new", names), tmp_path / "out")
    assert versions(tmp_path / "out", names) == {"new"}
    assert (tmp_path / "disk" / "parts" / "model.onnx").is_file()


@posix
def test_link_in_place_of_a_file_is_replaced_itself(old_and_new, tmp_path):
    output, new = old_and_new
    (tmp_path / "theirs").write_text("theirs")
    (output / "config.json").unlink()
    (output / "config.json").symlink_to(tmp_path / "theirs")
    publish_copy(new, output)
    assert (tmp_path / "theirs").read_text() == "theirs"
    assert versions(output) == {"new"}


@posix
def test_link_in_place_of_the_lock_file_is_refused(tmp_path):
    (tmp_path / "theirs").write_text("theirs")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / LOCK_FILE).symlink_to(tmp_path / "theirs")
    with pytest.raises(OSError, match="is a link"), file_lock(tmp_path / "out", timeout=1):
        pass
    assert (tmp_path / "theirs").read_text() == "theirs"
