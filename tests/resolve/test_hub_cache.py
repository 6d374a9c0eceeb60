"""HFHubCache: one object for each model, commit and loader."""

from __future__ import annotations

import threading

import pytest
from transformers import AutoConfig, AutoTokenizer

from optimum_htp import HFHubCache
from optimum_htp.errors import HubUnreachableError, InvalidModelReferenceError, ModelNotFoundError


@pytest.fixture
def cache(published, tmp_path):
    published("bert")
    return HFHubCache(tmp_path / "cache")


def test_second_call_uses_memory(cache, hub):
    commit = hub.repos["tiny/bert"].refs["main"]
    config = cache.get_or_fetch("tiny/bert", commit, AutoConfig.from_pretrained)
    assert config.model_type == "bert"
    with hub.recorded() as requests:
        assert cache.get_or_fetch("tiny/bert", commit, AutoConfig.from_pretrained) is config
    assert requests == []
    tokenizer = cache.get_or_fetch("tiny/bert", commit, AutoTokenizer.from_pretrained)
    assert tokenizer.tokenize("cat") == ["cat"]


def test_new_cache_object_reads_from_disk_without_a_request(cache, hub, tmp_path):
    commit = hub.repos["tiny/bert"].refs["main"]
    cache.get_or_fetch("tiny/bert", commit, AutoConfig.from_pretrained)
    with hub.recorded() as requests:
        HFHubCache(tmp_path / "cache").get_or_fetch("tiny/bert", commit, AutoConfig.from_pretrained)
    assert requests == []


def test_branch_is_followed_and_pinned(cache, hub):
    repo = hub.repos["tiny/bert"]
    before = repo.refs["main"]
    first = cache.get_or_fetch("tiny/bert", None, AutoConfig.from_pretrained)
    files = dict(repo.commits[before])
    repo.commit({**files, "config.json": files["config.json"].replace(b"LABEL 0", b"NEW 0")})
    try:
        assert cache.get_or_fetch("tiny/bert", "main", AutoConfig.from_pretrained).id2label[0] == "NEW 0"
        assert cache.get_or_fetch("tiny/bert", before, AutoConfig.from_pretrained) is first
        hub.status = 503
        assert cache.get_or_fetch("tiny/bert", before, AutoConfig.from_pretrained) is first
    finally:
        repo.refs["main"] = before


def test_name_may_have_its_revision(cache, hub):
    commit = hub.repos["tiny/bert"].refs["main"]
    config = cache.get_or_fetch("tiny/bert@main", None, AutoConfig.from_pretrained)
    assert cache.get_or_fetch(f"hf://tiny/bert@{commit}", None, AutoConfig.from_pretrained) is config
    assert cache.get_or_fetch("tiny/bert", None, AutoConfig.from_pretrained) is config
    with pytest.raises(InvalidModelReferenceError, match="Give only one of them"):
        cache.get_or_fetch("tiny/bert@main", commit, AutoConfig.from_pretrained)


def test_force_download_ignores_kept_values(cache, hub):
    commit = hub.repos["tiny/bert"].refs["main"]
    first = cache.get_or_fetch("tiny/bert", commit, AutoConfig.from_pretrained)
    with hub.recorded() as requests:
        assert cache.get_or_fetch("tiny/bert", commit, AutoConfig.from_pretrained, force_download=True) is not first
    assert requests


def test_it_keeps_no_more_than_it_may(published, hub, tmp_path):
    published("bert")
    commit, calls = hub.repos["tiny/bert"].refs["main"], []
    cache = HFHubCache(tmp_path, max_items=2)

    def loader(number):
        return lambda model_id, **options: calls.append(number) or number

    loaders = [loader(number) for number in range(3)]
    for one in (*loaders, loaders[2], loaders[1], loaders[0]):
        cache.get_or_fetch("tiny/bert", commit, one)
    assert calls == [0, 1, 2, 0]


def test_threads_that_want_the_same_load_it_once(cache, hub):
    commit, calls, found = hub.repos["tiny/bert"].refs["main"], [], []

    def slow(model_id, **options):
        calls.append(threading.get_ident())
        threading.Event().wait(0.1)
        return object()

    threads = [
        threading.Thread(target=lambda: found.append(cache.get_or_fetch("tiny/bert", commit, slow))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert len(found) == 8
    assert len(set(map(id, found))) == 1


def test_failures_are_typed(cache, hub):
    with pytest.raises(ModelNotFoundError):
        cache.get_or_fetch("nobody/nothing", None, AutoConfig.from_pretrained)
    hub.status = 503
    with pytest.raises(HubUnreachableError):
        cache.get_or_fetch("tiny/bert", "main", AutoConfig.from_pretrained)
