"""Owners, modes, links and shared caches of a replaced file."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from optimum_htp.errors import OnnxReadError, SharedFileError
from optimum_htp.onnxfile import (
    read_header,
    read_metadata,
    rename_model,
    rewrite_model,
)
from optimum_htp.stamping.originals import strip_metadata
from optimum_htp.stamping.tag import tag_file
from tests.conftest import optimum_cli, run_python
from tests.support.replacing import LAYOUTS, POSIX, cached, names_in, save


@POSIX
def test_writer_in_a_folder_that_it_may_write_to_and_not_list(tmp_path):
    file = save(tmp_path / "model.onnx")
    code = f"""
import os
from optimum_htp.onnxfile import read_metadata, rewrite_model
read_metadata({str(file)!r})
os.chmod({str(tmp_path)!r}, 0o300)
if os.geteuid() == 0:
    os.chown({str(tmp_path)!r}, 65534, 65534); os.chown({str(file)!r}, 65534, 65534); os.setuid(65534)
os.chdir({str(tmp_path)!r})
rewrite_model("model.onnx", metadata={{"k": "v"}})
print(read_metadata("model.onnx")["k"])
"""
    for folder in tmp_path.parents[:3]:
        if os.geteuid() == 0 and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    assert run_python(code).stdout.strip() == "v"
    tmp_path.chmod(0o700)
    assert names_in(tmp_path) == ["model.onnx"]


@POSIX
@pytest.mark.parametrize("nameless", [True, False])
def test_private_model_is_never_readable_for_others(tmp_path, nameless):
    """With and without unnamed temporary files (macOS and NFS have none)."""
    file = save(tmp_path / "model.onnx")
    file.chmod(0o600)
    code = f"""
import os
from pathlib import Path
if not {nameless} and hasattr(os, "O_TMPFILE"):
    del os.O_TMPFILE
os.umask(0o022)
from optimum_htp.onnxfile import replaced_atomically
file = Path({str(file)!r})
for target, like in ((file, None), (file.with_name("copy.onnx"), file), (file.with_name("new.onnx"), None)):
    with replaced_atomically(target, like=like) as stream:
        print(oct(os.fstat(stream.fileno()).st_mode & 0o777), end=" ")
    print(oct(target.stat().st_mode & 0o777), end=" ")
"""
    assert run_python(code).stdout.split() == ["0o600", "0o600", "0o600", "0o600", "0o644", "0o644"]


@POSIX
def test_umask_is_never_touched(tmp_path):
    code = f"""
import os, threading
from pathlib import Path
from optimum_htp.onnxfile import replaced_atomically
os.umask(0o027)
def write(number):
    for turn in range(60):
        with replaced_atomically(Path({str(tmp_path)!r}, f"{{number}}-{{turn}}")) as stream:
            stream.write(b"x")
threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
for one in threads: one.start()
seen = set()
while any(one.is_alive() for one in threads):
    seen |= {{line.split()[1] for line in open("/proc/self/status") if line.startswith("Umask")}}
print(sorted(seen), sorted({{oct(path.stat().st_mode & 0o777) for path in Path({str(tmp_path)!r}).iterdir()}}))
"""
    if not Path("/proc/self/status").exists():
        pytest.skip("needs Linux to see the umask from outside")
    assert run_python(code).stdout.strip() == "['0027'] ['0o640']"


@POSIX
def test_owner_attributes_and_mode_stay(file, caplog):
    file.chmod(0o604)
    if os.geteuid() == 0:
        os.chown(file, 1234, 2345)
    try:
        os.setxattr(file, "user.origin", b"a camera")
        has_attributes = True
    except (OSError, AttributeError):
        has_attributes = False
    rewrite_model(file, metadata={"k": "v"})
    status = file.stat()
    assert status.st_mode & 0o777 == 0o604
    if os.geteuid() == 0:
        assert (status.st_uid, status.st_gid) == (1234, 2345)
    if has_attributes:
        assert os.getxattr(file, "user.origin") == b"a camera"
    assert caplog.text == ""


@POSIX
def test_split_hard_links_are_reported(file, caplog):
    os.link(file, file.with_name("second.onnx"))
    before = file.read_bytes()
    with caplog.at_level(logging.WARNING, "optimum_htp"):
        rewrite_model(file, metadata={"k": "v"})
    assert "1 other names (hard links)" in caplog.text
    assert file.with_name("second.onnx").read_bytes() == before


@POSIX
def test_file_without_read_permission_is_reported(file):
    file.chmod(0)
    code = f"""
import os
from optimum_htp.onnxfile import read_header
from optimum_htp.errors import OnnxReadError
if os.geteuid() == 0:
    os.setuid(65534)
try:
    read_header({str(file)!r})
except OnnxReadError as error:
    print(error)
"""
    for folder in (file.parent, *file.parents[:3]):
        if os.geteuid() == 0 and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    assert "model.onnx cannot be opened: Permission denied" in run_python(code).stdout


def test_name_that_no_file_can_have_is_an_error_of_ours(tmp_path):
    for name in ("x" * 300 + ".onnx", "null\0character.onnx"):
        with pytest.raises(OnnxReadError, match="cannot be opened"):
            read_header(tmp_path / name)
    assert optimum_cli("htp", "info", tmp_path / f"{'x' * 300}.onnx", check=False).returncode == 1


@POSIX
@pytest.mark.parametrize("layout", LAYOUTS)
def test_file_in_a_shared_cache_is_not_changed(tmp_path, layout):
    link, real = cached(tmp_path, layout)
    own = save(tmp_path / "own.onnx", hf_model_type="local")
    before = real.read_bytes()
    writers_of_it = [
        lambda: rewrite_model(link, metadata={"k": "v"}),
        lambda: tag_file(link),
        lambda: strip_metadata(link),
        lambda: rewrite_model(own, metadata={"k": "v"}, output=link),
        lambda: strip_metadata(own, link),
        lambda: rename_model(link, link.with_name("other.onnx")),
    ]
    for write in writers_of_it:
        with pytest.raises(SharedFileError, match="--output"):
            write()
    assert real.read_bytes() == before
    rewrite_model(link, metadata={"k": "v"}, output=tmp_path / "mine.onnx")
    assert read_metadata(tmp_path / "mine.onnx") == {"hf_model_type": "local", "k": "v"}
    assert read_metadata(link) == {"hf_model_type": "local"}


@POSIX
def test_own_links_and_folders_are_followed(tmp_path):
    for place in ("disk/model.onnx", "1/snapshots/1/model.onnx", "2/blobs/model.onnx", "a--b/snapshots/c/model.onnx"):
        real = tmp_path / place
        real.parent.mkdir(parents=True)
        save(real)
        link = tmp_path / "link.onnx"
        link.unlink(missing_ok=True)
        link.symlink_to(real)
        rewrite_model(link, metadata={"k": "v"})
        assert link.is_symlink()
        assert read_metadata(real) == {"k": "v"}
    read_only = save(tmp_path / "read-only.onnx")
    read_only.chmod(0o444)
    rewrite_model(read_only, metadata={"k": "v"})
    assert read_metadata(read_only) == {"k": "v"}
