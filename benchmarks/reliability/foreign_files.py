"""Foreign files: every key of a record with hostile values, false archives, and code.

A value is written into a stamped file; then the file is shown, verified, reported and loaded. Each step returns a
result or raises a typed error. No control character reaches the terminal or the page, nothing is written outside the
Hugging Face home, no code of the model runs, and no pickle is requested.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
import multiprocessing
import os
import pickle
import sys
import tempfile
import unicodedata
import zipfile
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from benchmarks.pairs import empty_hub
from benchmarks.reliability.operations import Laboratory, places
from benchmarks.reliability.trials import Form, Trial, main
from tests.conftest import ROOT
from tests.support.hub import LoopbackHub

CORES = os.cpu_count() or 1
SCRIPT = "<script>alert(1)</script>"
VALUES = {
    "climbs": "../../../outside",
    "absolute": "/outside/model",
    "NUL": "a\0b",
    "newline": "a\nerror: forged",
    "escape": "\x1b[31mred\x1b[0m\x1b]0;title\x07",
    "bidi": "\u202egpj.exe\u2066\u200f",
    "URL": "https://127.0.0.1:9/evil",
    "file URL": "file:///etc/passwd",
    "at": "org/model@../../x@y",
    "10 MB": "x" * 10_000_000,
    "deep JSON": "[" * 100_000,
    "deep objects": '{"a":' * 100_000,
    "NaN": '{"a": NaN, "b": [Infinity, -Infinity]}',
    "list": '["../x", null, {"a": 1}, 10e400]',
    "number": "9" * 5_000,
    "empty": "",
    "markup": SCRIPT,
    "Markdown": "[x](javascript:alert(1)) | `` ` ``",
    "surrogate": "\udce2(\udca1",
    "class": "os.system",
}
ALLOWED = {"\n"}


def _visible(text: str) -> str | None:
    """Return the first character of a text that controls a terminal or the text direction; None without one."""
    if text.replace("\n", "").isprintable():  # most are; texts of 10 MB have many characters
        return None
    odd = (character for character in text if unicodedata.category(character) in ("Cc", "Cf", "Cs"))
    return next((repr(character) for character in odd if character not in ALLOWED), None)


def written(source: bytes, path: Path, properties: Mapping[str, str]) -> None:
    """Write a file with these properties, in the wire format: `onnx` would not write invalid text."""
    path.write_bytes(source + b"".join(_entry(key, value) for key, value in properties.items()))


def _entry(key: str, value: str) -> bytes:
    """Return an entry of `metadata_props`, field 14 of ModelProto; a later one of a key counts."""
    texts = key.encode(), value.encode("utf-8", "surrogateescape")
    body = b"".join(bytes([field << 3 | 2]) + _varint(len(text)) + text for field, text in enumerate(texts, start=1))
    return bytes([14 << 3 | 2]) + _varint(len(body)) + body


def _varint(number: int) -> bytes:
    low, high = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + _varint(high) if high else bytes([low])


def commands(path: Path, folder: Path) -> dict[str, Callable[[], object]]:
    """Return the operations on each file."""
    from optimum.commands.optimum_cli import RootOptimumCLICommand, register_optimum_cli_subcommand
    from optimum.onnxruntime import ORTModelForSequenceClassification
    from transformers import AutoConfig, AutoTokenizer

    from optimum_htp import strip_metadata
    from optimum_htp.cli.group import HTPCommand

    def cli(*arguments: object) -> Callable[[], object]:
        # optimum-cli searches all installed packages in each run, which takes longer than the command.
        sys.argv = ["optimum-cli", "htp", *map(str, arguments)]
        optimum_cli = RootOptimumCLICommand("Optimum CLI tool", usage="optimum-cli")
        register_optimum_cli_subcommand(HTPCommand, parent_command=optimum_cli)
        given = sys.argv[1:]

        def call() -> None:
            with contextlib.suppress(SystemExit):
                parsed = optimum_cli.parser.parse_args(given)
                parsed.func(parsed).run()

        return call

    return {
        "info": cli("info", path),
        "info --json": cli("info", path, "--json"),
        "info --tree": cli("info", path, "--tree"),
        "verify": cli("verify", path),
        "report": cli("report", path, "-o", folder / "page.html"),
        "report in Markdown": cli("report", path, "-o", folder / "page.md"),
        "bom": cli("bom", path, "-o", folder / "bom.json"),
        "strip": lambda: strip_metadata(path, folder / "stripped.onnx"),
        "config": lambda: AutoConfig.from_pretrained(path),
        "tokenizer": lambda: AutoTokenizer.from_pretrained(path),
        "model": lambda: ORTModelForSequenceClassification.from_pretrained(path),
    }


def keys(root: Path, quick: bool) -> Trial:
    """Try every value with every key, a share of the keys on each core."""
    schema = json.loads((ROOT / "optimum_htp" / "schema" / "hub_metadata.schema.json").read_text())
    names = [*schema["properties"], "htp.modules", "htp.version", "hf_unknown"]
    names = names[:1] if quick else names
    shares = [names[index::CORES] for index in range(CORES)]
    (deep := root / "deep").mkdir()
    before = {entry for entry in root.rglob("*") if deep not in entry.parents}
    with ProcessPoolExecutor(CORES, multiprocessing.get_context("fork")) as processes:
        found = list(processes.map(tried_keys, [root] * CORES, [deep / str(index) for index in range(CORES)], shares))
    after = {entry for entry in root.rglob("*") if deep not in entry.parents}
    lost = [loss for one in found for loss in one[0]] + [f"{entry} was written" for entry in after - before]
    name = f"{len(names)} keys with {len(VALUES)} values each, {found[0][1]} readers"
    times = len(names) * len(VALUES) * found[0][1]
    return Trial(name, times, tuple(lost), f"{sum(errors for *_, errors in found)} typed errors")


def tried_keys(root: Path, folder: Path, names: Sequence[str]) -> tuple[list[str], int, int]:
    """Try every value with some keys; return the losses, the number of operations and the number of typed errors."""
    from optimum_htp.errors import OptimumHTPError

    folder.mkdir()
    source, path = (root / "stamped" / "out" / "model.onnx").read_bytes(), folder / "model.onnx"
    products = {path, *(folder / name for name in ("page.html", "page.md", "bom.json", "stripped.onnx"))}
    readers, lost, errors = commands(path, folder), [], 0
    for key, (kind, value) in itertools.product(names, VALUES.items()):
        written(source, path, {key: value})
        for what, call in readers.items():
            said, complained = io.StringIO(), io.StringIO()
            try:
                with contextlib.redirect_stdout(said), contextlib.redirect_stderr(complained):
                    call()
            except OptimumHTPError:
                errors += 1
            except Exception as error:  # noqa: BLE001 - which kind it is, is what is asked
                lost.append(f"{what}, {key}, {kind}: {type(error).__name__}: {str(error)[:150]!r}")
            for text in (said.getvalue(), complained.getvalue()):
                if (character := _visible(text)) is not None:
                    lost.append(f"{what}, {key}, {kind}: {character} was printed")
                if "Traceback" in text or "usage:" in text:
                    lost.append(f"{what}, {key}, {kind}: {text[:200]}")
            errors += complained.getvalue().startswith("error:")
        for page in (folder / "page.html", folder / "page.md"):
            if page.exists() and SCRIPT in page.read_text(errors="replace"):
                lost.append(f"{page.name}, {key}, {kind}: markup is in the page")
        lost += [f"{key}, {kind}: {entry} was written" for entry in folder.iterdir() if entry not in products]
        for product in products:
            product.unlink(missing_ok=True)
    return lost, len(readers), errors


def _zip(files: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return packed.getvalue()


def _listed(files: Mapping[str, bytes], **other: object) -> str:
    return json.dumps(
        [
            {"name": name, "size": len(body), "sha256": hashlib.sha256(body).hexdigest(), **other}
            for name, body in files.items()
        ]
    )


def archives() -> dict[str, dict[str, str]]:
    """Return embedded archives with false declarations, as properties of a file."""
    config = {"config.json": b'{"model_type": "bert"}', "tokenizer_config.json": b"{}"}
    found: dict[str, tuple[str, bytes]] = {}
    climbing = ("../evil.json", "/evil.json", "a/../../evil.json", "C:\\evil.json", "evil\0.json", "evil.py", "x.bin")
    for name in climbing:
        found[f"climbs: {name!r}"] = (_listed(files := {**config, name: b"{}"}), _zip(files))
    zeros = {**config, "vocab.txt": bytes(60_000_000)}
    found["bomb"] = (_listed(zeros), _zip(zeros))
    found["bomb that is not listed"] = (_listed(config), _zip(zeros))
    found["too many"] = (_listed(many := {f"{index}.json": b"{}" for index in range(2000)}), _zip(many))
    found["another digest"] = (_listed(config, sha256="0" * 64), _zip(config))
    found["another size"] = (_listed(config, size=1), _zip(config))
    found["a negative size"] = (_listed(config, size=-1), _zip(config))
    found["a size beyond all"] = (_listed(config, size=10**30), _zip(config))
    found["one that is not listed"] = (_listed(config), _zip({**config, "evil.json": b"{}"}))
    found["one that is missing"] = (_listed({**config, "vocab.txt": b"a"}), _zip(config))
    found["packed in another way"] = (_listed(config), _zip(config, zipfile.ZIP_BZIP2))
    found["no archive"] = (_listed(config), b"PK\x05\x06")
    found["names that collide"] = (
        _listed(both := {"config.json": b"{}", "CONFIG.JSON": b"[]", "config.json/x.json": b"{}"}),
        _zip(both),
    )
    return {
        name: {"hf_embedded_files": listed, "hf_embedded_zip": b64encode(packed).decode()}
        for name, (listed, packed) in found.items()
    } | {"no base64": {"hf_embedded_files": _listed(config), "hf_embedded_zip": "%%%"}}


def lying_archives(root: Path) -> Trial:
    from optimum_htp import unembed_files
    from optimum_htp.errors import OptimumHTPError

    (folder := root / "archives" / "inside").mkdir(parents=True)
    source, path, lost = (root / "plain" / "model.onnx").read_bytes(), folder / "model.onnx", []
    from optimum_htp.onnxfile import read_metadata

    record = {
        key: value
        for key, value in read_metadata(root / "stamped" / "out" / "model.onnx").items()
        if not key.startswith("hf_embedded")
    }
    unpacked = Path(os.environ["HF_HOME"], "optimum_htp")
    before = {*root.rglob("*"), *unpacked.rglob("*"), path}
    cases = archives()
    for kind, properties in cases.items():
        written(source, path, {**record, **properties})
        readers = {**commands(path, folder), "unembed": lambda: unembed_files(path, folder / "taken")}
        for what in ("config", "tokenizer", "unembed"):
            try:
                readers[what]()
                if kind != "names that collide":
                    lost.append(f"{what}, {kind}: it was taken")
            except OptimumHTPError:
                pass
            except Exception as error:  # noqa: BLE001 - which kind it is, is what is asked
                lost.append(f"{what}, {kind}: {type(error).__name__}: {str(error)[:150]!r}")
        lost += [
            f"{kind}: {entry} was written" for entry in (*root.rglob("*"), *unpacked.rglob("*")) if entry not in before
        ]
    return Trial("embedded archives that bomb, climb, collide or lie", 3 * len(cases), tuple(lost))


class _Evil:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, (os.environ["RELIABILITY_MARK"],)


def waiting_code(hub: LoopbackHub, laboratory: Laboratory, root: Path) -> Trial:
    """Load from repos and archives with configs that name code, and with pickles that contain code."""
    from optimum_htp.errors import OptimumHTPError
    from optimum_htp.onnxfile import rewrite_model

    mark = root / "code-ran"
    os.environ["RELIABILITY_MARK"] = str(mark)
    files = dict(laboratory.repo.commits[laboratory.second])
    code = f"import os\nos.mkdir({str(mark)!r})\n".encode()
    for name, content in files.items():
        if name in ("config.json", "tokenizer_config.json"):
            settings = json.loads(content)
            kinds = ("AutoConfig", "AutoTokenizer", "AutoModel", "AutoModelForSequenceClassification")
            settings["auto_map"] = dict.fromkeys(kinds, "evil.Evil")
            files[name] = json.dumps(settings).encode()
    files |= {"evil.py": code, "pytorch_model.bin": pickle.dumps(_Evil()), "training_args.bin": pickle.dumps(_Evil())}
    repo = hub.add("org/evil", files, pipeline_tag="text-classification")
    (folder := root / "code").mkdir()
    path, lost, times = folder / "model.onnx", [], 0
    path.write_bytes((root / "bare" / "model.onnx").read_bytes())
    rewrite_model(
        path,
        metadata={"hf_hub_id": "org/evil", "hf_hub_sha": (commit := repo.refs["main"]), "hf_hub_revision": commit[:8]},
    )
    with hub.recorded() as requests:
        for call in commands(path, folder).values():
            times += 1
            try:
                with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                    call()
            except (OptimumHTPError, ValueError):  # transformers asks for trust_remote_code with a ValueError
                pass
    fetched = [request.path for request in requests if request.path.endswith((".bin", ".py", ".pkl"))]
    lost += [f"{address} was fetched" for address in fetched]
    lost += ["code of the model's ran"] if mark.exists() else []
    return Trial("a commit whose configs name code, and that has pickles", times, tuple(lost))


def data_outside(root: Path) -> Trial:
    """Read and load files with external data in other places."""
    import onnx
    from optimum.onnxruntime import ORTModelForSequenceClassification

    from optimum_htp import strip_metadata
    from optimum_htp.errors import OptimumHTPError

    (folder := root / "external").mkdir()
    (folder / "secret").write_bytes(b"\0" * 4096)
    places = ("../stamped/out/model.onnx", "/etc/passwd", "sub/../../x", "secret\0", "file:///etc/passwd", "", "link")
    (folder / "link").symlink_to("/etc/passwd")
    original = onnx.load(root / "stamped" / "out" / "model.onnx")
    path, lost = folder / "model.onnx", []
    for place in places:
        model = onnx.ModelProto.FromString(original.SerializeToString())
        tensor = max(model.graph.initializer, key=lambda one: len(one.raw_data))
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=place)
        path.write_bytes(model.SerializeToString())
        for what, call in {
            "load": lambda: ORTModelForSequenceClassification.from_pretrained(path),
            "strip": lambda: strip_metadata(path, folder / "out" / "model.onnx"),
        }.items():
            try:
                call()
                if what == "load":
                    lost.append(f"{place!r} was loaded")
            except OptimumHTPError:
                pass
            except Exception as error:  # noqa: BLE001 - which kind it is, is what is asked
                lost.append(f"{what}, {place!r}: {type(error).__name__}: {str(error)[:150]!r}")
    return Trial("external data that points out of the folder", 2 * len(places), tuple(lost))


def trials(form: Form) -> Iterator[Trial]:
    quick = form is Form.QUICK
    import logging

    logging.disable(logging.CRITICAL)
    os.environ["OMP_NUM_THREADS"] = "1"
    with empty_hub() as (hub, _), tempfile.TemporaryDirectory(dir=next(places())) as name:
        laboratory = Laboratory(hub, root := Path(name))
        yield keys(root, quick)
        yield lying_archives(root)
        yield waiting_code(hub, laboratory, root)
        yield data_outside(root)


if __name__ == "__main__":
    main(__doc__, trials)
