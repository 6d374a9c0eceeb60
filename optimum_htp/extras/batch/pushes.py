"""What a batch pushes: each export to a repo of its own."""

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
        root: The batch's folder.
        repos: Where each export goes, by its folder in there.
        access: Token and cache.
        private: Whether new repos are private; None for private where the model was private or gated.
        create_pr: Whether to open pull requests instead.
        layout: Where the files are in a repo.
    """

    root: Path
    repos: Mapping[str, str]
    access: HubAccess = field(default_factory=HubAccess)
    private: bool | None = None
    create_pr: bool = False
    layout: str = OPTIMUM

    def asked(self, job: Job) -> dict[str, Any]:
        """Return what is asked for a job's export: a push that an earlier run made counts where it was the same."""
        return {"repo": self.repos[job.output], "layout": self.layout, "create_pr": self.create_pr}

    def push(self, job: Job) -> dict[str, Any]:
        """Push a job's export, and return what a journal says of it.

        Raises:
            HFHubIntegrationError: It was not pushed; the subclass says why.
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
    """Return the repo of each job's export, by its folder.

    Args:
        jobs: What is exported.
        form: The repos' names, with `{name}` and perhaps `{org}` in it; an owner alone means `OWNER/{name}-onnx`.

    Raises:
        ArgumentError: Two models would go into one repo.
    """
    form = form if "/" in form else f"{form}/{{name}}-onnx"
    repos: dict[str, str] = {}
    for job in jobs:
        org, _, name = job.output.replace("@", "-").rpartition("/")
        repo = form.replace("{name}", name).replace("{org}", org.replace("/", "-"))
        if repo in repos.values():
            raise ArgumentError(
                f"Two models would be pushed to {repo}: let --push-to-hub have {{org}} and {{name}} in it."
            )
        repos[job.output] = repo
    return repos
