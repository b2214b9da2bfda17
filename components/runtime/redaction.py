"""
Secrets: what must never be written where others read it.

Whatever people will read (logs, tracebacks, run records, MLflow's parameters, reports) goes through `redact` first.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import quote

from components.errors import UsageError

HIDDEN = "***"
SHORTEST = 6  # characters: what is shorter is a word such as "true", and would be found everywhere

_NAME = re.compile(
    r"((KEY|TOKEN|PASSWORD|PASSWD|SECRET|CREDENTIAL|CREDENTIALS)S?(_ID|_FILE)?"
    r"|PASSPHRASE|_PASS|_PWD|CONNECTION_?STRING|WEBHOOK(_URL)?)$",
    re.IGNORECASE,
)
# capitals alone: a step's parameter may be called token_mixer or file_pat; what limits or names a secret is none
_VARIABLE = re.compile(
    r"_PAT$|(^|_)(TOKEN|PASSWORD|SECRET|API_?KEY|ACCESS_KEY)_"
    r"(?!(\w+_)?(LIMIT|COUNT|SIZE|LENGTH|MIN|MAX|TTL|SECONDS|NAME|TYPE|URL|URI|PATH|DIR|ARN|REGION|ENABLED)$)"
)
_WORDED = re.compile(r"(?<=://)[^\s/?#@'\":]*:(?!\d{1,5}[/?#])[^\s'\"]*@")  # https://user:wo/rd@host, but host:80/a@b
_USER = re.compile(r"(?<=://)[^\s/?#@'\"]+@")  # https://word@host
_SIGNED = re.compile(
    r"((?:X-Amz-(?:Signature|Credential|Security-Token)|sig|access_token|AccountKey|SharedAccessKey)="
    r"|[?&](?:[\w.-]*(?:token|secret|password|passwd|api[_-]?key|signature)|key)="
    r"|\b(?:X-[\w-]*(?:Key|Token)|Private-Token):\s*"
    # addresses of which whoever knows the path may write
    r"|//hooks\.slack\.com/\w+/|//(?:[\w-]+\.)?discord(?:app)?\.com/api/webhooks/|\.webhook\.office\.com/"
    r"|\bBearer\s+|\bBasic\s+(?=\S{12}))[^\s&'\",]+",
    re.IGNORECASE,
)


def redact(text: str) -> str:
    """The text with the values of secret variables, the users of addresses and signatures replaced by ***."""
    for value in _values():
        text = text.replace(value, HIDDEN)
    for user in (_WORDED, _USER):
        text = user.sub(f"{HIDDEN}@", text)
    return _SIGNED.sub(rf"\1{HIDDEN}", text)


def redacted(value: Any, name: str = "") -> Any:
    """The same nest of plain data with each of its texts redacted, and whatever has a secret's name hidden whole."""
    if isinstance(value, Mapping):
        return {key: redacted(inner, str(key)) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(inner, name) for inner in value]
    if isinstance(value, str):
        return HIDDEN if value and is_secret(name) else redact(value)
    return value


def hide_in(error: BaseException) -> None:
    """Redacts the words of an error, and of those that led to it, in place: Ray writes what a worker raises."""
    waiting, seen = [error], set[int]()
    while waiting:
        one = waiting.pop()
        if id(one) not in seen:
            seen.add(id(one))
            _hide_words(one)
            waiting += [other for other in (one.__cause__, one.__context__) if other is not None]


def _hide_words(error: BaseException) -> None:
    error.args = tuple(redact(one) if isinstance(one, str) else one for one in error.args)
    for name in ("strerror", "filename", "filename2") if isinstance(error, OSError) else ():
        value = getattr(error, name)
        if isinstance(value, str) and redact(value) != value:
            setattr(error, name, redact(value))


def refuse(what: str, text: str, remedy: str) -> None:
    """Ends what was asked for if a text that will be written down holds a secret."""
    if redact(text) != text:
        raise UsageError(f"{what} is written where others read it, but holds a secret. {remedy}")


def is_secret(name: str) -> bool:
    """True if a variable of this name holds something secret."""
    if name.lower() == "key":  # a step's
        return False
    return bool(_NAME.search(name.replace("-", "_")) or _VARIABLE.search(name))


def holds_secret(name: str, value: str) -> bool:
    """True if a variable is a secret, or has one in it; a short one as well."""
    return redact(value) != value or any(_held(name, value))


def _values() -> list[str]:
    """The secrets of this process's environment, as they are and as addresses hold them; the longest first."""
    found = set()
    for name, value in os.environ.items():
        for secret in _held(name, value):
            parts = {secret, *(line for line in secret.splitlines() if not line.startswith("-----"))}
            found |= {form for part in parts for form in (part.strip(), quote(part.strip(), safe=""))}
    return sorted((value for value in found if len(value) >= SHORTEST), key=len, reverse=True)


def _held(name: str, value: Any) -> Iterator[str]:
    """A variable's own value if that is secret, and what JSON in it names so, as FSSPEC_S3='{"key": ...}' does."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        with suppress(ValueError):
            yield from _held(name, json.loads(value))
    if isinstance(value, Mapping):
        for inner, one in value.items():
            yield from _held("access_key" if inner == "key" else inner, one)
    elif isinstance(value, str) and is_secret(name):
        yield value
