"""The manifest of a finished batch, and its differences from another manifest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from optimum_htp.extras.batch.jobs import Job
from optimum_htp.extras.batch.work import JobResult, versions_here
from optimum_htp.stamping.manifests import Manifest, ManifestModel, WrittenFile

__all__ = ["compared", "differences", "manifest_of"]


def manifest_of(jobs: Iterable[Job], outcomes: Mapping[str, JobResult], folder: Path) -> Manifest:
    """Return the manifest of the exported jobs, sorted by folder."""
    models = []
    for job in sorted(jobs, key=lambda job: job.output):
        outcome = outcomes[job.output]
        if outcome.state.is_exported:
            models.append(
                ManifestModel(
                    model=job.model,
                    output=job.output,
                    task=outcome.task or job.task,
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


def compared(manifest: Manifest, different: Sequence[str]) -> list[str]:
    """Return lines about the comparison with a manifest."""
    if not different:
        return [f"{len(manifest.files())} files match the manifest"]
    here = versions_here()
    models = [model for model in manifest.models if any(name.startswith(f"{model.output}/") for name in different)]
    theirs = [manifest.versions_of(model) for model in models]
    others = {
        f"{name} {version}": None
        for versions in theirs
        for name, version in versions.items()
        if here.get(name) != version
    }
    if others:
        why = f"the manifest was written with {', '.join(others)}"
    elif all(theirs) and all(model.options is not None for model in models):
        why = "check that SOURCE_DATE_EPOCH has the same value"
    else:
        why = "the manifest does not record the options of the exports; export again to write a complete one"
    return [*(f"{name}: DIFFERS from the manifest" for name in different), f"{len(different)} files differ: {why}"]


def _digests(files: Sequence[WrittenFile]) -> dict[str, str]:
    return {file.name: file.sha256 for file in files}
