"""Places for the ONNX files of an export, and the result of loaders at each place, compared with PyTorch's folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.animals import Animal, inputs

SAME = "yes"
_NOT_COMPARED = frozenset(
    (
        *("_name_or_path", "name_or_path", "_commit_hash", "processor_class", "transformers_version"),
        *("is_decoder", "use_cache"),  # Optimum sets these when it loads, and saves them
    )
)
NOT_THERE = "-"
"""What Optimum or transformers has nothing for: an optimizer for the model, a pipeline for the task."""


@dataclass(frozen=True)
class Place:
    """Files of a model at a place.

    Attributes:
        source: The first argument of loaders.
        options: Other arguments of each loader.
        changed: Whether the weights differ from PyTorch's.
    """

    source: str | Path
    options: dict[str, Any] = field(default_factory=dict)
    changed: bool = False


def onnx_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.onnx"))


def _copied(export: Path, target: Path, named: Callable[[str], str] = str) -> Path:
    target.mkdir(parents=True)
    for file in onnx_files(export):
        shutil.copy(file, target / named(file.name))
    return target


def _file(export: Path, animal: Animal, model: Path, target: Path) -> Place:
    return Place(onnx_files(_copied(export, target))[-1])


def _folder(export: Path, animal: Animal, model: Path, target: Path) -> Place:
    return Place(_copied(export, target))


def _with_configs(export: Path, animal: Animal, model: Path, target: Path) -> Place:
    _copied(export, target)
    for path in model.iterdir():
        if path.is_file() and path.suffix != ".safetensors":
            shutil.copy(path, target)
    return Place(target)


def _quantized(export: Path, animal: Animal, model: Path, target: Path) -> Place | None:
    from optimum.onnxruntime import ORTQuantizer
    from optimum.onnxruntime.configuration import AutoQuantizationConfig

    settings = AutoQuantizationConfig.avx2(is_static=False, per_channel=False)
    try:
        for file in onnx_files(export):
            ORTQuantizer.from_pretrained(export, file_name=file.name).quantize(settings, save_dir=target)
    except ValueError:  # ONNX Runtime requires constant weights of convolutions
        return None
    return Place(target, changed=True)


def _optimized(export: Path, animal: Animal, model: Path, target: Path) -> Place | None:
    from optimum.onnxruntime import ORTOptimizer
    from optimum.onnxruntime.configuration import OptimizationConfig

    try:
        optimizer = ORTOptimizer.from_pretrained(export, file_names=[file.name for file in onnx_files(export)])
        optimizer.optimize(OptimizationConfig(optimization_level=1), save_dir=target)
    except (NotImplementedError, KeyError, TypeError):  # Optimum supports some architectures only alone
        return None
    return Place(target)


def _slimmed(export: Path, animal: Animal, model: Path, target: Path) -> Place:
    import onnxslim

    target.mkdir()
    for file in onnx_files(export):
        onnxslim.slim(str(file), str(target / file.name))
    return Place(target)


def _saved(export: Path, animal: Animal, model: Path, target: Path) -> Place:
    import optimum.onnxruntime

    loader = getattr(optimum.onnxruntime, animal.ort_class)
    loader.from_pretrained(onnx_files(export)[-1]).save_pretrained(target)
    return Place(target)


def _renamed(export: Path, animal: Animal, model: Path, target: Path) -> Place:
    return Place(onnx_files(_copied(export, target, lambda name: f"my {name}"))[0])


def _alone(export: Path, animal: Animal, model: Path, target: Path) -> Place:
    """Only files that the class opens: of several decoders the merged one."""
    _copied(export, target)
    if (target / "decoder_model_merged.onnx").is_file():
        for name in ("decoder_model.onnx", "decoder_with_past_model.onnx"):
            (target / name).unlink()
    return Place(onnx_files(target)[0])


LAYOUTS: dict[str, Callable[[Path, Animal, Path, Path], Place | None]] = {
    "file": _file,
    "folder": _folder,
    "with configs": _with_configs,
    "quantized": _quantized,
    "optimized": _optimized,
    "slimmed": _slimmed,
    "save_pretrained": _saved,
    "renamed": _renamed,
    "alone": _alone,
}
REPOS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "repo": ("folder", "", {}),
    "repo, in onnx/": ("folder", "onnx/", {}),
    "repo, in a subfolder": ("folder", "sub/", {"subfolder": "sub"}),
    "repo of save_pretrained": ("save_pretrained", "", {}),
}


class Reference:
    """Results of PyTorch and transformers from the model's own folder."""

    def __init__(self, animal: Animal, folder: Path, preprocessors: tuple[str, ...], task: str) -> None:
        import transformers

        try:
            transformers.pipeline(task, model=str(folder))
            self.has_pipeline = animal.ort_class != "ORTModelForCustomTasks"  # accepted by no pipeline
        except Exception:  # noqa: BLE001 - no pipeline has the task, or it needs files that the model lacks
            self.has_pipeline = False

        self.animal = animal
        self.config = transformers.AutoConfig.from_pretrained(folder)
        self.model = getattr(transformers, animal.model).from_pretrained(folder).eval()
        self.batch = inputs(animal)
        self.answer = _answer(self.model, self.batch)
        self.vectors = _vectors(str(folder), "torch", None) if task == "feature-extraction" else None
        self.generation = (
            _without_paths(transformers.GenerationConfig.from_pretrained(folder).to_dict())
            if (folder / "generation_config.json").is_file()
            else None
        )
        self.loaders = [getattr(transformers, name) for name in preprocessors]
        self.loaders += [type(loader.from_pretrained(folder)) for loader in self.loaders]
        self.preprocessors = [described(loader.from_pretrained(folder)) for loader in self.loaders]


def ways(place: Place, reference: Reference, cache: Path) -> Iterator[tuple[str, Callable[[], bool]]]:
    """Yield each way of loading, and a comparison of its result with PyTorch's, which raises the loader's errors."""
    import optimum.onnxruntime
    import transformers

    source, animal = place.source, reference.animal
    options = {**place.options, "cache_dir": cache}
    plain = _without_paths(reference.config.to_dict())
    for loader in (transformers.AutoConfig, type(reference.config)):
        yield (
            f"{loader.__name__}",
            lambda loader=loader: _without_paths(loader.from_pretrained(source, **options).to_dict()) == plain,
        )
    if reference.generation is not None:
        yield (
            "GenerationConfig",
            lambda: (
                _without_paths(transformers.GenerationConfig.from_pretrained(source, **options).to_dict())
                == reference.generation
            ),
        )
    for loader, expected in zip(reference.loaders, reference.preprocessors, strict=True):
        yield (
            loader.__name__,
            lambda loader=loader, expected=expected: described(loader.from_pretrained(source, **options)) == expected,
        )
    model_class = getattr(optimum.onnxruntime, animal.ort_class)
    yield (
        animal.ort_class,
        lambda: _same_answer(
            _answer(model_class.from_pretrained(source, **options), reference.batch),
            reference.answer,
            animal,
            place.changed,
        ),
    )
    if reference.vectors is not None and not place.options:
        yield (
            "SentenceTransformer",
            lambda: place.changed or bool(abs(_vectors(str(source), "onnx", cache) - reference.vectors).max() < 1e-4),
        )
    if reference.has_pipeline:
        for name, make in (("pipeline", transformers.pipeline), ("ORT pipeline", optimum.onnxruntime.pipeline)):
            yield (
                name,
                lambda make=make: isinstance(make(model=str(source), model_kwargs=dict(options)).model, model_class),
            )


def described(loaded: Any) -> Any:
    """Return a loaded preprocessor in a comparable form, without its source."""
    import transformers

    if isinstance(loaded, transformers.PreTrainedTokenizerBase):
        special = (loaded.bos_token, loaded.eos_token, loaded.pad_token, loaded.unk_token)
        return loaded("the small cat").input_ids, special
    if isinstance(loaded, transformers.ProcessorMixin):
        parts = [getattr(loaded, name, None) for name in ("tokenizer", "image_processor", "feature_extractor")]
        return [described(part) for part in parts if part is not None]
    return _without_paths(json.loads(loaded.to_json_string()))


def _without_paths(content: dict[str, Any]) -> dict[str, Any]:
    return {
        key: value for key, value in json.loads(json.dumps(content, default=str)).items() if key not in _NOT_COMPARED
    }


def _answer(model: Any, batch: dict[str, Any]) -> Any:
    import torch

    with torch.no_grad():
        if model.can_generate():
            return model.generate(**batch, max_new_tokens=4, min_new_tokens=4, do_sample=False, num_beams=1)
        return {name: value for name, value in model(**batch).items() if isinstance(value, torch.Tensor)}


def _vectors(source: str, backend: str, cache: Path | None) -> Any:
    from sentence_transformers import SentenceTransformer

    cached = {} if cache is None else {"cache_folder": str(cache)}
    return SentenceTransformer(source, backend=backend, device="cpu", **cached).encode(["a cat", "the small dog ran"])


def _same_answer(mine: Any, theirs: Any, animal: Animal, changed: bool) -> bool:
    import torch

    if not isinstance(theirs, dict):
        return mine.shape == theirs.shape and (changed or bool((mine == theirs).all()))
    shared = [name for name in mine if name in theirs]
    return bool(shared) and all(
        mine[name].shape == theirs[name].shape
        and (changed or torch.allclose(mine[name], theirs[name], atol=animal.max_difference))
        for name in shared
    )
