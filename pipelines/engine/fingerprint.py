"""
The code that a step uses: every definition that can be reached by name from its function and from the classes of its
arguments.

The digest is that of the definitions' texts in the order in which they are met, each reference written as the place of
what it refers to. So it holds what the code does, and neither where a file lies, nor what a function is called, nor in
which order a file has them. Statements that do something when a module is imported count for every module that is
imported on the way; where a module itself is handed about, all of it counts.
"""

import builtins
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from components.errors import UsageError
from pipelines.engine import code
from pipelines.engine.definitions import Definition, Ref, Source, digest_of

IN_NO_KEY = (
    "components.runtime",
    "components.plotting",
    "components.resource",
    "components.step",
    "components.errors",
    "pipelines",
)
"""what moves bytes whose digest the reader checks, what draws, and what decides when a step runs, not what it makes"""
PLOTTING = "components.plotting"
PURE = frozenset(
    f"{module}.{name}"
    for module, names in {
        "builtins": ("property", "staticmethod", "classmethod"),
        "abc": ("abstractmethod",),
        "contextlib": ("contextmanager", "asynccontextmanager"),
        "dataclasses": ("dataclass",),
        "enum": ("unique",),
        "functools": ("cache", "cached_property", "lru_cache", "singledispatch", "total_ordering", "wraps"),
        "typing": ("dataclass_transform", "final", "no_type_check", "overload", "override", "runtime_checkable"),
        "torch": ("compile", "enable_grad", "inference_mode", "no_grad"),
        "torch.jit": ("ignore", "script", "unused"),
        "numba": ("cfunc", "guvectorize", "jit", "njit", "stencil", "vectorize"),
        "jax": ("jit",),
        "components.kernels.compiled": ("kernel",),
    }.items()
    for name in names
)
"""decorators that hand a definition back and note it nowhere: it counts where its name is reached"""
OWN_PIPELINE = "rayfield_"
"""what the module of a pipeline of one's own begins with: its steps are in keys as any other's"""

Root = tuple[str, str]
"""module and name"""


def is_in_no_key(name: str) -> bool:
    """Whether a module's code is in no key."""
    return any(name == one or name.startswith(f"{one}.") for one in IN_NO_KEY)


@dataclass(frozen=True)
class Fingerprint:
    """What a key holds of code, and what people are told of it."""

    digest: str
    in_key: Mapping[str, str]
    """"code" -> the digest, "package numpy" -> version, "data furniture.bin" -> digest"""
    listing: Mapping[str, Mapping[str, str]]
    """module -> label of a definition -> digest of its text"""
    modules: tuple[str, ...]
    """that are imported on the way"""


def fingerprint(roots: Iterable[Root], draws: bool = False) -> Fingerprint:
    """The fingerprint of what is reached from these definitions; `draws` counts plotting/ as well."""
    walk = _Walk(draws)
    texts = [walk.text([walk.reach(*root)]) for root in roots]
    walk.follow()
    while found := walk.statements():
        for one in found:
            walk.follow_one(one)
        walk.follow()
    return walk.fingerprint(texts)


@dataclass
class _Walk:
    """The definitions that were met, in their order."""

    draws: bool
    numbers: dict[tuple[str, str], int] = field(default_factory=dict)
    """(module, name) -> its place; a name of "" is the whole module"""
    waiting: list[tuple[str, str]] = field(default_factory=list)
    texts: dict[int, str] = field(default_factory=dict)
    done: set[tuple[str, int]] = field(default_factory=set)
    """statements of modules that were followed"""
    said: list[str] = field(default_factory=list)
    """their texts"""
    imported: dict[str, None] = field(default_factory=dict)
    packages: set[str] = field(default_factory=set)
    resources: set[str] = field(default_factory=set)
    listing: dict[str, dict[str, str]] = field(default_factory=dict)
    sources: dict[str, Source | None] = field(default_factory=dict)

    # What a name stands for

    def source(self, module: str) -> Source | None:
        """The source of a module that may be edited; None for any other."""
        if module not in self.sources:
            self.sources[module] = code.text_of(module) if code.path_of(module) else None
        return self.sources[module]

    def is_left_out(self, module: str) -> bool:
        return is_in_no_key(module) and not (self.draws and module.startswith(PLOTTING))

    def reach(
        self, module: str, name: str, attributes: tuple[str, ...] = (), seen: frozenset[Root] = frozenset()
    ) -> str:
        """What a text has in place of a name of a module: the place of the definition, and what is asked of it."""
        rest = "".join(f".{one}" for one in attributes)
        if self.is_left_out(module):
            inner = f"{module}.{name}"
            return self._of_module(inner, attributes, seen) if name and self._is_module(inner) else f"~{name}{rest}"
        source = self.source(module)
        if not name:
            return self._of_module(module, attributes, seen)
        if source is None and self._is_module(f"{module}.{name}"):
            return self._of_module(f"{module}.{name}", attributes, seen)
        if source is None:
            return self._outside(f"{module}.{name}", attributes)
        if name in source.definitions:
            return f"#{self.number(module, name)}{rest}"
        bound = source.bindings.get(name, ()) if (module, name) not in seen else ()
        if bound:  # of `try: import a as x` and `except ImportError: import b as x` both may be what it stands for
            return "|".join(self._bound(*one, attributes, seen | {(module, name)}) for one in bound)
        for star in source.stars if (module, name) not in seen else ():
            return self.reach(star, name, attributes, seen | {(module, name)})
        if self._is_module(f"{module}.{name}"):
            return self._of_module(f"{module}.{name}", attributes, seen)
        return f"#{self.number(module, '')}.{name}{rest}"  # made while it runs: all of the module counts

    def _bound(self, module: str, member: str, attributes: tuple[str, ...], seen: frozenset[Root]) -> str:
        """What an import binds."""
        if not member:
            return self._of_module(module, attributes, seen)
        self.imports(module)
        return self.reach(module, member, attributes, seen)

    def _of_module(self, module: str, attributes: tuple[str, ...], seen: frozenset[Root]) -> str:
        """What is asked of a module itself."""
        self.imports(module)
        if self.is_left_out(module):
            return "~" + ".".join(attributes)
        if self.source(module) is None and not self._is_folder(module):
            return self._outside(module, attributes)
        if not attributes:
            return f"#{self.number(module, '')}"
        first, rest = attributes[0], attributes[1:]
        source = self.source(module)
        known = source is not None and (first in source.definitions or first in source.bindings)
        if not known and self._is_module(f"{module}.{first}"):
            return self._of_module(f"{module}.{first}", rest, seen)
        return self.reach(module, first, rest, seen)

    def _is_module(self, name: str) -> bool:
        return code.path_of(name) is not None or self._is_folder(name)

    def _is_folder(self, name: str) -> bool:
        """Whether a package without a file of its own lies in the project."""
        return name.split(".")[0] in code.OURS and code.paths_of(name)[1].parent.is_dir()

    def _outside(self, name: str, attributes: tuple[str, ...]) -> str:
        if (top := name.split(".")[0]) not in code.OURS:
            self.packages.add(top)
        return ".".join([f"={name}", *attributes])

    def number(self, module: str, name: str) -> int:
        """The place of a definition, which waits to be followed when it is met for the first time."""
        self.imports(module)
        if (module, name) not in self.numbers:
            self.numbers[module, name] = len(self.numbers)
            self.waiting.append((module, name))
        return self.numbers[module, name]

    # What it leads to

    def follow(self) -> None:
        """Reads what waits, until nothing does."""
        while self.waiting:
            module, name = self.waiting.pop(0)
            number = self.numbers[module, name]
            if name:
                self.texts[number] = self._own(module, name)
            else:
                self.texts[number] = self._whole(module)

    def _own(self, module: str, name: str) -> str:
        """What defines a name; where an import may bind it too, that as well."""
        source = self.source(module)
        assert source is not None
        bound = (self._bound(*one, (), frozenset({(module, name)})) for one in source.bindings.get(name, ()))
        return " ".join([*(self.written(module, one) for one in source.definitions[name]), *bound])

    def _whole(self, module: str) -> str:
        """All of a module: asked for by names that nobody can read beforehand."""
        source = self.source(module)
        if source is None:
            return ""
        names = sorted(source.definitions, key=lambda name: [one.digest for one in source.definitions[name]])
        bound = (f"{name}:{self.reach(module, name)}" for name in sorted(source.bindings))
        return " ".join([*(f"{name}:#{self.number(module, name)}" for name in names), *bound])

    def written(self, module: str, one: Definition) -> str:
        """The text of a definition, with the place of whatever it refers to."""
        for problem in one.problems:
            raise UsageError(problem)
        self.resources |= set(one.resources)
        for name in one.modules:
            self.imports(name)
        package = module.rpartition(".")[0]
        beside = [f"#{self.number(f'{package}.{name}', '')}" for name in one.beside if self.source(f"{package}.{name}")]
        if one.name:
            self.listing.setdefault(module, {}).update(one.parts)
        return self.text([self._token(module, token) for token in one.tokens]) + "".join(beside)

    def _token(self, module: str, token: str | Ref) -> str:
        if isinstance(token, str):
            return token
        if token.module:
            return self._bound(token.module, token.member, token.attributes, frozenset())
        source = self.source(module)
        assert source is not None
        if token.name in source.definitions or token.name in source.bindings:
            return self.reach(module, token.name, token.attributes)
        for star in source.stars:
            return self.reach(star, token.name, token.attributes)
        return ".".join([f"builtin:{token.name}", *token.attributes])

    def text(self, tokens: Iterable[str]) -> str:
        return " ".join(tokens)

    # What is imported on the way

    def imports(self, module: str) -> None:
        """Notes that a module is imported, with the packages above it."""
        parts = module.split(".")
        for n in range(1, len(parts) + 1):
            self.imported.setdefault(".".join(parts[:n]))

    def statements(self) -> list[tuple[str, Definition]]:
        """What is done when the modules on the way are imported, and was not followed yet; in an order of its own."""
        found = [one for module in self._imported_modules() for one in self._does(module)]
        found.sort(key=lambda pair: (pair[1].digest, pair[0]))
        return found

    def _imported_modules(self) -> Iterator[str]:
        waiting, seen = list(self.imported), set[str]()
        while waiting:
            module = waiting.pop()
            if module in seen or self.is_left_out(module):
                continue
            seen.add(module)
            source = self.source(module)
            if source is not None:
                yield module
                for name in source.imports:
                    parts = name.split(".")
                    waiting += [".".join(parts[:n]) for n in range(1, len(parts) + 1)]

    def _does(self, module: str) -> Iterator[tuple[str, Definition]]:
        source = self.source(module)
        assert source is not None
        marked = [one for found in source.definitions.values() for one in found if one.decorators]
        for place, one in enumerate([*source.statements, *marked]):
            if (module, place) not in self.done and (not one.decorators or self._registers(module, one)):
                self.done.add((module, place))
                yield module, one

    def _registers(self, module: str, one: Definition) -> bool:
        """Whether a definition is marked by what may note it elsewhere, as numba.extending.overload does."""
        return any(
            not self.is_left_out(target) and f"{target}.{name}" not in PURE
            for mark in one.decorators
            for target, name in self._meant(mark.module or module, (mark.member or mark.name, *mark.attributes))
        )

    def _meant(self, module: str, names: tuple[str, ...], depth: int = 9) -> Iterator[tuple[str, str]]:
        """The modules, and the names there, that a dotted name of a module may stand for."""
        source = self.source(module)
        bound = source.bindings.get(names[0], ()) if source and depth else ()
        for target, member in bound:
            if inner := (*filter(None, [member]), *names[1:]):
                yield from self._meant(target, inner, depth - 1)
        if bound:
            return
        if len(names) > 1 and self._is_module(f"{module}.{names[0]}"):
            yield from self._meant(f"{module}.{names[0]}", names[1:], depth)
        elif source and names[0] not in source.definitions and not source.stars and hasattr(builtins, names[0]):
            yield "builtins", names[0]
        else:
            *folders, last = (module, *names)
            yield ".".join(folders), last

    def follow_one(self, found: tuple[str, Definition]) -> None:
        """Reads what a module does when it is imported."""
        module, one = found
        if one.name:
            self.said.append(f"#{self.number(module, one.name)}")
            return
        self.said.append(self.written(module, one))
        self.listing.setdefault(module, {}).update(one.parts)

    def fingerprint(self, roots: list[str]) -> Fingerprint:
        text = "\n".join([*roots, "", *(self.texts[n] for n in sorted(self.texts)), "", *self.said])
        outside = {name.split(".")[0] for name in self.imported if self.source(name) is not None} - {*code.OURS}
        files = {k: v for name in sorted(outside) for k, v in code.files_of(name).items()}
        data = {name: code.data_digest(name) for name in sorted(self.resources)} | files
        digest, versions = digest_of(text), code.versions(self.packages - code.standard())
        counted = {
            "code": digest,
            **{f"package {name}": version for name, version in versions.items()},
            **{f"data {name}": one for name, one in data.items()},
        }
        listing = {module: self.listing[module] for module in sorted(self.listing)}
        return Fingerprint(digest, counted, listing, tuple(sorted(filter(self.source, self.imported))))
