"""The manifest of a finished batch, and its differences from another manifest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from optimum_htp.extras.batch.jobs import Job
from optimum_htp.extras.batch.work import JobResult
from optimum_htp.stamping.manifests import Manifest, ManifestModel, WrittenFile

__all__ = ["differences", "manifest_of"]


def manifest_of(jobs: Iterable[Job], outcomes: Mapping[str, JobResult], folder: Path) -> Manifest:
    """Return the manifest of the exported jobs, sorted by folder."""
    models = []
    for job in sorted(jobs, key=lambda job: job.output):
        outcome = outcomes[job.output]
        if outcome.state.is_exported:
            task = outcome.task or job.task
            models.append(
                ManifestModel(
                    model=job.model,
                    output=job.output,
                    task=task,
                    revision=job.revision,
                    commit=outcome.commit,
                    options=outcome.options,
                    versions=outcome.versions or {},
                    files=outcome.files,
                )
            )
    return _with_common_versions(folder, models)


def _with_common_versions(folder: Path, models: Sequence[ManifestModel]) -> Manifest:
    """Return a manifest that stores the most common versions once."""
    known = [model.versions for model in models if model.versions]
    common = max(known, key=known.count, default={})
    kept = (replace(model, versions=None) if model.versions == common else model for model in models)
    return Manifest(folder, tuple(kept), common)


def differences(manifest: Manifest, outcomes: Mapping[str, JobResult]) -> list[str]:
    """Return the files, relative to the output folder, that differ from the manifest or are missing."""
    different = []
    for model in manifest.models:
        outcome = outcomes.get(model.output)
        if outcome is None or not outcome.state.is_exported:
            continue  # reported as failed
        theirs, ours = _digests(model.files), _digests(outcome.files)
        different += [
            f"{model.output}/{name}"
            for name in sorted(theirs.keys() | ours.keys())
            if theirs.get(name) != ours.get(name)
        ]
    return different


def _digests(files: Sequence[WrittenFile]) -> dict[str, str]:
    return {file.name: file.sha256 for file in files}
