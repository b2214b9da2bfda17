"""
Secrets: what must never be written where others read it.

Whatever people will read (logs, tracebacks, run records, MLflow's parameters, reports) goes through `redact` first.
"""

import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

HIDDEN = "***"
SHORTEST = 6  # characters: what is shorter is a word such as "true", and would be found everywhere

_NAME = re.compile(r"(KEY|TOKEN|PASSWORD|PASSWD|SECRET|CREDENTIAL|CREDENTIALS)S?(_ID|_FILE)?$", re.IGNORECASE)
_USER = re.compile(r"(?<=://)[^\s/?#@'\"]+@")  # https://user:word@host
_SIGNED = re.compile(
    r"((?:X-Amz-(?:Signature|Credential|Security-Token)|sig|access_token)=|\bBearer\s+|\bBasic\s+(?=\S{12}))[^\s&'\",]+",
    re.IGNORECASE,
)


def redact(text: str) -> str:
    """The text with the values of secret variables, the users of addresses and signatures replaced by ***."""
    for value in _values():
        text = text.replace(value, HIDDEN)
    return _SIGNED.sub(rf"\1{HIDDEN}", _USER.sub(f"{HIDDEN}@", text))


def redacted(value: Any, name: str = "") -> Any:
    """The same nest of plain data with each of its texts redacted, and whatever has a secret's name hidden whole."""
    if isinstance(value, Mapping):
        return {key: redacted(inner, str(key)) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(inner, name) for inner in value]
    if isinstance(value, str):
        return HIDDEN if value and is_secret(name) else redact(value)
    return value


def is_secret(name: str) -> bool:
    """Whether a variable of this name holds something secret."""
    return name.lower() != "key" and bool(_NAME.search(name.replace("-", "_")))  # a bare "key" is a step's


def _values() -> list[str]:
    """The secrets of this process's environment, as they are and as addresses hold them; the longest first."""
    found = set()
    for name, value in os.environ.items():
        if is_secret(name):
            parts = {value, *(line for line in value.splitlines() if not line.startswith("-----"))}
            found |= {form for part in parts for form in (part.strip(), quote(part.strip(), safe=""))}
    return sorted((value for value in found if len(value) >= SHORTEST), key=len, reverse=True)
