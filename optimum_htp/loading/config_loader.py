"""HFHubConfigLoader: config and preprocessor of an ONNX file that is exported from a Hub model, or embeds them."""

from __future__ import annotations

import dataclasses
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from optimum_htp.errors import ConfigLoadError
from optimum_htp.hubs.base import HubAccess
from optimum_htp.loading.preprocessors import first_preprocessor
from optimum_htp.metadata import PREFIX, ExportMetadata, read_record, typed_property
from optimum_htp.onnxfile import read_metadata
from optimum_htp.resolve.config_folder import carrier_of, find
from optimum_htp.resolve.configs import load_config

__all__ = ["HFHubConfigLoader"]


class HFHubConfigLoader:
    """Loads config and preprocessor of an ONNX file, from the file itself or from the Hub at the file's commit.

    Args:
        cache_dir: Root of the Hub cache; None for the default cache.
        token: Bearer token; None for the token of the environment or of the saved login.
        local_files_only: Whether to open no connection.
    """

    def __init__(
        self,
        cache_dir: str | Path | None = None,
        *,
        token: str | bool | None = None,
        local_files_only: bool = False,
    ) -> None:
        self._access = HubAccess(token=token, cache_dir=cache_dir, local_files_only=local_files_only)

    def extract_metadata(self, onnx_path: str | os.PathLike[str]) -> dict[str, Any]:
        """Return a file's `hf_*` properties: counts as int, flags as bool, all others as text.

        Raises:
            OnnxFileNotFoundError, InvalidOnnxFileError: The path is not an ONNX model.
            MetadataError: A property has an invalid value.
        """
        properties = read_metadata(onnx_path)
        ExportMetadata.from_properties(properties)  # raises for invalid values
        return {key: typed_property(key, value) for key, value in properties.items() if key.startswith(PREFIX)}

    def read_record(self, onnx_path: str | os.PathLike[str]) -> ExportMetadata | None:
        """Return a file's `hf_*` properties as a record, or None if it has none.

        Raises:
            OnnxFileNotFoundError, InvalidOnnxFileError, MetadataError: As `extract_metadata`.
        """
        return read_record(onnx_path)

    def load_from_onnx(self, onnx_path: str | os.PathLike[str], force_download: bool = False) -> tuple[Any, Any]:
        """Return config and preprocessor of the model of a file.

        Returns:
            A transformers config, and a new preprocessor of the first class that the file names, or None for a model
            without preprocessors.

        Raises:
            ConfigLoadError: The file has no Hub model and no embedded files, or its config cannot be loaded.
            EmbeddedFilesError: The embedded files do not match the record.
            PreprocessorLoadError: The preprocessor cannot be loaded.
            HFHubIntegrationError: The files cannot be downloaded; the subclass gives the reason.
        """
        record = self.read_record(onnx_path)
        if record is None:
            raise ConfigLoadError(f"{onnx_path} has no record. Load the config from the folder of its model.")
        access = dataclasses.replace(self._access, force_download=force_download)
        carrier = carrier_of(Path(onnx_path), record, access)
        source = find(carrier, "AutoConfig", access)
        assert source is not None  # `find` raises otherwise
        preprocessor = first_preprocessor(carrier, access)
        import transformers

        for name in ("AutoConfig", *record.preprocessors[:1]):  # lazy imports are not safe in two threads
            getattr(transformers, name, None)
        with ThreadPoolExecutor(2) as pool:
            config = pool.submit(load_config, source, record, anew=force_download)
            made = pool.submit(preprocessor) if preprocessor is not None else None
            return config.result(), made.result() if made is not None else None
