"""Files that an attacker puts in an output folder to redirect the next export."""

from __future__ import annotations

import json
import os

from optimum_htp.onnxfile.replace_files import SWITCH


def contents(folder):
    """Return everything below a folder without following links."""
    return {
        path.relative_to(folder).as_posix(): str(path.readlink()) if path.is_symlink() else path.read_bytes()
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
    }


def plant_old_form(root, output):
    """Names in the hidden folder give the targets; one leads out of the folder through a link."""
    (output / "sub").symlink_to(root / "elsewhere", target_is_directory=True)
    (output / SWITCH / "sub").mkdir(parents=True)
    (output / SWITCH / "sub" / "theirs.new").write_text("planted")
    (output / SWITCH / "config.json.new").write_text("planted")


def plant_list(root, output, place="sub/theirs"):
    """A hidden folder as a publisher writes it, made by hand: an attacker can copy all but change times."""
    (output / "sub").symlink_to(root / "elsewhere", target_is_directory=True)
    (output / SWITCH).mkdir()
    (output / SWITCH / "0.new").write_text("planted")
    status = (output / SWITCH / "0.new").stat()
    identity = [status.st_ino, status.st_ctime_ns - 1, status.st_size]
    (output / SWITCH / "files.json").write_text(json.dumps({"0.new": {"name": place, "identity": identity}}))


def plant_known_list(root, output, place="sub/theirs"):
    """The same with the right change times: only the link is a reason to refuse it."""
    plant_list(root, output, place)
    text = (output / SWITCH / "files.json").read_text()
    status = (output / SWITCH / "0.new").stat()
    (output / SWITCH / "files.json").write_text(text.replace(str(status.st_ctime_ns - 1), str(status.st_ctime_ns)))


def plant_way_out(root, output):
    plant_known_list(root, output, "../../elsewhere/theirs")


def plant_linked_file(root, output):
    (output / SWITCH).mkdir()
    (output / SWITCH / "0.new").symlink_to(root / "elsewhere" / "theirs")


def plant_hard_link(root, output):
    (output / SWITCH).mkdir()
    os.link(root / "elsewhere" / "theirs", output / SWITCH / "0.new")


def plant_linked_folder(root, output):
    (output / SWITCH).symlink_to(root / "elsewhere", target_is_directory=True)


def plant_deep_list(root, output):
    (output / SWITCH).mkdir()
    (output / SWITCH / "0.new").write_text("planted")
    (output / SWITCH / "files.json").write_text("[" * 100_000)


PLANTS = [
    plant_old_form,
    plant_list,
    plant_known_list,
    plant_way_out,
    plant_linked_file,
    plant_hard_link,
    plant_linked_folder,
    plant_deep_list,
]
