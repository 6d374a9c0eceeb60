"""Imported by optimum-cli; see optimum_htp.cli. An exception here would break every command of optimum-cli."""

try:
    from optimum_htp.cli import REGISTER_COMMANDS
except Exception as error:
    REGISTER_COMMANDS = []
    try:
        from optimum_htp_autoload import report

        report(error)
    except Exception:  # The reporting module is broken too, so report the first error.
        __import__("logging").getLogger("optimum_htp").warning("optimum-htp is broken: %s. Reinstall it.", error)
