"""HFHubConfigLoader: config and preprocessor of an ONNX file that came from a Hub, or carries them."""

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
    """Loads what belongs to an ONNX file: from the file itself, or from the Hub at the file's commit.

    Args:
        cache_dir: Root of the Hub's cache; None for the standard one.
        token: Bearer token; None for the environment's or the saved login's.
        local_files_only: Open no connection.
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
        """Return a file's `hf_*` properties: counts as int, flags as bool, everything else as the text it is.

        Raises:
            OnnxFileNotFoundError, InvalidOnnxFileError: There is no ONNX model at the path.
            MetadataError: A property has a value that its key does not allow.
        """
        properties = read_metadata(onnx_path)
        ExportMetadata.from_properties(properties)  # refuses bad values by key
        return {key: typed_property(key, value) for key, value in properties.items() if key.startswith(PREFIX)}

    def read_record(self, onnx_path: str | os.PathLike[str]) -> ExportMetadata | None:
        """Return a file's `hf_*` properties as a record; None where it has none.

        Raises:
            OnnxFileNotFoundError, InvalidOnnxFileError, MetadataError: As `extract_metadata`.
        """
        return read_record(onnx_path)

    def load_from_onnx(self, onnx_path: str | os.PathLike[str], force_download: bool = False) -> tuple[Any, Any]:
        """Return config and preprocessor of the model that a file came from.

        Returns:
            A transformers config, and a preprocessor of the first class that the file names, new for each call;
            None for a model that has none.

        Raises:
            ConfigLoadError: The file is not of a Hub model and carries no files, or its config cannot be loaded.
            EmbeddedFilesError: The files that it carries are not what it says.
            PreprocessorLoadError: Its preprocessor cannot be loaded.
            HFHubIntegrationError: The Hub does not give the files; the subclass says why.
        """
        record = self.read_record(onnx_path)
        if record is None:
            raise ConfigLoadError(
                f"{onnx_path} does not come from a Hub: load its config from the folder of its model instead."
            )
        access = dataclasses.replace(self._access, force_download=force_download)
        carrier = carrier_of(Path(onnx_path), record, access)
        source = find(carrier, "AutoConfig", access)
        assert source is not None  # it is needed
        preprocessor = first_preprocessor(carrier, access)
        import transformers

        for name in ("AutoConfig", *record.preprocessors[:1]):  # lazy modules are not made for two threads at a time
            getattr(transformers, name, None)
        with ThreadPoolExecutor(2) as pool:
            config = pool.submit(load_config, source, record, anew=force_download)
            made = pool.submit(preprocessor) if preprocessor is not None else None
            return config.result(), made.result() if made is not None else None
