"""Pushes the exports of a batch, each to a separate repo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optimum_htp.errors import ArgumentError
from optimum_htp.extras.batch.jobs import Job
from optimum_htp.extras.push.layouts import OPTIMUM
from optimum_htp.hubs.base import HubAccess

__all__ = ["Pushes", "repos_of"]


@dataclass(frozen=True)
class Pushes:
    """Pushes the exports of a batch.

    Attributes:
        root: Output folder of the batch.
        repos: The repo of each export, by its folder.
        access: Token and cache.
        private: Whether new repos are private; None if they are private for a private or gated model only.
        create_pr: Whether to open pull requests instead.
        layout: File layout of a repo.
    """

    root: Path
    repos: Mapping[str, str]
    access: HubAccess = field(default_factory=HubAccess)
    private: bool | None = None
    create_pr: bool = False
    layout: str = OPTIMUM

    def asked(self, job: Job) -> dict[str, Any]:
        """Return the options of a push; an earlier push with equal options is not repeated."""
        return {"repo": self.repos[job.output], "layout": self.layout, "create_pr": self.create_pr}

    def push(self, job: Job) -> dict[str, Any]:
        """Push the export of a job; return the entry for the journal.

        Raises:
            HFHubIntegrationError: The push failed; the subclass is the reason.
        """
        from optimum_htp.extras.push.pushing import push

        done = push(
            [self.root / job.output],
            self.repos[job.output],
            private=self.private,
            create_pr=self.create_pr,
            layout=self.layout,
            access=self.access,
        )
        return {"repo": done.repo_id, "commit": done.commit, "url": done.url}


def repos_of(jobs: Sequence[Job], form: str) -> dict[str, str]:
    """Return the repo of each export, by its folder.

    Args:
        jobs: The jobs.
        form: Pattern of the repo ids, with `{name}` and optionally `{org}`; an owner alone means `OWNER/{name}-onnx`.

    Raises:
        ArgumentError: Two models have the same repo.
    """
    form = form if "/" in form else f"{form}/{{name}}-onnx"
    repos: dict[str, str] = {}
    for job in jobs:
        org, _, name = job.output.replace("@", "-").rpartition("/")
        repo = form.replace("{name}", name).replace("{org}", org.replace("/", "-"))
        if repo in repos.values():
            raise ArgumentError(
                f"Two models would be pushed to {repo}. Pass a pattern with {{org}} and {{name}} to --push-to-hub."
            )
        repos[job.output] = repo
    return repos
