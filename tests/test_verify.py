"""verify tells apart what can be wrong with a record."""

from __future__ import annotations

from dataclasses import replace

from optimum_htp import inject_hub_metadata, verify_metadata
from optimum_htp.onnxfile import read_metadata, rewrite_model
from optimum_htp.stamping.verify import Status
from tests.conftest import optimum_cli


def test_every_finding_has_an_exit_code_of_its_own(plain_bert, hub, access, tmp_path, empty_home):
    def verify():
        done = optimum_cli("htp", "verify", plain_bert, check=False, **empty_home)
        return done.returncode, done.stdout + done.stderr

    code, text = verify()
    assert (code, "no record" in text) == (1, True)
    inject_hub_metadata(plain_bert, "tiny/bert", access=access, embed="none")
    code, text = verify()
    assert (code, "ok" in text) == (0, True)
    record = read_metadata(plain_bert)
    rewrite_model(plain_bert, metadata={"hf_hub_sha": "0" * 40, "hf_hub_revision": "0" * 8})
    code, text = verify()
    assert (code, "invalid" in text) == (1, True)
    hub.add("tiny/other-words", {"config.json": b'{"model_type": "bert", "vocab_size": 9, "id2label": {}}'})
    other = hub.repos["tiny/other-words"].refs["main"]
    moved = {"hf_hub_id": "tiny/other-words", "hf_hub_sha": other, "hf_hub_revision": other[:8]}
    rewrite_model(plain_bert, metadata={**record, **moved})
    code, text = verify()
    assert (code, "does not fit" in text) == (3, True)
    hub.status = 500
    code, text = verify()
    assert (code, "unreachable" in text) == (4, True)


def test_verdict_of_a_bad_value_names_its_key(plain_bert, access):
    inject_hub_metadata(plain_bert, "tiny/bert", access=access)
    rewrite_model(plain_bert, metadata={"hf_model_likes": "many"})
    verdict = verify_metadata(plain_bert, access)
    assert verdict.status is Status.INVALID
    assert "hf_model_likes" in verdict.reason


def test_answer_that_is_cut_off_says_nothing_of_the_file(plain_bert, hub, access, tmp_path):
    inject_hub_metadata(plain_bert, "tiny/bert", access=access, embed="none")
    hub.cut_bodies = True
    verdict = verify_metadata(plain_bert, replace(access, cache_dir=tmp_path / "empty"))
    assert verdict.status is Status.UNREACHABLE
