"""The files of one model at one commit, in a local folder, ready for export.

The commit is resolved once. Config, weights and preprocessors are all taken from it. Optimum, given a repo id and a
revision, takes the preprocessors from the main branch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optimum_htp import plugins
from optimum_htp.errors import ConfigFileNotFoundError, ConfigLoadError, DownloadError, ExportError, PluginError
from optimum_htp.hubs.base import HubAccess
from optimum_htp.libraries.code_references import refuse_code_in
from optimum_htp.libraries.config_content import config_fault
from optimum_htp.libraries.names import CONFIG, MODEL_INDEX, PREPROCESSOR_CONFIGS
from optimum_htp.libraries.preprocessors import SAVED_AS
from optimum_htp.libraries.repo_files import (
    ADAPTER_CONFIG,
    base_of_adapter,
    config_files,
    index_shards,
    is_sentence_transformers_file,
    preprocessor_classes,
    read_json,
    weight_files,
    weight_indexes,
)
from optimum_htp.libraries.tasks import infer_library
from optimum_htp.metadata.kinds import is_preprocessor_class
from optimum_htp.origin import mirrors
from optimum_htp.origin.evidence import loaded_files, names_below, require_unchanged
from optimum_htp.origin.source import HubSource, LocalSource, locate

__all__ = ["Checkpoint", "fetch_checkpoint", "fetch_configs"]


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A model's files.

    Attributes:
        files: The files of the commit, or of the local folder, relative to `folder`.
        config: Content of its `config.json`, or of a pipeline's `model_index.json`.
        complete: Whether `files` lists all files of the commit, not only those in the cache.
        with_code: Whether the repo's own Python modules belong to its configs.
        weights: The files of its weights, including indexes; empty if no weights were requested.
    """

    source: HubSource | LocalSource
    folder: Path
    files: tuple[str, ...]
    config: Mapping[str, Any]
    library: str
    complete: bool
    with_code: bool
    weights: tuple[str, ...] = ()

    @property
    def config_files(self) -> tuple[str, ...]:
        """The config and preprocessor files."""
        return config_files(self.files, library=self.library, with_code=self.with_code)

    @property
    def weight_files(self) -> tuple[str, ...]:
        """The weights that loaders read, without the indexes that list them."""
        found = weight_files(self.files, lambda name: index_shards(self.folder / name), library=self.library)
        return tuple(name for name in found if not name.endswith(".json"))

    @property
    def preprocessors(self) -> tuple[str, ...]:
        """The Auto classes that load the preprocessors."""
        names = [name for name in self.config_files if name.endswith(".json")]
        configs = {name: content for name in names if isinstance(content := read_json(self.folder / name), dict)}
        found = list(preprocessor_classes(self.files, configs))
        for plugin, names in plugins.answers("optimum_htp_preprocessors", files=self.files, configs=configs):
            if isinstance(names, PluginError):
                raise names
            found += _known_classes(plugin, names)
        return tuple(dict.fromkeys(found))

    def require_config(self) -> None:
        """Reject a Hub repo or a folder without a config, because no library can load it."""
        if self.config:
            return
        if isinstance(self.source, LocalSource):
            raise ConfigFileNotFoundError(
                f"{self.folder} has no readable {CONFIG} (or {MODEL_INDEX}), so it does not contain a Hugging Face "
                "model. Save one there with `model.save_pretrained`."
            )
        raise ConfigFileNotFoundError(
            f"{self.source.reference} has no {CONFIG} at {self.source.commit}, so it does not contain a Hugging Face "
            "model. Pass the repo of the model, or with --revision a commit with a config."
        )

    def refuse_code(self) -> None:
        """Reject a Hub model whose configs refer to code, because loaders trust local folders.

        Files that only sentence_transformers reads are checked only if it loads the model.
        """
        if isinstance(self.source, HubSource):
            sentences = self.library == "sentence_transformers"
            names = [name for name in self.files if sentences or not is_sentence_transformers_file(name)]
            refuse_code_in(self.folder, names, f"{self.source.reference} at {self.source.commit}")


def _known_classes(plugin: str, names: Any) -> list[str]:
    """Return the Auto classes that a plugin names, if all are Auto classes of the installed transformers."""
    if not isinstance(names, (list, tuple)):
        names = [names]
    for name in names:
        if is_preprocessor_class(name) and name in SAVED_AS:
            continue
        import transformers

        if not is_preprocessor_class(name) or not hasattr(transformers, name):
            raise PluginError(
                f"The plugin {plugin!r} names the preprocessor {name!r}, which is not an Auto class of transformers "
                f"{transformers.__version__} that loads preprocessors. Upgrade the plugin or transformers."
            )
    return [*names]


def fetch_checkpoint(
    source: HubSource | LocalSource,
    access: HubAccess,
    library: str | None,
    *,
    weights: bool = True,
    to_load: bool = True,
) -> Checkpoint:
    """Make a model's files available in a local folder. Only the files that will be read are downloaded.

    Without a library, it is inferred. With `to_load`, a model that the library cannot load is rejected before the
    download.

    Raises:
        ExportError: A local model that is not a folder, or an adapter.
        ConfigLoadError: The model has no config, or a config that cannot be read.
        ChangedCacheError: A file in the cache differs from the commit.
        HFHubIntegrationError: The files cannot be downloaded; the subclass gives the reason.
    """
    checkpoint = _fetched(source, access, library, weights=weights, to_load=to_load)
    _refuse_adapter(checkpoint)
    if isinstance(source, HubSource) and source.folder is None and source.mirrored is None:
        folder, library = checkpoint.folder, checkpoint.library
        names = loaded_files(folder, library, weights=weights)
        require_unchanged(source.hub, source.repo_id, source.commit, folder, names, access, source.info)
    return checkpoint


def _require_model(checkpoint: Checkpoint) -> None:
    """Reject an adapter, and for transformers a repo without a config."""
    _refuse_adapter(checkpoint)
    if checkpoint.library == "transformers":
        checkpoint.require_config()


def _refuse_adapter(checkpoint: Checkpoint) -> None:
    """Reject a repo or a folder as peft saves it: with the weights of an adapter, but without a model."""
    if ADAPTER_CONFIG not in checkpoint.files or checkpoint.config:
        return
    base = base_of_adapter(checkpoint.folder)
    name = checkpoint.folder if isinstance(checkpoint.source, LocalSource) else checkpoint.source.reference
    raise ExportError(
        f"{name} is an adapter{f' of {base}' if base else ''}, not a complete model. Merge them first: peft's "
        "AutoPeftModelFor… class for its task loads both, and `merge_and_unload().save_pretrained(FOLDER)` writes a "
        "model to export. Save its tokenizer there too."
        + (f" Or export the model without the adapter: --model {base}." if base else "")
    )


def _fetched(
    source: HubSource | LocalSource, access: HubAccess, library: str | None, *, weights: bool, to_load: bool = True
) -> Checkpoint:
    if isinstance(source, LocalSource):
        return _local_checkpoint(source, library)
    if source.folder is not None:
        checkpoint = _opened(source, source.folder, names_below(source.folder), library, complete=False)
        if weights and to_load:
            _require_model(checkpoint)
        return checkpoint
    if source.info is None and source.mirrored is None:
        access = dataclasses.replace(access, local_files_only=True, force_download=False)
    folder = _snapshot(source, (), access)
    if source.info is not None:
        files = source.info.files
    else:
        files = names_below(folder) if source.mirrored is None else tuple(sorted(source.mirrored))
    guess = library or infer_library(files, {})
    configs = config_files(files, library=guess)
    adapters = {ADAPTER_CONFIG} & {*files} - {*configs}  # It names the base model of the repo.
    wanted = (*configs, *weight_indexes(files, library=guess), *adapters)
    _check_all_there(source, _snapshot(source, wanted, access), wanted)
    checkpoint = _opened(
        source, folder, files, library, complete=source.info is not None or source.mirrored is not None
    )
    if weights:
        if to_load:
            _require_model(checkpoint)
        chosen = weight_files(files, lambda name: index_shards(folder / name), library=checkpoint.library)
        code = tuple(name for name in checkpoint.config_files if name.endswith(".py"))
        _snapshot(source, (*chosen, *code), access)
        _check_all_there(source, folder, (*chosen, *code))
        indexes = weight_indexes(files, library=checkpoint.library)
        checkpoint = dataclasses.replace(checkpoint, weights=(*chosen, *indexes))
    return checkpoint


def fetch_configs(reference: str, revision: str | None, access: HubAccess, *, with_code: bool = False) -> Path:
    """Return a folder with the config and preprocessor files of a Hub model, with its own Python modules if requested.

    Raises:
        UntrustedCodeError: The configs refer to code, and `with_code` is not set.
        HFHubIntegrationError: The model cannot be found or downloaded; the subclass gives the reason.
    """
    source = locate(reference, revision, access)
    checkpoint = _fetched(source, access, None, weights=False)  # The files are only loaded; no record is written.
    if not with_code:
        checkpoint.refuse_code()
    elif isinstance(source, HubSource):
        _snapshot(source, tuple(name for name in checkpoint.config_files if name.endswith(".py")), access)
    return checkpoint.folder


def _check_all_there(source: HubSource, folder: Path, names: Sequence[str]) -> None:
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise DownloadError(
            f"The Hub lists {missing[0]} among the files of {source.repo_id} at {source.commit}, but does not provide "
            "it. Try again, or check HF_ENDPOINT and any mirror in between."
        )


def _local_checkpoint(source: LocalSource, library: str | None) -> Checkpoint:
    path = source.path
    if path is None or not path.is_dir():
        raise ExportError(f"{path} is not a folder. Pass the folder that contains the model's config.json.")
    checkpoint = _opened(source, path, names_below(path), library, complete=True)
    _refuse_adapter(checkpoint)
    checkpoint.require_config()
    return checkpoint


def _opened(
    source: HubSource | LocalSource, folder: Path, files: tuple[str, ...], library: str | None, *, complete: bool
) -> Checkpoint:
    config = _config(folder / CONFIG)
    library = library or infer_library(files, config)
    if library == "diffusers":
        config = _config(folder / MODEL_INDEX) or config
    # A tokenizer may use code of the repo even if the model does not.
    configs = [config, *(read_json(folder / name) for name in PREPROCESSOR_CONFIGS)]
    return Checkpoint(
        source=source,
        folder=folder,
        files=files,
        config=config,
        library=library,
        complete=complete,
        with_code=any(isinstance(content, dict) and "auto_map" in content for content in configs),
    )


def _config(path: Path) -> Mapping[str, Any]:
    """Return a config's content; empty if there is no config."""
    content = read_json(path)
    if content is None:
        return {}
    if (fault := config_fault(content)) is not None:
        raise ConfigLoadError(f"{path} cannot be loaded: {fault}.")
    config: Mapping[str, Any] = content
    return config


def _snapshot(source: HubSource, names: tuple[str, ...], access: HubAccess) -> Path:
    if source.mirrored is not None:
        mirrored = mirrors.fetch(source.provider, source.repo_id, source.commit, names, access)
        if mirrored is None:
            raise DownloadError(
                f"No mirror has all of {', '.join(names[:3])} … of {source.repo_id} at {source.commit}. Fill a mirror "
                "with `optimum-cli htp mirror --weights`, or allow access to the Hub."
            )
        return mirrored
    ref = source.ref or source.hub.default_revision
    return source.hub.snapshot(source.repo_id, source.commit, names, access, ref=ref, progress=True)
