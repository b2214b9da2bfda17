"""
The step: a function that, while a pipeline is drawn, returns a handle instead of running.

    @step(aside=("workers",))
    def train(family: Family, table: Table, *, workers: int = 1, context: Context) -> Checkpoint: ...

Called outside a drawing it runs at once, so that tests and notebooks need no engine.
"""

import atexit
import inspect
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from components.errors import DataError, UsageError
from components.parameters import check
from components.source import Asset, Source


class Context(Protocol):
    """The services that a running step may ask for. It is not in the step's key."""

    seed: int
    resources: Mapping[str, float]
    """what the cluster offers: CPU, GPU"""

    @property
    def scratch(self) -> str:
        """A folder named by the step's key that outlives a crash: checkpoints lie there."""

    def log(self, metrics: Mapping[str, float], step: int, *, trial: str = "") -> None:
        """Numbers of one update, or of one trial's."""

    def note(self, params: Mapping[str, Any], *, trial: str = "") -> None:
        """Parameters and words that describe the step, or one of its trials."""

    def figure(self, name: str, picture: Any, *, step: int | None = None) -> None:
        """A picture: uint8 [H, W, 3], or a matplotlib Figure."""

    def file(self, name: str, data: bytes) -> None:
        """A file for a person to take away."""

    def progress(self, done: float, total: float, unit: str = "") -> None:
        """How far the step is."""

    def listed(self, source: Source) -> list[Asset]:
        """
        The assets of a source that the step was given, as its key holds them.

        Raises `Changed` where they are others by now: what is made of them would have the wrong key.
        """

    def key(self, *, of: Callable[..., Any] | None = None, **parts: Any) -> str:
        """
        The key of a part of this step's work: of those parts, and of the code that they use.

        `of` is the function whose work it is; by default the step's own.
        """

    def recall(self, key: str) -> Any:
        """The value that was remembered under a key; None if there is none."""

    def remember(self, key: str, artifact: Any) -> None:
        """Keeps a part of the work, so that a killed or extended run does not do it again."""

    def alone(self, name: str) -> AbstractContextManager[None]:
        """Of all the drivers of a store one at a time does what is inside."""

    def flush(self) -> None:
        """Makes what was said so far safe: a worker calls it before it ends."""

    def working(self, name: str, gpus: float = 0) -> AbstractContextManager[None]:
        """Work of a process for this step: what it prints is in the step's logs, what it takes in its cost."""


class Drawing(Protocol):
    """The graph on which the engine draws steps."""

    def add(self, step: "Step", arguments: Mapping[str, Any]) -> Any: ...


current_drawing: ContextVar[Drawing | None] = ContextVar("drawing", default=None)
_default_context: ContextVar[Context | None] = ContextVar("context", default=None)


class Step:
    """A function of artifacts and parameters, with the names that its key leaves aside."""

    def __init__(
        self,
        function: Callable[..., Any],
        outputs: tuple[str, ...],
        aside: tuple[str, ...],
        spreads: bool = False,
        strict: bool = False,
        registers: bool = False,
    ) -> None:
        check_function(function, "A step")
        self.function, self.outputs, self.aside, self.spreads = function, outputs, aside, spreads
        self.strict, self.registers = strict, registers
        self.name = function.__name__
        self.module = function.__module__
        self.signature = inspect.signature(function)
        _check_parameters(self.name, self.signature)
        self.__doc__, self.__name__, self.__wrapped__ = function.__doc__, self.name, function

    @property
    def id(self) -> str:
        """The step by a name that outlives a move of its file: step:train; own:shapes:score for one of one's own."""
        ours = self.module.startswith("components.steps.")
        return f"step:{self.name}" if ours else f"own:{self.module}:{self.function.__qualname__}"

    @property
    def draws(self) -> bool:
        """True if its result is a figure, so that the code that draws is in its key."""
        return "Figure" in str(self.signature.return_annotation)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        arguments = self.bind(args, kwargs)
        drawing = current_drawing.get()
        if drawing is not None:
            return drawing.add(self, arguments)
        return self.run(arguments, _default_context.get() or Printing())

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments by name, defaults included; the context is not among them."""
        try:
            bound = self.signature.bind_partial(*args, **kwargs)
            missing = [p.name for p in self._own() if p.default is p.empty and p.name not in bound.arguments]
            if missing:
                raise TypeError(f"missing a required argument: {missing[0]!r}")
        except TypeError as error:
            known = ", ".join(p.name for p in self._own())
            raise UsageError(f"{self.name}() takes {known}: {error}.") from None
        bound.apply_defaults()
        for parameter in self._own():
            check(bound.arguments[parameter.name], parameter.annotation, f"`{parameter.name}` of {self.name}")
        return {p.name: bound.arguments[p.name] for p in self._own()}

    def _own(self) -> list[inspect.Parameter]:
        return [p for p in self.signature.parameters.values() if p.name != "context"]

    def run(self, arguments: Mapping[str, Any], context: Context) -> Any:
        """The function itself."""
        extra = {"context": context} if "context" in self.signature.parameters else {}
        made = self.function(**arguments, **extra)
        if self.outputs and not (isinstance(made, tuple | list) and len(made) == len(self.outputs)):
            got = f"{len(made)} values" if isinstance(made, tuple | list) else type(made).__name__
            raise DataError(
                f"{self.name} has {len(self.outputs)} outputs, {', '.join(self.outputs)}, but returned {got}. "
                "Return one value for each, or correct `outputs`."
            )
        return made


def check_function(function: Callable[..., Any], what: str) -> None:
    """Refuses what has no name to be found by, and what returns before its work is done."""
    name = getattr(function, "__qualname__", type(function).__name__)
    outer = name.rpartition(".")[0]
    if getattr(function, "__name__", "<lambda>") == "<lambda>":
        raise UsageError(f"{what} is a function with a name, but got a {name.rpartition('.')[2]}. Write it with def.")
    if outer and not outer.endswith("<locals>"):
        raise UsageError(
            f"{what} is a function at the top of a file, but {name} is in a class. Move it out of {outer}."
        )
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise UsageError(f"{what} returns when its work is done, but {name} yields. Write it without yield.")
    if inspect.iscoroutinefunction(function):
        raise UsageError(f"{what} returns when its work is done, but {name} is async. Write it without async.")


def _check_parameters(name: str, signature: inspect.Signature) -> None:
    nameless = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    for parameter in signature.parameters.values():
        if parameter.kind in nameless:
            raise UsageError(
                f"A step's key names each of its parameters, but {name} has `{parameter}`, which takes any or has no "
                "name. Write each out, without * and /; several values are one list or one dict."
            )


def step(
    function: Callable[..., Any] | None = None,
    *,
    outputs: tuple[str, ...] = (),
    aside: tuple[str, ...] = (),
    spreads: bool = False,
    strict: bool = False,
    registers: bool = False,
) -> Any:
    """
    Makes a step.

    `outputs` names several results; `aside` names what the result does not depend on. A step that `spreads` has its
    work done by other processes; any other takes a CPU while it runs. A `strict` step fails where it reads a file, a
    variable or a module that its key does not hold; of any other the manifest names it. One that `registers` gives a
    `Model`, a version in MLflow: a kept one is looked for there, and made anew where it is not.
    """
    if function is not None:
        return Step(function, (), ())
    return lambda made: Step(made, outputs, aside, spreads, strict, registers)


class HandleError(UsageError):
    """A pipeline's shape may depend on parameters and listings, never on a result."""


@dataclass(frozen=True, eq=False, repr=False)
class Handle:
    """The future result of a step. While a pipeline is drawn nothing is known of it."""

    step: str
    """the step's name, for errors"""
    key: str
    output: str = ""

    def _refuse(self, what: str, instead: str) -> HandleError:
        return HandleError(f"The result of {self.step} is not known while the pipeline is drawn: {what}. {instead}")

    def __bool__(self) -> bool:
        raise self._refuse("it is neither true nor false", "Decide inside a step, as best_of and register do.")

    def __iter__(self) -> Any:
        raise self._refuse("it cannot be looped over", "Loop over parameters or over `source.groups(...)`.")

    def __len__(self) -> int:
        raise self._refuse("it has no length", "Count inside a step.")

    def __str__(self) -> str:
        raise self._refuse("it has no text", "Name things after parameters, or write the text inside a step.")

    def __format__(self, spec: str) -> str:
        return str(self)

    def __repr__(self) -> str:
        return f"<what {self.step} will make>"

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Handle):
            return self is other
        raise self._refuse("it cannot be compared", "Compare inside a step.")

    def __hash__(self) -> int:
        return hash((self.key, self.output))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise self._refuse(f"it has no .{name}", "Pass the whole result on; the step that takes it reads its parts.")

    def __getitem__(self, name: object) -> Any:
        raise self._refuse(f"it has no [{name!r}]", "Pass the whole result on, or name the step's outputs.")

    def _no_arithmetic(self, *_: object) -> Any:
        raise self._refuse("it is no number", "Compute inside a step.")

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _no_arithmetic
    __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = __pow__ = __rpow__ = __matmul__ = __rmatmul__ = _no_arithmetic
    __lt__ = __le__ = __gt__ = __ge__ = __neg__ = __abs__ = __int__ = __float__ = __index__ = _no_arithmetic
    __pos__ = __round__ = _no_arithmetic


@dataclass
class Printing:
    """The context of a step that is called outside a pipeline: it prints, and remembers nothing after it ends."""

    seed: int = 0
    resources: Mapping[str, float] = field(default_factory=lambda: {"CPU": 1.0})
    logged: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    remembered: dict[str, Any] = field(default_factory=dict)
    folder: str = ""

    @property
    def scratch(self) -> str:
        if not self.folder:
            self.folder = tempfile.mkdtemp(prefix="rayfield-")
            atexit.register(shutil.rmtree, self.folder, ignore_errors=True)
        return self.folder

    def log(self, metrics: Mapping[str, float], step: int, *, trial: str = "") -> None:
        self.logged.append((step, dict(metrics)))

    def note(self, params: Mapping[str, Any], *, trial: str = "") -> None:
        self.notes.update(params)

    def figure(self, name: str, picture: Any, *, step: int | None = None) -> None:
        self.figures[name] = picture

    def file(self, name: str, data: bytes) -> None:
        self.files[name] = data
        (Path(self.scratch) / name).write_bytes(data)

    def progress(self, done: float, total: float, unit: str = "") -> None:
        if sys.stderr.isatty():
            print(f"\r{done:.0f}/{total:.0f} {unit}", end="\n" if done >= total else "", file=sys.stderr)

    def listed(self, source: Source) -> list[Asset]:
        return source.rows()

    def key(self, *, of: Callable[..., Any] | None = None, **parts: Any) -> str:
        from components.runtime.objects import digest_of

        return digest_of(repr(sorted(parts.items())).encode())

    def recall(self, key: str) -> Any:
        return self.remembered.get(key)

    def remember(self, key: str, artifact: Any) -> None:
        self.remembered[key] = artifact

    @contextmanager
    def alone(self, name: str) -> Iterator[None]:
        yield

    def flush(self) -> None:
        pass

    @contextmanager
    def working(self, name: str, gpus: float = 0) -> Iterator[None]:
        yield
