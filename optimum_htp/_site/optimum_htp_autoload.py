"""Called by PyTorch at the end of `import torch`, so that Optimum's classes load .onnx files.

This module is alone in site-packages. An exception here would be raised by `import torch`, so it raises none, and
logs one warning instead.
"""

import logging

_reported = False


def autoload() -> None:
    """Activate optimum-htp, or log why this is not possible."""
    try:
        from optimum_htp.hooks.activation import activate

        activate()
    except Exception as error:
        report(error)


def report(error: Exception) -> None:
    """Log a warning, once in a process, that optimum-htp is broken."""
    global _reported
    if not _reported:
        _reported = True
        logging.getLogger("optimum_htp").warning(
            "optimum-htp is installed, but broken (%s: %s), and is left out. Run `pip install --force-reinstall "
            "--no-deps optimum-htp`, or uninstall it.",
            type(error).__name__,
            error,
        )
