"""Keeps passwords and access tokens out of whatever is shown or written, and control characters off the terminal.

A secret is what looks like one (well-known forms of tokens, a password in a URL), or the value of an environment variable
whose name says that it is one.
"""

from __future__ import annotations

import os
import re
from functools import lru_cache

HIDDEN = "[secret]"
_FORMS = re.compile(
    r"hf_[A-Za-z0-9]{20,}"
    r"|\bsk-[A-Za-z0-9_-]{20,}"
    r"|\bgh[pousr]_[A-Za-z0-9]{30,}|\bgithub_pat_[A-Za-z0-9_]{30,}"
    r"|\bglpat-[A-Za-z0-9_-]{20,}"
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"
    r"|\bxox[abprs]-[A-Za-z0-9-]{10,}"
    r"|\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----"
    r"|(?<=://)[^/\s@]+:[^/\s@]+(?=@)"
    r"|(?i:(?<=[?&])(?:access_token|api_key|token|sig|signature|x-amz-signature)=[^&\s]{8,})"
)
_NAMES = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_?KEY|CREDENTIAL", re.IGNORECASE)
MIN_LENGTH = 8
"""Characters below which a value of the environment is too common to be hidden."""
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def looks_secret(text: str) -> bool:
    """Whether a text holds something of the form of a secret."""
    return _FORMS.search(text) is not None


def redact(text: str) -> str:
    """A text without secrets and without control characters.

    >>> redact("https://me:pass@example.org")
    'https://[secret]@example.org'
    """
    for value in _environment(tuple(os.environ.get(k, "") for k in os.environ if _names_secret(k))):
        text = text.replace(value, HIDDEN)
    return _CONTROL.sub("?", _FORMS.sub(HIDDEN, text))


@lru_cache(maxsize=1024)
def _names_secret(variable: str) -> bool:
    return _NAMES.search(variable) is not None


@lru_cache(maxsize=8)
def _environment(values: tuple[str, ...]) -> tuple[str, ...]:
    """Values to hide, longest first. Names of files and plain words of settings stay readable."""
    hidden = {v for v in values if len(v) >= MIN_LENGTH and not v.startswith(("/", "~", "."))}
    return tuple(sorted(hidden, key=len, reverse=True))
