"""A repo of small files, and requests for it."""

from __future__ import annotations

from optimum_htp.plugins import hub as huggingface

FILES = {"config.json": b'{"model_type": "bert"}', "vocab.txt": b"[PAD]\n" * 50, "model.safetensors": b"weights" * 9}


def ask(what, repo, access, name="config.json"):
    """Request a repo, or one of its files."""
    if what == "info":
        return huggingface().info(repo.repo_id, None, access)
    return huggingface().snapshot(repo.repo_id, repo.refs["main"], [name], access)
