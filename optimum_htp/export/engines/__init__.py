"""The engines: Optimum's exporter and transformers' own exporters, and the choice between them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from optimum_htp.errors import ArgumentError, MissingDependencyError, OptionError
from optimum_htp.export.engines.base import Engine
from optimum_htp.export.engines.optimum import OptimumEngine
from optimum_htp.export.engines.transformers import TransformersEngine
from optimum_htp.export.subject import ExportSubject
from optimum_htp.libraries.tables import supported_tasks
from optimum_htp.libraries.tasks import model_type_of
from optimum_htp.masking import get_logger

__all__ = ["ENGINES", "check_options", "chosen_engine", "engine_named"]

logger = get_logger(__name__)

ENGINES: Final[Mapping[str, type[Engine]]] = {"optimum": OptimumEngine, "transformers": TransformersEngine}


def engine_named(name: str) -> Engine:
    """Return the engine of a name, if it can run here."""
    if name not in ENGINES:
        raise ArgumentError(f"engine={name!r} is not known: use {' or '.join(ENGINES)}.")
    engine = ENGINES[name]()
    if (reason := engine.missing()) is not None:
        raise MissingDependencyError(reason)
    return engine


def check_options(options: Mapping[str, Any]) -> None:
    """Check before anything is downloaded that an engine can run here, and has these options."""
    reasons: list[str] = []
    refusals: list[OptionError] = []
    for engine in (kind() for kind in ENGINES.values()):
        if (reason := engine.missing()) is not None:
            reasons.append(reason)
            continue
        try:
            engine.options(options)
            return
        except OptionError as refusal:
            refusals.append(refusal)
    if refusals:
        raise refusals[0]
    raise MissingDependencyError(" ".join(reasons))


def chosen_engine(subject: ExportSubject, task: str | None, options: Mapping[str, Any]) -> Engine:
    """Return the engine for a model if the user names none: Optimum's if it can export the model.

    `task` is None if it is not known yet.
    """
    optimum, other = OptimumEngine(), TransformersEngine(asked_for=False)
    reason = optimum.missing()
    if reason is not None and subject.library != "transformers":
        raise MissingDependencyError(reason)
    if reason is None:
        model_type = model_type_of(subject.config)
        supported = supported_tasks(model_type, subject.library) if subject.library == "transformers" else frozenset()
        known = (task in supported) if task is not None else bool(supported)
        if known or subject.library != "transformers" or options.get("custom_onnx_configs"):
            return optimum
        if (lacking := other.missing()) is not None:  # Optimum's exporter rejects the model with its own message.
            return OptimumEngine(f" transformers' own exporters support all architectures. {lacking}")
        reason = f"Optimum's exporter does not export {model_type} models{f' for {task}' if task else ''}."
    logger.warning("Exporting %s with transformers' own exporters. %s", subject.name, reason)
    return other
