"""
The command line: `rayfield --help` teaches it.

A command is a file of cli/commands/ with a function of its own name. Torch, Ray and MLflow are imported by the
commands that need them.
"""

import importlib
import io
import os
import sys
import traceback
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from components.errors import RayfieldError, UsageError, nearest
from components.parameters import check_text
from components.runtime import objects
from components.runtime.filesystem import absolute, check, is_remote
from components.runtime.redaction import redact, refuse
from pipelines.cli.hints import remember, with_store

FOLDER = Path(__file__).with_name("commands")
SECTIONS = ("Run", "See", "Models", "Cluster", "Schedule", "Look after", "Develop")

STORE = click.option("--store", metavar="ADDRESS", envvar="RAYFIELD_STORE", help="Where everything is kept [.rayfield]")
JSON = click.option("--json", "as_json", is_flag=True, help="JSON on stdout")
FULL = {13: "may not be opened", 28: "is full", 30: "is read-only"}
"""what a disk refuses, by the number of an OSError"""
BOTO = "botocore.exceptions.BotoCoreError"
"""whatever an S3 client finds wrong before it asks: no keys, half of them, no such profile, a name that is none"""
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
        _never_stumble()
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise  # click's own words and ways to end
        except Exception as error:
            words = _words(error)
            # an error that nobody foresaw is shown whole, but an address in it may hold a password
            told = with_store(f"rayfield: {words}") if words else traceback.format_exc().rstrip()
            click.echo(redact(told), err=True)
            ctx.exit(error.code if isinstance(error, RayfieldError) else 1)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        for word in args:
            check_text(word, "An argument")
        known = self.list_commands(ctx)
        if args and args[0] not in known:
            _refuse_pipeline(args[0])
            raise UsageError(f"No command {args[0]!r}.{nearest(args[0], known)} `rayfield --help` lists all.")
        return super().resolve_command(ctx, args)


def _refuse_pipeline(word: str) -> None:
    """A pipeline in a command's place is `run`'s to carry out."""
    from pipelines.engine.pipeline import names

    if word.endswith(".py") or word in names():
        raise UsageError(f"A command comes first, but {word} is a pipeline. Run it: `rayfield run {word}`.")


def _never_stumble() -> None:
    """Lets stdout write what the terminal's encoding has not, such as the ± of a score, as stderr does: escaped."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _words(error: Exception) -> str:
    """One line for what people, this machine or a bucket refuse; nothing for a mistake of ours."""
    if isinstance(error, RayfieldError):
        return str(error)
    if isinstance(error, OSError) and error.errno in FULL:
        where = error.filename or objects.root()
        return f"{where} {FULL[error.errno]}. Make room, or pass --store; a run continues where it was."
    if any(f"{kind.__module__}.{kind.__name__}" == BOTO for kind in type(error).__mro__):
        said = " ".join(str(error).split()).rstrip(".")
        remedy = "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        return f"S3 needs keys and a bucket's name: {said}. {remedy}."
    return ""


def _module(name: str) -> Any:
    return importlib.import_module(f"pipelines.cli.commands.{name.replace('-', '_')}")


@click.group(cls=Main, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="rayfield", prog_name="rayfield")
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
    from pipelines.engine.store.store import Store

    remember(address or "")
    address = address or objects.DEFAULT
    _check_store(address)
    objects.use(address)
    if os.environ.get("MLFLOW_TRACKING_URI"):
        os.environ["MLFLOW_TRACKING_URI"] = objects.tracking_uri()
    if cache := os.environ.get("RAYFIELD_CACHE"):
        os.environ["RAYFIELD_CACHE"] = absolute(cache)
    return Store.here()


def _check_store(address: str) -> None:
    """A store that could never be one is told now; a folder that is not there yet is made when it is written."""
    if not is_remote(address):
        path = Path(address.removeprefix("file://"))
        there = next((p for p in (path, *path.parents) if p.exists()), path)
        if there.exists() and not there.is_dir():
            raise UsageError(f"--store is a folder or an address, but {there} is a file. For example .rayfield.")
        return
    refuse("--store", address, "Its keys go into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or into FSSPEC_S3.")
    import fsspec

    try:
        for protocol in address.partition("://")[0].split("::"):
            fsspec.get_filesystem_class(protocol)
    except ValueError:
        raise UsageError(
            f"--store is a folder or an address such as s3://bucket/rayfield, but got {address}."
        ) from None
    except ImportError as error:
        raise UsageError(f"--store {address} needs a package that is not here: {error}.") from None
    check(address)


def request_of(name: str, extra: list[str], sets: Sequence[str]) -> Any:
    """The request of a command line: a pipeline, its parameters, the fields of families and of the source."""
    from components.runtime.user_code import in_full
    from pipelines.engine.graph.plan_cache import Request
    from pipelines.engine.pipeline import find, options, sketch

    path = find(name)
    known = {parameter.name for parameter in sketch(path).parameters}
    given = options(extra)
    texts = {n: in_full(v) for n, v in given.items() if n in known}
    return Request(path, texts, _settings(sets), located({n: v for n, v in given.items() if n not in known}))


def located(source: Mapping[str, str]) -> dict[str, str]:
    """The fields of a source with its --root as every process finds it, whatever its folder; a plan is known by it."""
    return {name: absolute(value) if name == "root" and value else value for name, value in source.items()}


def _settings(sets: Sequence[str]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for text in sets:
        target, sign, value = text.partition("=")
        family, dot, field = target.partition(".")
        if not (sign and dot):
            raise UsageError(f"--set is family.field=value, but got {text!r}. For example --set voxnet.lr=3e-4.")
        refuse(f"--set {target}", value, "Set a variable instead, and read it where it is needed.")
        found.setdefault(family, {})[field] = value
    return found


if __name__ == "__main__":
    main()
