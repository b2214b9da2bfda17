"""
The pipeline: a function marked `@pipeline`, and what can be read of it without importing it.
"""

import ast
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from components.errors import UsageError, nearest, no_exit
from components.runtime.user_code import loaded
from components.step import check_function
from pipelines.engine.caching.modules import ROOT
from pipelines.engine.graph.kinds import FAMILY, is_kind


def pipeline(function: Callable[..., None] | None = None) -> Any:
    """Marks a function as a pipeline: `rayfield run` finds it by its module's name."""
    if function is None:  # @pipeline()
        return pipeline
    check_function(function, "A pipeline")
    function.is_pipeline = True  # type: ignore[attr-defined]
    return function


def called(source: Any) -> str:
    """The default name of a model that learned from a source: the source's, or that of the folder that it reads."""
    from components.sources.folder import Folder

    kind = type(source).__name__.lower()
    own = Path(source.root).resolve().name if isinstance(source, Folder) else kind
    return re.sub(r"[^\w.-]+", "-", own).strip("-.") or kind  # MLflow takes no other characters


@dataclass(frozen=True)
class Parameter:
    """One parameter, as its signature writes it."""

    name: str
    annotation: str
    default: str
    help: str


@dataclass(frozen=True)
class Sketch:
    """A pipeline as its file describes it."""

    name: str
    path: Path
    doc: str
    parameters: tuple[Parameter, ...]


def names() -> list[str]:
    """Every pipeline: the modules of pipelines/ that hold one."""
    return sorted(p.stem for p in (ROOT / "pipelines").glob("*.py") if "@pipeline" in p.read_text(encoding="utf-8"))


def find(name: str) -> Path:
    """The file of a pipeline, by its name or by its path."""
    if name.endswith(".py"):
        path = Path(name)
        if not path.is_file():
            raise UsageError(f"No file {name}. A pipeline is a name of `rayfield pipelines`, or a path of your own.")
        return path.resolve()
    if name not in names():
        raise UsageError(f"No pipeline {name!r}.{nearest(name, names())} `rayfield pipelines` lists all.")
    return ROOT / "pipelines" / f"{name}.py"


def sketch(path: Path) -> Sketch:
    """A pipeline by its file's text; nothing is imported."""
    try:
        tree = ast.parse(path.read_bytes())
    except SyntaxError as error:
        raise UsageError(f"{path}, line {error.lineno}, is not Python: {error.msg}.") from None
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and any(map(_marks, node.decorator_list)):
            doc = ast.get_docstring(node) or ast.get_docstring(tree) or ""
            return Sketch(path.stem, path, doc.strip(), tuple(_parameters(node, path)))
    raise UsageError(f"{path} has no @pipeline: mark the function that draws it.")


def _marks(decorator: ast.expr) -> bool:
    """True if a decorator is @pipeline or @pipeline()."""
    return getattr(getattr(decorator, "func", decorator), "id", "") == "pipeline"


def _parameters(node: ast.FunctionDef | ast.AsyncFunctionDef, path: Path) -> list[Parameter]:
    arguments = [*node.args.args, *node.args.kwonlyargs]
    defaults = [None] * (len(node.args.args) - len(node.args.defaults)) + node.args.defaults + node.args.kw_defaults
    _all_named(node, path)
    help_ = _help(ast.get_docstring(node) or "")
    return [
        Parameter(
            a.arg,
            ast.unparse(a.annotation) if a.annotation else "str",
            _written(d) if d is not None else "",
            help_.get(a.arg, ""),
        )
        for a, d in zip(arguments, defaults, strict=True)
    ]


def _all_named(node: ast.FunctionDef | ast.AsyncFunctionDef, path: Path) -> None:
    """Refuses parameters that no option can name."""
    nameless = [*node.args.posonlyargs, *filter(None, (node.args.vararg, node.args.kwarg))]
    if nameless:
        raise UsageError(
            f"Each parameter of a pipeline is an option by its name, but line {nameless[0].lineno} of {path} has "
            f"{nameless[0].arg!r}, which has none. Write it without '/' and without '*'."
        )


def _written(default: ast.expr) -> str:
    """A default as people would type it, or as the file has it."""
    try:
        value = ast.literal_eval(default)
        return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    except ValueError:
        return ast.unparse(default)


def _help(doc: str) -> dict[str, str]:
    """The lines "name: what it is" of a docstring."""
    lines = (line.strip().partition(": ") for line in doc.splitlines())
    return {name: text for name, _, text in lines if name.isidentifier() and text}


def load(path: Path) -> Callable[..., None]:
    """The pipeline itself, imported."""
    with no_exit(f"Importing {path}"):
        module = loaded(path)
    own = [v for v in vars(module).values() if getattr(v, "is_pipeline", False) and v.__module__ == module.__name__]
    return own[0]


def _all_known(function: Callable[..., None], source: str, given: Mapping[str, str]) -> None:
    """Refuse settings that are neither parameters of the pipeline nor fields of its source."""
    from dataclasses import fields

    from components.source import kind_of

    parameters, own = list(inspect.signature(function).parameters), [f.name for f in fields(kind_of(source))]
    for name in given:
        if name not in own:
            raise UsageError(
                f"Neither pipeline {function.__name__!r} nor source {source!r} has {name!r}."
                f"{nearest(name, parameters + own)} They have {', '.join(parameters)}; {', '.join(own)}."
            )


def _unknown(function: Callable[..., None], name: str) -> UsageError:
    known = list(inspect.signature(function).parameters)
    return UsageError(
        f"Pipeline {function.__name__!r} has no parameter {name!r}.{nearest(name, known)} It has {', '.join(known)}."
    )


def _no_secrets(given: Mapping[str, str], hints: Mapping[str, Any]) -> None:
    """Refuses a secret on the command line: parameters are written down, in plans and in manifests."""
    from components.runtime.redaction import is_secret, redact

    for name, text in given.items():
        if (is_secret(name) and hints.get(name, str) is str) or redact(text) != text:
            raise UsageError(
                f"A parameter is written into plans and manifests, but --{name} holds a secret. "
                f"Set a variable such as {name.upper()} instead, and read it where it is needed."
            )


def options(words: Sequence[str]) -> dict[str, str]:
    """--name value, --name=value and --flag."""
    found: dict[str, str] = {}
    left = list(words)
    while left:
        word = left.pop(0)
        if not word.startswith("--"):
            raise UsageError(f"An option begins with --, but got {word!r}. `rayfield run PIPELINE --help` lists them.")
        name, sign, value = word[2:].partition("=")
        if not sign:
            value = left.pop(0) if left and not left[0].startswith("--") else "true"
        found[name.replace("-", "_")] = value
    return found


def _family_kind(kind: Any) -> type[Any] | None:
    """The class that Classifier, type[Classifier] or tuple[Classifier, ...] asks for; None where it is no family."""
    inner = get_args(kind)[0] if get_origin(kind) in (type, tuple) else kind
    return inner if is_kind(inner, FAMILY) else None


def _family(asked: Any, kind: type[Any], parameter: str) -> Any:
    """The family of a name; one of another kind is refused now, and not by the step that cannot use it."""
    from components.family import find, names

    found = find(asked) if isinstance(asked, str) else asked
    if isinstance(asked, str) and not issubclass(found, kind):
        fit = " or ".join(name for name in names() if issubclass(find(name), kind))
        raise UsageError(f"--{parameter} must be a {kind.__name__.lower()}, but {asked} is none. Pass {fit}.")
    return found


def _hints(function: Callable[..., None]) -> dict[str, Any]:
    """The annotations of a pipeline, those in quotes as what they name."""
    try:
        return get_type_hints(function, include_extras=True)
    except (NameError, AttributeError, SyntaxError, TypeError) as error:
        raise UsageError(
            f"Each annotation of a pipeline is a type that its file has, but {function.__name__!r} has another: "
            f"{error}. Import it, or correct it."
        ) from None


def values(function: Callable[..., None], texts: Mapping[str, str], source: Mapping[str, str]) -> dict[str, Any]:
    """The parameters of a pipeline: each text read as its annotation says, the rest by default."""
    from components.parameters import check, read
    from components.source import Source, worded
    from components.source import find as find_source

    hints, signature = _hints(function), inspect.signature(function)
    _no_secrets({**texts, **source}, hints)
    if source and Source not in hints.values():
        raise _unknown(function, next(iter(source)))
    found: dict[str, Any] = {}
    for name, parameter in signature.parameters.items():
        kind = hints.get(name, str)
        given = texts.get(name, parameter.default)
        if kind is Source and isinstance(given, str):
            word, more = worded(given)
            settings = {**options(more), **source}
            _all_known(function, word, settings)
            found[name] = find_source(word, settings)
        elif wanted := _family_kind(kind):
            several = get_origin(kind) is tuple
            asked = read(given, tuple[str, ...], f"--{name}") if several and isinstance(given, str) else given
            found[name] = (
                tuple(_family(one, wanted, name) for one in asked) if several else _family(asked, wanted, name)
            )
        else:
            found[name] = read(given, kind, f"--{name}") if name in texts else given
            check(found[name], kind, f"--{name}", f"Pass another --{name}.")
    return found
