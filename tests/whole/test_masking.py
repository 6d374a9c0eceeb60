"""No password, signature or token is printed, logged or kept in a journal or manifest."""

from __future__ import annotations

import json
import logging
import pickle
import time

import pytest

from optimum_htp import errors
from optimum_htp.extras.batch.jobs import Job
from optimum_htp.extras.batch.journal import Journal
from optimum_htp.masking import get_logger, masked, without_secrets
from optimum_htp.stamping.manifests import Manifest, ManifestModel
from tests.conftest import optimum_cli

SECRET = "pAsSw0rd"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"https://user:{SECRET}@host:80/x", "https://***@host:80/x"),
        (f"HTTPS://{SECRET}@host/x", "HTTPS://***@host/x"),
        (f"s3://KEY:{SECRET}/+a@bucket/x", "s3://***@bucket/x"),
        (f"tcp://user:{SECRET}@a@10.0.0.1:8786", "tcp://***@10.0.0.1:8786"),
        (f"postgres+x://:{SECRET}@host", "postgres+x://***@host"),
        (f"proxy 'user:{SECRET}@proxy:3128'", "proxy '***@proxy:3128'"),
        (f"/a?x=1&X-Amz-Signature={SECRET}&y=2", "/a?x=1&X-Amz-Signature=***&y=2"),
        (f"?sv=1&sig={SECRET}%3D", "?sv=1&sig=***"),
        (f"u=https%3A%2F%2Fh%3Ftoken%3D{SECRET}", "u=https%3A%2F%2Fh%3Ftoken%3D***"),
        (f"'Authorization': 'Bearer {SECRET}'", "'Authorization': 'Bearer ***'"),
        ("hf_abcdefghijKLMNOPQRST0123456789", "hf_***"),
        ("hf_oauth_eyJhbGciOiJFZERTQSJ9.eyJzY29wZSI6W119.a_b-c: no", "hf_oauth_***: no"),
        ("token ms-0123abcd-0123-4567-89ab-0123456789ab", "token ms-***"),
        (f"u=https%3A%2F%2Fuser%3A{SECRET}%40host%2Fx%40y", "u=https%3A%2F%2F***%40host%2Fx%40y"),
        ("u=tcp%3a%2f%2fme:hunter%40a%40host", "u=tcp%3a%2f%2f***%40host"),
        ("bearer abcdef123", "bearer ***"),
        (f"?jwt={SECRET}&session_id={SECRET}&pass={SECRET}", "?jwt=***&session_id=***&pass=***"),
    ],
)
def test_secrets_are_masked(text, shown):
    assert without_secrets(text) == shown
    assert without_secrets(shown) == shown
    assert masked({"a": [text]}) == {"a": [shown]}


@pytest.mark.parametrize(
    "text",
    [
        "hf://gpt2@main/model.onnx",
        "hf://org/name@refs/pr/1/model.onnx",
        "http://localhost:8080/org/name@rev: no answer",
        "tiny/bert@main and hf_export_library, hf_preprocessors",
        "models.txt:gpt2@main",
        "https://host/x?task=text&revision=main",
        "u=hf%3A%2F%2Fgpt2%40main, items-0123456789abcdef0123, ms://org/name, passes=1",
    ],
)
def test_names_and_addresses_stay(text):
    assert without_secrets(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "?" + "token" * 40_000 + "%3",
        "@" + "://a:" * 40_000,
        "a:" * 100_000 + "@",
        "hf_a" * 50_000,
        "%3A%2F%2Fa:" * 20_000,
        "hf_oauth_aaaaaaaaaaaaaaaaaaaaa" + ".a" * 100_000,
    ],
)
def test_hostile_texts_are_masked_in_time(text):
    started = time.process_time()
    without_secrets(text)
    assert time.process_time() - started < 10


def test_repeated_parts_of_an_address_are_masked():
    error = errors.OutputError('s3://KEY:se%2Fcret9@bucket: Invalid bucket name "KEY:se%2Fcret9@bucket", or se/cret9')
    assert str(error) == 's3://***@bucket: Invalid bucket name "***@bucket", or ***'
    assert without_secrets("KEY:se/cret9@bucket") == "***@bucket"


def through_dask(error):
    """The error in the form of Dask's workers: pickled by tblib, after any imports."""
    rebuild, arguments = pytest.importorskip("tblib.pickling_support").pickle_exception(error)[:2]
    return rebuild(*arguments)


@pytest.mark.parametrize("name", [name for name in vars(errors) if name.endswith("Error")])
def test_every_error_is_masked_and_survives_another_process(name):
    error = getattr(errors, name)(f"https://user:{SECRET}@host is away")
    for one in (error, pickle.loads(pickle.dumps(error)), through_dask(error)):
        assert str(one) == "https://***@host is away"
        assert SECRET not in repr(one)


def test_logs_are_masked_with_their_tracebacks(caplog):
    logger = get_logger("optimum_htp.tests")
    with caplog.at_level(logging.DEBUG):
        try:
            raise ValueError(f"ftp://user:{SECRET}@host")
        except ValueError:
            logger.exception("no answer of %s", f"https://user:{SECRET}@host")
    assert "https://***@host" in caplog.text
    assert "ftp://***@host" in caplog.text
    assert SECRET not in caplog.text


def test_journal_and_manifest_are_masked(tmp_path):
    url = f"https://user:{SECRET}@host/model"
    with Journal(tmp_path / "j.jsonl") as journal:
        journal.end(Job(url, "x"), {"state": "failed", "message": f"{url} is away"})
    Manifest(tmp_path, (ManifestModel(url, "x", "auto", options={"a": url}),), {}).write(tmp_path / "m.json")
    for path in (tmp_path / "j.jsonl", tmp_path / "m.json"):
        assert SECRET not in path.read_text()
        assert "https://***@host/model" in path.read_text()


@pytest.mark.parametrize(
    "arguments",
    [
        ("batch", "LIST", "-o", f"https://user:{SECRET}@127.0.0.1:1/x", "--json"),
        ("batch", "LIST", "-o", f"s3://KEY:{SECRET}@bucket/x"),
        ("batch", "LIST", "-o", "OUT", "--dask", f"tcp://user:{SECRET}@127.0.0.1:1"),
        ("info", f"https://user:{SECRET}@127.0.0.1:1/x.onnx?token={SECRET}", "--json"),
        ("info", f"ftp://user:{SECRET}@127.0.0.1:1/x.onnx"),
        ("mirror", "tiny/bert", "-o", f"webdav://user:{SECRET}@127.0.0.1:1/x"),
    ],
    ids=lambda arguments: " ".join(arguments[:3]).split("//")[0],
)
def test_commands_print_no_secrets(arguments, published, tmp_path):
    published("bert")
    (tmp_path / "list.txt").write_text("tiny/bert\n")
    places = {"LIST": tmp_path / "list.txt", "OUT": tmp_path / "out"}
    journal = ("--journal", tmp_path / "j.jsonl") if arguments[0] == "batch" else ()
    done = optimum_cli(
        "htp",
        *(places.get(one, one) for one in arguments),
        *journal,
        check=False,
        OPTIMUM_HTP_DEBUG="1",
        OPTIMUM_HTP_TIMEOUT="5",
    )
    assert done.returncode == 1
    assert "error" in done.stderr + done.stdout
    assert SECRET not in done.stdout + done.stderr
    if "--json" in arguments:
        json.loads(done.stdout)
    for path in tmp_path.rglob("*.jsonl"):
        assert SECRET not in path.read_text()


@pytest.mark.parametrize("variable", ["HF_ENDPOINT", "HTTPS_PROXY", "HTTP_PROXY", "OPTIMUM_HTP_MIRRORS"])
def test_addresses_in_the_environment_are_not_printed(variable, tmp_path):
    env = {variable: f"http://user:{SECRET}@127.0.0.1:1", "HF_HOME": str(tmp_path), "OPTIMUM_HTP_DEBUG": "1"}
    if variable in ("HTTP_PROXY", "HTTPS_PROXY"):
        env |= {"HF_ENDPOINT": f"{variable[:-6].lower()}://hub.invalid", "NO_PROXY": ""}
    done = optimum_cli(
        "htp", "mirror", "tiny/bert", "-o", tmp_path / "mirror", check=False, OPTIMUM_HTP_TIMEOUT="5", **env
    )
    assert done.returncode == (0 if variable == "OPTIMUM_HTP_MIRRORS" else 1)
    assert SECRET not in done.stdout + done.stderr
