"""Check the facts of a record with the Hub before the files are written to the output (`--verify-hub`)."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path

from optimum_htp import plugins
from optimum_htp.errors import OptimumHTPError, VerificationError
from optimum_htp.export.subject import ExportSubject
from optimum_htp.hubs.base import HubAccess
from optimum_htp.libraries.names import CONFIG
from optimum_htp.libraries.repo_files import read_json
from optimum_htp.metadata import ExportMetadata, read_record
from optimum_htp.origin.source import LocalSource
from optimum_htp.resolve.commit_files import resolve_configs, resolve_preprocessors
from optimum_htp.resolve.config_fit import mismatch
from optimum_htp.resolve.configs import load_config
from optimum_htp.stamping.embedded_check import check_embedded

__all__ = ["confirm_files", "require_confirmed"]


def require_confirmed(subject: ExportSubject) -> None:
    """Check that the Hub has confirmed the origin of a model.

    Raises:
        VerificationError: The model is local, or the Hub was unreachable.
    """
    source = subject.checkpoint.source if subject.checkpoint is not None else LocalSource(None)
    if isinstance(source, LocalSource) or subject.derived_from is not None:
        because = f" ({subject.reason})" if subject.reason is not None else ""
        raise VerificationError(
            f"{subject.name} is a local model{because}, so no Hub can confirm it. Leave out --verify-hub."
        )
    if source.info is None:
        raise VerificationError(f"The Hub did not confirm {source.repo_id} at {source.commit}: {source.reason}")


def confirm_files(folder: Path, names: Sequence[str], record: ExportMetadata, access: HubAccess) -> None:
    """Read files back, and resolve their records as a loader with an empty cache does.

    Args:
        folder: The folder of the files.
        names: Names of the files.
        record: The record that was written into them.
        access: Options for Hub requests.

    Raises:
        VerificationError: A file has another record, or the Hub has other contents.
    """
    online = dataclasses.replace(access, local_files_only=False, force_download=False)
    for name in names:
        written = read_record(folder / name)
        if written is None or (written.hub_id, written.hub_sha) != (record.hub_id, record.hub_sha):
            raise VerificationError(f"The record in {name} differs from the record that was written: {written}.")
    try:
        info = plugins.hub(record.hub_provider).info(str(record.hub_id), record.hub_sha, online)
        if (info.repo_id, info.commit) != (record.hub_id, record.hub_sha):
            raise VerificationError(
                f"The Hub returned {info.repo_id} at {info.commit} for {record.hub_id} at {record.hub_sha}."
            )
        proof = check_embedded(folder / names[0], record, online)
        if proof is not None and proof.fault is not None:
            raise VerificationError(
                f"The files of {record.source} in the cache differ from those on the Hub: {proof.fault} "
                "Export again with --force-download."
            )
        with tempfile.TemporaryDirectory() as cache:
            fresh = dataclasses.replace(online, cache_dir=cache)
            if record.export_library == "diffusers":
                resolve_preprocessors(record, fresh)
                return
            source = resolve_configs(record, fresh, with_code=False)
            reason = mismatch(read_json(source.folder / CONFIG) or {}, record, folder / names[0])
            if reason is not None:
                raise VerificationError(f"The config of {record.source} does not match {names[0]}: {reason}.")
            load_config(source, record, anew=True)
    except VerificationError:
        raise
    except OptimumHTPError as error:
        raise VerificationError(f"The Hub does not confirm {record.source}: {error}") from error
