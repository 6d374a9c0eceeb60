"""Found by optimum-cli; see optimum_htp.cli. An exception in here would break every command of optimum-cli."""

try:
    from optimum_htp.cli import REGISTER_COMMANDS
except Exception as error:
    REGISTER_COMMANDS = []
    try:
        from optimum_htp_autoload import report

        report(error)
    except Exception:  # the module that reports is broken too; the first error is the one to tell
        __import__("logging").getLogger("optimum_htp").warning("optimum-htp is broken: %s. Reinstall it.", error)
