"""
The command line: `rayfield --help` teaches it.

A command is a file of pipelines/commands/ with a function of its own name. Torch, Ray and MLflow are imported by the
commands that need them.
"""

import importlib
import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from components.errors import RayfieldError, UsageError, nearest
from components.secrets import redact

FOLDER = Path(__file__).with_name("commands")
SECTIONS = ("Run", "See", "Models", "Cluster", "Schedule", "Look after", "Develop")

STORE = click.option("--store", metavar="ADDRESS", envvar="RAYFIELD_STORE", help="Where everything is kept [.rayfield]")
JSON = click.option("--json", "as_json", is_flag=True, help="JSON on stdout")
SETS = click.option(
    "--set",
    "sets",
    multiple=True,
    metavar="FAMILY.FIELD=VALUE",
    help="A field of every such family; of a searched field, where trial 0 begins",
)
OPEN = {"ignore_unknown_options": True, "allow_extra_args": True}
"""of a command that takes a pipeline's own parameters too"""


class Main(click.Group):
    """Finds the commands, and ends the mistakes of people in one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(path.stem.replace("_", "-") for path in FOLDER.glob("[a-z]*.py"))

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in self.list_commands(ctx):
            return None
        return getattr(_module(name), name.replace("-", "_"))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands by section, in the order in which a team meets them."""
        rows = defaultdict(list)
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            assert command is not None
            rows[_module(name).SECTION].append((name, command.get_short_help_str(90)))
        for section in SECTIONS:
            if rows[section]:
                with formatter.section(section):
                    formatter.write_dl(rows[section])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except RayfieldError as error:
            click.echo(f"rayfield: {redact(str(error))}", err=True)
            ctx.exit(error.code)
        except OSError as error:
            if error.errno not in (13, 28, 30):
                raise
            words = {13: "may not be opened", 28: "is full", 30: "is read-only"}[error.errno]
            where = error.filename or os.environ.get("RAYFIELD_STORE", ".rayfield")
            click.echo(
                f"rayfield: {where} {words}. Make room, or pass --store; a run continues where it was.", err=True
            )
            ctx.exit(1)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        known = self.list_commands(ctx)
        if args and args[0] not in known:
            raise UsageError(f"No command {args[0]!r}.{nearest(args[0], known)} `rayfield --help` lists all.")
        return super().resolve_command(ctx, args)


def _module(name: str) -> Any:
    return importlib.import_module(f"pipelines.commands.{name.replace('-', '_')}")


@click.group(cls=Main, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option("0.2.0", prog_name="rayfield")
def main() -> None:
    """
    Pipelines from raw 3D shapes to registered models.

    \b
      rayfield run quickstart                     the whole way, on this machine, in minutes
      rayfield run classify --source folder --root DIR      your own meshes: one folder a label
      rayfield predict models:/furniture@champion chair.obj
      rayfield ui                                 the runs and the models, in MLflow
    """


def store_at(address: str | None) -> Any:
    """The store of a command."""
    from pipelines.engine.store import Store

    os.environ["RAYFIELD_STORE"] = address or ".rayfield"
    return Store.here()


def request_of(name: str, extra: list[str], sets: Sequence[str]) -> Any:
    """What was asked for: a pipeline, its parameters, the fields of families and of the source."""
    from pipelines.engine.pipeline import find, options, sketch
    from pipelines.engine.plans import Request

    path = find(name)
    known = {parameter.name for parameter in sketch(path).parameters}
    given = options(extra)
    texts = {n: v for n, v in given.items() if n in known}
    return Request(path, texts, _settings(sets), {n: v for n, v in given.items() if n not in known})


def _settings(sets: Sequence[str]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for text in sets:
        target, sign, value = text.partition("=")
        family, dot, field = target.partition(".")
        if not (sign and dot):
            raise UsageError(f"--set is family.field=value, but got {text!r}. For example --set voxnet.lr=3e-4.")
        found.setdefault(family, {})[field] = value
    return found


if __name__ == "__main__":
    main()
