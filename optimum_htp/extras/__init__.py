"""Optional features: a plugin of this package's own hooks. Nothing else imports them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from optimum_htp.commands import CommandEntry, Destination
from optimum_htp.hookspecs import hookimpl

if TYPE_CHECKING:
    from optimum_htp.hubs.base import Hub

_COMMANDS: Final = tuple(
    CommandEntry(name, text, f"{__name__}.{name}.command:{name.capitalize()}Command")
    for name, text in {
        "batch": "Export many models in parallel; a second run resumes the first.",
        "bom": "Write a bill of materials (CycloneDX 1.6) of ONNX files: model, commit, license, digests.",
        "endpoint": "Write handler.py and requirements.txt for a Hugging Face Inference Endpoint.",
        "mirror": "Put what loading needs of a commit on a mirror, for OPTIMUM_HTP_MIRRORS to name.",
        "profile": "Measure the time of each module of an ONNX file.",
        "push": "Push stamped ONNX files to the Hugging Face Hub, with a model card, in one commit.",
    }.items()
)


@hookimpl
def optimum_htp_commands() -> Sequence[CommandEntry]:
    """Add the commands."""
    return _COMMANDS


@hookimpl
def optimum_htp_destinations() -> Sequence[Destination]:
    """Add `--push-to-hub`."""
    from optimum_htp.extras.push.command import PushDestination

    return [PushDestination()]


@hookimpl
def optimum_htp_hubs() -> Sequence[Hub]:
    """Add ModelScope. Its SDK is imported at the first request."""
    from optimum_htp.extras.modelscope.hub import ModelScopeHub

    return [ModelScopeHub()]
