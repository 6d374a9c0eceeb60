"""Removes secrets from output, logs and files: passwords and signatures in URLs, and access tokens.

Addresses come from users, environment variables and messages of other libraries, so any text can contain a secret. All
exceptions, log records, command output, journals and manifests of this package are masked here.
"""

from __future__ import annotations

import logging
import re
from typing import Any, Final
from urllib.parse import unquote

__all__ = ["get_logger", "mask_record", "masked", "without_secrets"]

_MASK: Final = "***"
# A text without any of these contains no secret.
_MARKS: Final = ("@", "=", "%3", "hf_", "ms-", "earer", "EARER", "uthorization")

# The patterns are compiled on first use: every process imports this module, but few mask a text.
# RFC 3986, section 3.2.1: `user:password@`. Users also type passwords with an unescaped `/` and `@`. A number and a
# slash after the colon are the port of an address whose path contains an @.
_PASSWORD: Final = r"""(?<=://)[^/\s:@'"<>\[]{0,200}:(?!\d{1,5}(?:[/?#]|$))[^\s<>]{0,300}@"""
_USER: Final = r"""(?i)\b((?:[a-z+]*(?:https?|ftps?|tcp|tls|ssh|ws|wss|smb|dav|davs|git)|s3a?|gc?s|minio|abfss?|az)://)[^/\s'"<>]+@"""
# A proxy variable may have no scheme: `user:password@host:port`.
_BARE: Final = r"""(?<![^\s'"(=,])[^\s/:@'"<>]{1,200}:[^\s/@'"<>]{1,200}@(?=[\w.\-\[\]]+:\d)"""
# The same inside another address, as in `?url=https%3A%2F%2Fuser%3Apassword%40host`.
_ENCODED: Final = r"""(?i)(%3A%2F%2F)(?:(?!%2F|%40)[^\s&'"<>]){0,200}?(?::|%3A)(?:(?!%2F)[^\s&'"<>]){0,300}%40"""
_PARAMETER: Final = r"""(?i)((?:[?&;#]|%26|%3F)([\w.\-]{1,60})(?:=|%3D))[^&;\s"'<>\\]+"""
_SECRET_NAME: Final = (
    r"(?i)signature|token|secret|passw|pwd|credential|api[_-]?key|access[_-]?key|key[_-]?id|jwt|session|bearer"
    r"|^(?:sig|sas|auth|key|pass|policy)$"
)
_HEADER: Final = r"""(?i)(authorization['"]?\s*[:=]\s*['"]?(?:(?:bearer|basic|token)\s+)?)[^\s'",}]+"""
_BEARER: Final = r"(?i)(\bbearer\s+)(?=\S*\d|\S{20})[\w.~+/=\-]{8,}"
# Tokens of Hugging Face, OAuth tokens (JSON Web Tokens), and tokens of ModelScope, which are UUIDs.
_TOKEN: Final = (
    r"(?a)(?<![A-Za-z0-9])(hf_(?:oauth_|jwt_)?|api_org_|ms-)"
    r"(?:(?=[a-z]*[A-Z0-9])[A-Za-z0-9]{16,}|[A-Za-z0-9]{20,}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})(?:\.[\w\-]+)*"
)

# Other libraries repeat parts of an address (`Invalid bucket name "KEY:SECRET@bucket"`), so a secret that was masked
# once is masked in all later texts.
_MOST_KNOWN: Final = 64
_SHORTEST: Final = 8  # Characters of a password that is masked outside an address.
_known: dict[str, None] = {}


def without_secrets(text: str) -> str:
    """Return a text with its passwords, signatures and tokens replaced by `***`."""
    if not any(mark in text for mark in _MARKS) and not any(secret in text for secret in tuple(_known)):
        return text
    for pattern in (_PASSWORD, _BARE):
        text = re.sub(pattern, _masked_password, text)
    for secret in tuple(_known):
        text = text.replace(secret, _MASK)
    text = re.sub(_USER, rf"\g<1>{_MASK}@", text)
    text = re.sub(_ENCODED, rf"\g<1>{_MASK}%40", text)
    text = re.sub(_PARAMETER, _masked_parameter, text)
    for pattern in (_HEADER, _BEARER, _TOKEN):
        text = re.sub(pattern, rf"\g<1>{_MASK}", text)
    return text


def _masked_password(found: re.Match[str]) -> str:
    both = found[0][:-1]
    password = both.partition(":")[2]
    if password and len(_known) < _MOST_KNOWN:
        alone = (text for text in (password, unquote(password)) if len(text) >= _SHORTEST)
        _known.update(dict.fromkeys((both, unquote(both), *alone)))
    return f"{_MASK}@"


def _masked_parameter(found: re.Match[str]) -> str:
    return f"{found[1]}{_MASK}" if re.search(_SECRET_NAME, found[2]) else found[0]


def masked(value: Any) -> Any:
    """Return plain data (as in JSON) with `without_secrets` applied to every string."""
    if isinstance(value, str):
        return without_secrets(value)
    if isinstance(value, dict):
        return {masked(key): masked(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [masked(item) for item in value]
    return value


def mask_record(record: logging.LogRecord) -> bool:
    """Remove the secrets from a log record, including its traceback. Usable as a filter that keeps every record."""
    try:
        message = record.getMessage()
    except (TypeError, ValueError):  # A format error of another library; logging reports it at output.
        return True
    if (plain := without_secrets(message)) != message:
        record.msg, record.args = plain, None
    if record.exc_info and not record.exc_text:
        record.exc_text = without_secrets(logging.Formatter().formatException(record.exc_info))
    return True


def get_logger(name: str) -> logging.Logger:
    """Return the logger of a module of this package. Its records contain no secrets."""
    logger = logging.getLogger(name)
    logger.addFilter(mask_record)
    return logger
