"""Tokens of the Hub for pushes, and the files that were pushed."""

from __future__ import annotations

WRITER, READER = "hf_writesAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "hf_readsBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBB"


def pushed_files(hub, repo_id="me/model", ref="main"):
    repo = hub.repos[repo_id]
    return {name: body for name, body in repo.commits[repo.refs[ref]].items() if name != ".gitattributes"}
