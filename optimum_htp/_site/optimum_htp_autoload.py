"""Called by PyTorch at the end of `import torch`, so that Optimum's classes load .onnx files by themselves.

Stands alone in site-packages: what it raised, `import torch` would raise for everybody. So it raises nothing,
and says in one warning what is wrong.
"""

import logging

_reported = False


def autoload() -> None:
    """Activate optimum-htp, or say why that cannot be."""
    try:
        from optimum_htp.hooks.activation import activate

        activate()
    except Exception as error:
        report(error)


def report(error: Exception) -> None:
    """Warn, once in a process, that optimum-htp is installed and broken."""
    global _reported
    if not _reported:
        _reported = True
        logging.getLogger("optimum_htp").warning(
            "optimum-htp is installed, but broken (%s: %s), and is left out. Run `pip install --force-reinstall "
            "--no-deps optimum-htp`, or uninstall it.",
            type(error).__name__,
            error,
        )
