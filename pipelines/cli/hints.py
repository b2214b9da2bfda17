"""
Commands that are printed: each is what to type next, so it names the store that this command was given.
"""

import re
import shlex

from components.runtime.redaction import redact

STORELESS = ("families", "new", "pipelines")
"""commands that take no --store"""


def remember(address: str) -> None:
    """Remembers --store as it was typed, for as long as this command runs."""
    import click

    context = click.get_current_context(silent=True)
    if context is not None and context.get_parameter_source("store") is click.core.ParameterSource.COMMANDLINE:
        context.meta[__name__] = address


def typed(command: str) -> str:
    """ "rayfield show last" with the --store that was typed; without one, as it is."""
    import click

    context = click.get_current_context(silent=True)
    address = context.meta.get(__name__) if context else None
    if address is None or command.split()[1] in STORELESS or "--help" in command:
        return command
    return f"{command} --store {shlex.quote(redact(address))}"


def with_store(text: str) -> str:
    """The same of every `rayfield ...` between backticks in a text."""
    return re.sub(r"`(rayfield \w[^`]*)`", lambda found: f"`{typed(found[1])}`", text)
