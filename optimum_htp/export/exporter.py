"""HTPExporter: exports a model to ONNX files with a record."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from optimum_htp.export.engines import check_options, chosen_engine, engine_named
from optimum_htp.export.engines.base import Work
from optimum_htp.export.output_files import (
    configs_beside,
    copy_configs,
    forget_paths,
    move_models,
    move_rest,
    naming_the_output,
    onnx_files,
    refuse_foreign_configs,
)
from optimum_htp.export.stamped_files import confirm_files, require_confirmed, stamp_all, tags_of
from optimum_htp.export.subject import ExportSubject, as_exported, inspect_loaded_model
from optimum_htp.hubs.base import HubAccess
from optimum_htp.libraries.names import EXPORT_MANIFEST
from optimum_htp.libraries.repo_files import MODEL_CONFIGS, read_json
from optimum_htp.libraries.tasks import canonical_task
from optimum_htp.metadata import ExportMetadata
from optimum_htp.onnxfile.outputs import ONNX, check_output
from optimum_htp.onnxfile.staging import publish, staging_folder
from optimum_htp.origin.adapters import beside_base, fetch_base
from optimum_htp.origin.checkpoint import fetch_checkpoint
from optimum_htp.origin.source import locate
from optimum_htp.resolve.embedding import ALL, NONE, Embedding, check_choice, embedding_of
from optimum_htp.resolve.export_manifest import ExportManifest
from optimum_htp.stamping.stamp import export_record, is_reproducible

__all__ = ["ExportResult", "HTPExporter"]

_AUTO: Final = "auto"


@dataclass(frozen=True)
class ExportResult:
    """The result of an export.

    Attributes:
        files: The ONNX files.
        metadata: The record in the first file.
        task: The Optimum task of the export.
        seconds: Wall time of the whole export.
        reason: Why the files have the record of a local model, although the model is from a Hub; None otherwise.
        engine: The engine: `optimum` or `transformers`.
    """

    files: tuple[Path, ...]
    metadata: ExportMetadata
    task: str
    seconds: float
    reason: str | None = None
    engine: str = "optimum"


class HTPExporter:
    """Exports Hugging Face models to ONNX files that contain a record of their origin."""

    def export(
        self,
        model_name_or_path: str | os.PathLike[str] | None = None,
        output_path: str | os.PathLike[str] | None = None,
        task: str = _AUTO,
        *,
        model: Any = None,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
        library_name: str | None = None,
        verify_hub: bool = False,
        with_config: bool = False,
        hierarchy: bool = True,
        embed: str = ALL,
        engine: str | None = None,
        **options: Any,
    ) -> ExportResult:
        """Export a model, like `optimum-cli export htp`.

        Args:
            model_name_or_path: A repo id (`name`, `org/name`, either with `@revision`) or a folder.
            output_path: A folder, or for a model of one file a path that ends in `.onnx`.
            task: Optimum task; `auto` infers it.
            model: A model in memory, in place of a name. Its config names its origin. The origin is recorded only if
                the weights are still equal to the commit's.
            revision: Branch, tag, commit or `refs/pr/N`.
            token: Bearer token; None for the token of the environment or of the saved login.
            cache_dir: Root of the Hub's cache.
            local_files_only: Whether to use the cache only.
            force_download: Whether to download files that are in the cache.
            library_name: `transformers`, `diffusers`, `timm` or `sentence_transformers`; None to infer it.
            verify_hub: Whether to fail unless the Hub confirms the record.
            with_config: Whether to write config and preprocessor files of a Hub model next to the ONNX files too.
            hierarchy: Whether to tag each node with its module of the PyTorch model.
            embed: What to embed: `all` for config and preprocessors, `config`, or `none`.
            engine: The engine: `optimum`, or `transformers` for transformers' own exporters. None selects Optimum's
                exporter if it supports the model, and transformers' exporters otherwise.
            **options: For `optimum` every other option of `optimum-cli export onnx`, and every other argument of
                `optimum.exporters.onnx.main_export` except `subfolder`; for `transformers` those of
                `TransformersEngine`.

        Raises:
            ExportError: The export was rejected or failed. The output path is unchanged, unless the message says
                otherwise.
            UntrustedCodeError: The model's configs refer to code, and `trust_remote_code` is not set.
            ProtectedFileError: The output path is a file, but not an ONNX file.
            HFHubIntegrationError: The model cannot be found or downloaded; the subclass gives the reason.
            OptionError: The engine does not have an option.
            TypeError: Contradictory arguments.
        """
        started = time.monotonic()
        if output_path is None or (model_name_or_path is None) == (model is None):
            raise TypeError("export() requires output_path, and either model_name_or_path or model=.")
        check_choice(embed)
        exporting = engine_named(engine) if engine is not None else None
        if exporting is not None:
            options = exporting.options(options)
        else:
            check_options(options)
        access = HubAccess(
            token=token, cache_dir=cache_dir, local_files_only=local_files_only, force_download=force_download
        )
        folder, file_name = _split_output(Path(output_path).expanduser())
        if file_name is not None:
            check_output(folder / file_name, ONNX)
        if model is not None and revision is not None:
            raise TypeError(
                "revision= requires a model's name. A model in memory has the commit that it was loaded from."
            )
        if model is not None:
            subject = inspect_loaded_model(model, access, library_name)
        else:
            source = locate(model_name_or_path or "", revision, access)
            checkpoint = fetch_checkpoint(source, access, library_name)
            if not options.get("trust_remote_code"):
                checkpoint.refuse_code()
            base = fetch_base(checkpoint, access)
            if base is not None and not options.get("trust_remote_code"):
                base.refuse_code()
            subject = ExportSubject(None, checkpoint, base=base)
        if verify_hub:
            require_confirmed(subject)
        if exporting is None:
            exporting = chosen_engine(subject, None if task == _AUTO else canonical_task(task), options)
            options = exporting.options(options)
        task = canonical_task(exporting.infer_task(subject, options) if task == _AUTO else task)

        with staging_folder(folder) as staging:
            exported, staged = staging / "exported", staging / "output"
            exported.mkdir()
            staged.mkdir()
            with naming_the_output(exported, folder):
                loaded = _with_base(subject, staging / "adapter")
                model_class, parts = exporting.export(Work(loaded, exported, task, access, options, hierarchy))
            written = onnx_files(exported)
            paths = [exported / name for name in written]
            subject = as_exported(subject, model_class, paths, parts.modules)
            if verify_hub:
                require_confirmed(subject)
            record = export_record(
                subject.checkpoint,
                task=task,
                library=subject.library,
                model_class=model_class.__name__,
                base_model=subject.derived_from,
                base_commits=subject.base_commits,
            )
            names = move_models(exported, staged, file_name=file_name, canonical=is_reproducible())
            originals = dict(zip(names, written, strict=True))
            earlier, edited = configs_beside(folder, names)
            adjacent = with_config or bool(earlier) or record.model_type == "local"
            own = _own_files(exported, originals)
            _add_configs(subject, exported, staged, wanted=adjacent)
            for name in () if with_config or record.model_type == "local" else edited:
                (staged / name).unlink(missing_ok=True)
            for name, content in own.items() if adjacent or embed == NONE else ():
                (staged / name).write_bytes(content)
            refuse_foreign_configs(staged, folder, names)
            tags = tags_of(staged, originals, parts, strict=verify_hub) if hierarchy else {}
            embedding = _embedding(subject, record, staged, embed, own)
            record = stamp_all(staged, names, record, subject, tags, embedding)
            if verify_hub:
                confirm_files(staged, names, record, access)
            outdated = [folder / name for name in earlier if not (staged / name).is_file()]
            publish(staged, folder)
            for path in outdated:
                path.unlink(missing_ok=True)
        return ExportResult(
            files=tuple(folder / name for name in names),
            metadata=record,
            task=task,
            seconds=time.monotonic() - started,
            reason=subject.reason,
            engine=exporting.name,
        )


def _with_base(subject: ExportSubject, folder: Path) -> ExportSubject:
    """Return an adapter with a folder that names its base model's files at their commit; other subjects unchanged."""
    if subject.checkpoint is None or subject.base is None:
        return subject
    beside_base(subject.checkpoint, subject.base, folder)
    return replace(subject, checkpoint=replace(subject.checkpoint, folder=folder))


def _add_configs(subject: ExportSubject, exported: Path, staged: Path, *, wanted: bool) -> None:
    """Write configs next to the ONNX files if they are wanted.

    A model in memory may differ from its checkpoint, so its config is the one that Optimum wrote. Its preprocessors
    are those of the checkpoint.
    """
    if not wanted:
        return
    move_rest(exported, staged)
    if subject.library == "diffusers":
        forget_paths(staged)
    if subject.checkpoint is not None and subject.library != "diffusers":
        names = subject.checkpoint.config_files
        if subject.model is not None:
            names = tuple(name for name in names if name not in MODEL_CONFIGS)
        copy_configs(subject.checkpoint.folder, names, staged)


def _own_files(exported: Path, names: Mapping[str, str]) -> dict[str, bytes]:
    """Return the files that an engine wrote about its export. `names` contains its ONNX files by their final names."""
    manifest = ExportManifest.of(read_json(exported / EXPORT_MANIFEST))
    if manifest is None:
        return {}
    return {EXPORT_MANIFEST: manifest.renamed({old: new for new, old in names.items()}).to_bytes()}


def _embedding(
    subject: ExportSubject, record: ExportMetadata, staged: Path, what: str, own: Mapping[str, bytes]
) -> Embedding | None:
    """Return the files to embed: those of the commit, or for a local model the adjacent files."""
    if record.model_type == "hub" and subject.checkpoint is not None:
        checkpoint = subject.checkpoint
        return embedding_of(checkpoint.folder, checkpoint.config_files, subject.library, what, own=own)
    names = [path.relative_to(staged).as_posix() for path in staged.rglob("*") if path.is_file()]
    return embedding_of(staged, names, subject.library, what, own=own)


def _split_output(output: Path) -> tuple[Path, str | None]:
    """Return the output folder, and the file name if the output names a file."""
    if output.suffix == ".onnx" and not output.is_dir():
        return output.parent, output.name
    return output, None
