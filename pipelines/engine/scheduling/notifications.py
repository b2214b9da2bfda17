"""
Telling people how a run ended: a command, or a POST to a web address.

Neither gets a secret, and neither can make a run fail: what goes wrong is returned in words.
"""

import json
import os
import re
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

from components.errors import UsageError
from components.runtime.redaction import redact, refuse

SECONDS = 10
"""how long an address may take to answer"""
COMMAND_SECONDS = 60
TRIES = 3
PAUSE = 2.0


def tell(hook: str, facts: Mapping[str, object], sleep: Callable[[float], None] = time.sleep) -> str:
    """Runs a command, or posts to an address; $NAME in an address is taken from the environment."""
    address = os.path.expandvars(hook)
    if is_address(address):
        return redact(_post(address, facts, sleep))
    if re.fullmatch(r"\$(\w+|\{\w+\})", address):  # a shell would run nothing, and end well
        return f"{hook} is not set where the scheduler runs"
    return redact(_run(hook, facts))


def check(hook: str, name: str) -> None:
    """Refuses a hook that holds a secret: a schedule is kept in the store."""
    remedy = f"Set a variable such as {name.upper()}_HOOK where the scheduler runs, and give '${name.upper()}_HOOK'."
    refuse(f"--{name.replace('_', '-')}", hook, remedy)
    parts = urlsplit(hook) if is_address(hook) and "$" not in hook else None
    if parts and (parts.path.strip("/") or parts.query):
        raise UsageError(
            f"--{name.replace('_', '-')} is kept in the store, and the path of an address is often its secret, but got "
            f"{shown(hook)}. {remedy}"
        )


def is_address(hook: str) -> bool:
    return hook.startswith(("http://", "https://"))


def shown(hook: str) -> str:
    """A hook as it may be printed: the path of an address is often its secret."""
    if not is_address(hook):
        return redact(hook)
    parts = urlsplit(hook)
    return f"{parts.scheme}://{parts.hostname}/..."


def _run(command: str, facts: Mapping[str, object]) -> str:
    own = {f"RAYFIELD_{name.upper()}": "" if value is None else str(value) for name, value in facts.items()}
    try:
        end = subprocess.run(
            ["/bin/sh", "-c", command],
            env={**os.environ, **own},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=COMMAND_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{type(error).__name__} of {command!r}"
    if not end.returncode:
        return ""
    said = end.stderr.decode(errors="replace").strip().splitlines()[-1:]
    return f"{command!r} ended with {end.returncode}{': ' + said[0] if said else ''}"


def _post(address: str, facts: Mapping[str, object], sleep: Callable[[float], None]) -> str:
    problem = ""
    for attempt in range(TRIES):
        if attempt:
            sleep(PAUSE * 2 ** (attempt - 1))
        problem, again = _post_once(address, facts)
        if not again:
            break
    return problem


def _post_once(address: str, facts: Mapping[str, object]) -> tuple[str, bool]:
    """Post once; return the error, and whether it may be better the next time."""
    headers = {"Content-Type": "application/json", "User-Agent": "rayfield"}
    request = urllib.request.Request(address, json.dumps(dict(facts)).encode(), headers, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=SECONDS):
            return "", False
    except urllib.error.HTTPError as error:
        return f"{shown(address)} answered {error.code}", error.code >= 500 or error.code == 429
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        return f"{shown(address)} did not answer: {type(reason).__name__}", True
