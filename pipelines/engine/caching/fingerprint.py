"""
The code that a step uses: every definition that can be reached by name from its function and from the classes of its
arguments.

The digest is that of the definitions' texts in the order in which they are met, each reference written as the place of
what it refers to. So it holds what the code does, and neither where a file lies, nor what a function is called, nor in
which order a file has them. Statements that do something when a module is imported count for every module that is
imported on the way; where a module itself is handed about, all of it counts.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from components.errors import UsageError
from pipelines.engine.caching import modules as code
from pipelines.engine.caching.definitions import ALL, NAMED, NAMES, VERBATIM, Definition, Ref, Source, digest_of

IN_NO_KEY = (
    "components.runtime",
    "components.plotting",
    "components.step",
    "components.errors",
    "pipelines.engine",
    "pipelines.cli",
    "pipelines.zoo",
    "pipelines.inference",
    "pipelines.doctor",
)
"""what moves bytes whose digest the reader checks, what draws, and what decides when a step runs, not what it makes"""
PLOTTING = "components.plotting"
OF_A_MODULE = ("__name__", "__package__", "__path__", "__spec__", "__doc__")
"""what Python gives a module"""
PURE = (
    *("super", "abc", "contextlib", "dataclasses", "enum", "functools", "typing", "typing_extensions"),
    *("numba.njit", "numba.jit", "numba.vectorize", "numba.guvectorize"),
    *("torch.no_grad", "torch.inference_mode", "torch.enable_grad"),
)
"""decorators that are nobody's business but the function's that they mark"""
OWN_PURE = (("components.kernels.compiled", "kernel"),)
"""the same of this project's"""
READS = ("items", "keys", "values", "get", "copy", "format", "join", "split", "match", "search", "[]")
"""what is asked of a value without changing it"""
ACTS = re.compile(
    "_?(set|seed|manual_seed|register|use|install|enable|disable|patch|add|insert|push|update|exec"
    "|heap(push|pop|ify|replace)|insort|shuffle|copyto|put|place|fill)"
)
"""what functions of packages are called that change something of theirs, or of what they are given"""
SUBCLASSES = "__subclasses__"
HOOKS = ("__init__", "__new__", "__post_init__")
"""methods of a class that run when it is called"""

Root = tuple[str, str]
"""module and name"""


def is_in_no_key(name: str) -> bool:
    """True if a module's code is in no key."""
    return any(name == one or name.startswith(f"{one}.") for one in IN_NO_KEY)


@dataclass(frozen=True)
class Fingerprint:
    """The digest of code in a key, and the listing behind it, for people."""

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
    texts = [walk.reach(*root) for root in roots]
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
    done: set[tuple[str, int, str]] = field(default_factory=set)
    """statements of modules that were followed"""
    said: list[str] = field(default_factory=list)
    """their texts"""
    asks: bool = False
    """whether anything asks for the classes that are made from another"""
    named: bool = False
    """whether anything asks whatever it has for its name"""
    verbatim: bool = False
    """whether anything reads code as text"""
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
        """The text in place of a name of a module: the place of the definition, and what is asked of it."""
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
            said = f".{name}" if {*NAMES} & {*attributes} else ""
            return f"#{self.number(module, name)}{said}{rest}"
        bound = [*source.bindings.get(name, ()), *self._stars(module, name)] if (module, name) not in seen else []
        if bound:  # of `try: import a as x` and `except ImportError: import b as x` both may be what it stands for
            return "|".join(self._bound(*one, attributes, seen | {(module, name)}) for one in bound)
        if name in OF_A_MODULE:
            return f"{module}.{name}"
        if self._is_module(f"{module}.{name}"):
            return self._of_module(f"{module}.{name}", attributes, seen)
        return f"#{self.number(module, '')}.{name}{rest}"  # made while it runs: all of the module counts

    def _stars(self, module: str, name: str, seen: frozenset[str] = frozenset()) -> list[Root]:
        """The modules of `from x import *` that may have a name, with it."""
        source, found = self.source(module), list[Root]()
        for star in source.stars if source and module not in seen else ():
            there = self.source(star)
            if there is None or name in there.definitions or name in there.bindings:
                found.append((star, name))
            found += self._stars(star, name, seen | {module})
        return found

    def _bound(self, module: str, member: str, attributes: tuple[str, ...], seen: frozenset[Root]) -> str:
        """The text in place of a name that an import binds."""
        if not member:
            return self._of_module(module, attributes, seen)
        self.imports(module)
        return self.reach(module, member, attributes, seen)

    def _of_module(self, module: str, attributes: tuple[str, ...], seen: frozenset[Root]) -> str:
        """The text in place of a module, and what is asked of it."""
        self.imports(module)
        if self.is_left_out(module):
            return "~" + ".".join(attributes)
        if self.source(module) is None and not code.is_folder(module):
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
        return code.path_of(name) is not None or code.is_folder(name)

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
            if not self.waiting:
                self._hand_on()

    def _hand_on(self) -> None:
        """Of a package that is handed about, the modules that were imported are handed about as well."""
        whole = tuple(f"{module}." for module, name in self.numbers if not name)
        for module in sorted(name for name in self._imported_modules() if name.startswith(whole)) if whole else ():
            self.number(module, "")

    def _own(self, module: str, name: str) -> str:
        """The text of whatever defines a name; where an import may bind it too, that as well."""
        source = self.source(module)
        assert source is not None
        others = (*source.bindings.get(name, ()), *self._stars(module, name))
        bound = (self._bound(*one, (), frozenset({(module, name)})) for one in others)
        return " ".join([*(self.written(module, one) for one in source.definitions[name]), *bound])

    def _whole(self, module: str) -> str:
        """All of a module: asked for by names that nobody can read beforehand."""
        source = self.source(module)
        if source is None:
            return ""
        names = sorted(source.definitions, key=lambda name: [one.rank for one in source.definitions[name]])
        bound = (f"{name}:{self.reach(module, name)}" for name in sorted(source.bindings))
        return " ".join([*(f"{name}:#{self.number(module, name)}" for name in names), *bound])

    def written(self, module: str, one: Definition) -> str:
        """The text of a definition, with the place of whatever it refers to."""
        for problem in one.problems:
            raise UsageError(problem)
        self.resources |= set(one.resources)
        self.named |= NAMED in one.tokens
        self.verbatim |= VERBATIM in one.tokens
        self.asks |= any(
            SUBCLASSES in token.attributes if isinstance(token, Ref) else SUBCLASSES in token for token in one.tokens
        )
        for name in one.modules:
            self.imports(name)
        package = module.rpartition(".")[0]
        beside = [f"#{self.number(f'{package}.{name}', '')}" for name in one.beside if self.source(f"{package}.{name}")]
        if one.name:
            self.listing.setdefault(module, {}).update(one.parts)
        return " ".join(self._token(module, token) for token in one.tokens) + "".join(beside)

    def _token(self, module: str, token: str | Ref) -> str:
        if isinstance(token, str):
            return token
        if token.module:
            return self._bound(token.module, token.member, token.attributes, frozenset())
        if token.name == ALL:
            return f"#{self.number(module, '')}"
        source = self.source(module)
        assert source is not None
        if token.name in source.definitions or token.name in source.bindings or self._stars(module, token.name):
            return self.reach(module, token.name, token.attributes)
        return ".".join([f"builtin:{token.name}", *token.attributes])

    # What is imported on the way

    def imports(self, module: str) -> None:
        """Notes that a module is imported, with the packages above it."""
        parts = module.split(".")
        for n in range(1, len(parts) + 1):
            self.imported.setdefault(".".join(parts[:n]))

    def statements(self) -> list[tuple[str, Definition]]:
        """
        Statements that run when the modules on the way are imported, and were not followed yet.

        Of one module in its order; the modules in an order of their own, for names are in no key.
        """
        groups = [(module, found) for module in self._imported_modules() if (found := list(self._does(module)))]
        groups.sort(key=lambda group: ([one.rank for one in group[1]], group[0]))
        return [(module, one) for module, found in groups for one in found]

    def _imported_modules(self) -> list[str]:
        waiting, seen, found = list(self.imported), set[str](), list[str]()
        while waiting:
            module = waiting.pop()
            source = None if module in seen or self.is_left_out(module) else self.source(module)
            seen.add(module)
            if source is not None:
                found.append(module)
                for name in source.imports:
                    parts = name.split(".")
                    waiting += [".".join(parts[:n]) for n in range(1, len(parts) + 1)]
        return found

    def _does(self, module: str) -> Iterator[Definition]:
        source = self.source(module)
        assert source is not None
        made = [one for found in source.definitions.values() for one in found if self._acts(module, one)]
        for one in sorted([*source.statements, *made], key=lambda one: (one.place, one.name)):
            if (module, one.place, one.name) not in self.done:
                self.done.add((module, one.place, one.name))
                yield one

    def _acts(self, module: str, one: Definition) -> bool:
        """True if a definition does more than to define its name: whoever imports the module has that done."""
        return (
            one.acts
            or any(self._is_act(*found) for call in one.calls for found in self._targets(module, call))
            or any(self._is_mark(*found) for mark in one.marks for found in self._targets(module, mark))
            or any(self._is_told(*found) for base in one.bases for found in self._targets(module, base))
        )

    def _targets(
        self, module: str, asked: Ref, seen: frozenset[Root] = frozenset()
    ) -> Iterator[tuple[str, str, tuple[str, ...]]]:
        """Module, name and what is asked of it, of all that a name may stand for; no module for what no file has."""
        source = self.source(module)
        if source is None or (module, asked.name) in seen:
            yield "", f"{module}.{asked.name}", asked.attributes
            return
        bound = [*source.bindings.get(asked.name, ()), *self._stars(module, asked.name)]
        if asked.name in source.definitions:
            yield module, asked.name, asked.attributes
        elif not bound:
            yield "", asked.name, asked.attributes
        for target, member in bound:
            rest = asked.attributes
            while not member and rest and self._is_module(f"{target}.{rest[0]}"):
                target, rest = f"{target}.{rest[0]}", rest[1:]
            if not member and rest:
                member, rest = rest[0], rest[1:]
            yield from self._targets(target, Ref(member, rest), seen | {(module, asked.name)})

    def _is_act(self, module: str, name: str, asked: tuple[str, ...]) -> bool:
        """True if a call may change something besides what it returns."""
        if not module:
            return bool(ACTS.match([name.rpartition(".")[2], *asked][-1])) and ("." in name or name[3:] == "attr")
        if self.is_left_out(module):
            return False
        return any(self._may_act(module, one, asked) for one in self._definitions(module, name))

    def _definitions(self, module: str, name: str) -> tuple[Definition, ...]:
        source = self.source(module)
        return source.definitions.get(name, ()) if source else ()

    def _may_act(self, module: str, one: Definition, asked: tuple[str, ...]) -> bool:
        if one.is_class and not asked:
            return any(found.has(*HOOKS) for _, found in self._line(module, one))
        return one.is_function or not (asked and asked[-1] in READS)

    def _is_mark(self, module: str, name: str, asked: tuple[str, ...]) -> bool:
        """True if a decorator may do anything with what it marks."""
        if module:
            return not self.is_left_out(module) and (module, name) not in OWN_PURE
        dotted = ".".join([name, *asked])
        return "." in dotted and not any(dotted == one or dotted.startswith(f"{one}.") for one in PURE)

    def _is_told(self, module: str, name: str, asked: tuple[str, ...]) -> bool:
        """True if a base class or a metaclass may do anything with a class that is made from it."""
        if not module or self.is_left_out(module):
            return name == "type"
        return self.asks or any(
            Ref("type") in one.bases
            or any(self._is_mark(*found) for call in one.told for found in self._targets(at, call))
            for made in self._definitions(module, name)
            for at, one in self._line(module, made)
        )

    def _line(
        self, module: str, one: Definition, seen: frozenset[Root] = frozenset()
    ) -> Iterator[tuple[str, Definition]]:
        """A class and those of the project that it is made from, with their modules."""
        yield module, one
        for base in one.bases:
            for target, name, _ in self._targets(module, base):
                for made in self._definitions(target, name) if target and (target, name) not in seen else ():
                    yield from self._line(target, made, seen | {(target, name)})

    def follow_one(self, found: tuple[str, Definition]) -> None:
        """Reads what a module does when it is imported."""
        module, one = found
        if one.name:  # whatever marks it may ask for its name
            self.said.append(f"{one.name} #{self.number(module, one.name)}")
            return
        self.said.append(self.written(module, one))
        self.listing.setdefault(module, {}).update(one.parts)

    def fingerprint(self, roots: list[str]) -> Fingerprint:
        text = "\n".join([*roots, "", *(self.texts[n] for n in sorted(self.texts)), "", *self.said, *self._asked()])
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

    def _asked(self) -> Iterator[str]:
        """The names and the files that count because code asks for them."""
        if self.named:
            yield " ".join(name for _, name in self.numbers)
        if self.verbatim:
            files = {path for module in self._imported_modules() if (path := code.path_of(module))}
            yield " ".join(sorted(digest_of(file.read_text(encoding="utf-8")) for file in files))
