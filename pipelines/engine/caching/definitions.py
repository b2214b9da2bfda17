"""
The definitions of a module, read from its source without importing it.

A definition is a function, a class or a constant at a module's top level; a class is one with all that it holds. Its
text is that of its syntax tree without comments, docstrings, bare strings and spelling, the same on every Python, with
a `Ref` wherever it names something outside itself: keys put what is named there, so neither a file's place nor the
name of a function is in one.
"""

import ast
import hashlib
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from components.runtime.module_files import parsed
from pipelines.engine.caching import import_time

LEFT_OUT = frozenset({"ctx", "kind", "type_comment", "type_ignores"})
"""of a syntax tree: what Python does with the same text is the same without"""
IMPORTERS = (
    "importlib.import_module",
    "import_module",
    "importlib.__import__",
    "builtins.__import__",
    "__import__",
    "runpy.run_module",
)
LOADED = "sys.modules"
ALL = "*"
"""stands for all of a module"""
EVERYTHING = ("globals", "eval", "exec")
HERE = ("locals", "vars", "dir")
"""what leads to all of a module, the second where they are called outside of functions"""
NAMES = ("__name__", "__qualname__")
"""what a function or a class is called: that is in a key only where it is asked for"""
NAMED = "(names)"
"""the token of a definition that asks something for its name, whatever it may be"""
TEXT = ("__doc__", "__code__", "__globals__", "f_code", "f_globals", "f_locals")
"""what of a function, or of a frame, leads to the text of files"""
TEXT_BY = (
    *(f"inspect.{name}" for name in ("getdoc", "getcomments", "getsource", "getsourcelines", "getmodule", "stack")),
    *("inspect.currentframe", "sys._getframe", "pkgutil.resolve_name", "linecache", "pydoc"),
)
"""and what is called for it"""
VERBATIM = "(text)"
"""the token of a definition that reads code as text: all of it counts, comments and docstrings too"""
BLOCKS = ("body", "orelse", "finalbody")


@dataclass(frozen=True)
class Ref:
    """A name from outside a definition, with the attributes that are asked of it: `files.root` is root of files."""

    name: str
    attributes: tuple[str, ...] = ()
    module: str = ""
    """for a name that the definition itself imports: the module"""
    member: str = ""
    """and what of the module; empty for the module itself"""


Token = str | Ref


@dataclass(frozen=True)
class Definition:
    """One name of a module."""

    name: str
    label: str
    """as people know it: "constant LIMIT", "Learner" """
    tokens: tuple[Token, ...]
    place: int = 0
    """among the statements of its file"""
    marks: tuple[Ref, ...] = ()
    """its decorators, and those of a class's methods"""
    calls: tuple[Ref, ...] = ()
    """what else its value, its defaults or its class body call when the file is imported"""
    bases: tuple[Ref, ...] = ()
    """of a class, with its metaclass"""
    told: tuple[Ref, ...] = ()
    """what a class calls or changes when another is made from it"""
    acts: bool = False
    """a class whose body changes what lies outside it"""
    modules: tuple[str, ...] = ()
    """that it imports when it runs"""
    resources: tuple[str, ...] = ()
    """data files that it asks `resource()` for"""
    beside: tuple[str, ...] = ()
    """modules whose file it names: Path(__file__).with_name("served.py")"""
    problems: tuple[str, ...] = ()
    """what it does that no key could hold, in words"""
    parts: Mapping[str, str] = field(default_factory=dict)
    """label -> digest, of a class the methods and fields too: `rayfield explain` compares these"""

    @property
    def is_class(self) -> bool:
        return self.tokens[:1] == ("(ClassDef",)

    @property
    def is_function(self) -> bool:
        return self.tokens[:1] in (("(FunctionDef",), ("(AsyncFunctionDef",))

    def has(self, *methods: str) -> bool:
        """True if a class has one of these methods itself."""
        return any(label.rpartition(".")[2] in methods for label in self.parts)

    @property
    def digest(self) -> str:
        """Of its own text, whatever it refers to."""
        return digest_of(" ".join(map(_said, self.tokens)))

    @property
    def rank(self) -> str:
        """A sorting key, the same wherever the files lie that it imports when it runs."""
        return digest_of(
            " ".join(map(_said, (replace(t, module="") if isinstance(t, Ref) else t for t in self.tokens)))
        )


@dataclass(frozen=True)
class Source:
    """A file, read."""

    definitions: Mapping[str, tuple[Definition, ...]]
    """name -> what defines it; several where it is bound more than once"""
    statements: tuple[Definition, ...]
    """what is done when the file is imported, besides defining names"""
    bindings: Mapping[str, tuple[tuple[str, str], ...]]
    """name -> (module, member) of the imports that bind it; no member for a module itself"""
    imports: tuple[str, ...]
    """modules that an import of this one imports"""
    everywhere: tuple[str, ...]
    """dotted names that are imported anywhere in the file"""
    stars: tuple[str, ...]
    """modules of which all names are imported"""


def digest_of(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _said(token: Token) -> str:
    return token if isinstance(token, str) else f"@{token.module}.{token.member or token.name}.{token.attributes}"


@cache
def read(data: bytes, path: str, package: str) -> Source:
    """The source of a file; `package` is the dotted name of the folder that relative imports start from."""
    tree = without_words(parsed(data))
    reader = _Reader(path, package)
    for statement in tree.body:
        reader.take(statement)
    reader.settle()
    return Source(
        {name: tuple(found) for name, found in reader.definitions.items()},
        tuple(reader.statements),
        {name: tuple(found) for name, found in reader.bindings.items()},
        tuple(dict.fromkeys(reader.imports)),
        tuple(sorted(everywhere(tree, package))),
        tuple(reader.stars),
    )


def without_words(tree: ast.Module) -> ast.Module:
    """The tree less every statement that is only a string, with `return` for `return None`."""
    for node in ast.walk(tree):
        for name in BLOCKS:
            block = getattr(node, name, None)
            if isinstance(block, list):
                setattr(node, name, [one for one in block if not _is_words(one)])
        if isinstance(node, ast.Return) and isinstance(node.value, ast.Constant) and node.value.value is None:
            node.value = None
    return tree


def _is_words(statement: ast.AST) -> bool:
    return isinstance(statement, ast.Expr) and _text(statement.value) is not None


def _text(node: ast.AST | None) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def everywhere(tree: ast.AST, package: str) -> set[str]:
    """The dotted names that are imported anywhere; `from a import b` names a and a.b."""
    found = set[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            whole = absolute(node.module or "", node.level, package)
            found |= {whole} | {f"{whole}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and _last(node.func) in ("import_module", "__import__"):
            found |= {named} if (named := _named_module(node, package)) else set()
    return found - {""}


def absolute(module: str, level: int, package: str) -> str:
    """The module that `from ..module import x` names in a file of a package."""
    if not level:
        return module
    folders = package.split(".") if package else []
    return ".".join([*folders[: len(folders) - level + 1], *([module] if module else [])])


def _last(node: ast.AST) -> str:
    """The last name of a.b.c."""
    return getattr(node, "id", getattr(node, "attr", ""))


def _named_module(call: ast.Call, package: str) -> str:
    """The module that a call imports by a name in quotes; nothing if its name is computed."""
    text = _text(call.args[0]) if call.args else None
    if not text:
        return ""
    level = len(text) - len(text.lstrip("."))
    return absolute(text[level:], level, package)


def _is_for_types(test: ast.AST) -> bool:
    return _last(test) == "TYPE_CHECKING"


def _is_main(test: ast.AST) -> bool:
    if not (isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.Eq) and len(test.ops) == 1):
        return False
    sides = (test.left, test.comparators[0])
    return "__name__" in map(_last, sides) and "__main__" in map(_text, sides)


class _Reader:
    """Sorts the statements of a module into definitions, imports and what is done besides."""

    def __init__(self, path: str, package: str) -> None:
        self.path, self.package = path, package
        self.definitions: dict[str, list[Definition]] = {}
        self.statements: list[Definition] = []
        self.bindings: dict[str, list[tuple[str, str]]] = {}
        self.imports: list[str] = []
        self.stars: list[str] = []
        self.waiting: list[tuple[ast.stmt, tuple[str, ...], bool]] = []
        self.touched: Counter[str] = Counter()
        self.known: set[str] = set()
        """all names of the module"""
        self.changing: set[str] = set()
        """those that a call may change, or change something by: no classes, and no modules"""

    def take(self, statement: ast.stmt) -> None:
        """Notes imports at once; the rest is read when all of them are known."""
        if isinstance(statement, ast.Import | ast.ImportFrom):
            self._import(statement)
        elif isinstance(statement, ast.If) and (_is_for_types(statement.test) or _is_main(statement.test)):
            for one in statement.orelse:
                self.take(one)
        else:
            for inner in _imports_of(statement):
                self._import(inner)
            names, does = _bound(statement)
            self.waiting.append((statement, names, does))

    def _import(self, statement: ast.Import | ast.ImportFrom) -> None:
        for name, module, member in bound_by(statement, self.package):
            self.imports.append(module)
            if member:
                self.imports.append(f"{module}.{member}")
            if name == "*":
                self.stars.append(module)
            else:
                self.bindings.setdefault(name, []).append((module, member))

    def settle(self) -> None:
        """Reads what waits."""
        self.known = {*self.bindings, *(name for _, names, _ in self.waiting for name in names)}
        self.changing = self._changing()
        several = sum((self._touches(*one) for one in self.waiting), Counter())
        for place, (statement, names, does) in enumerate(self.waiting):
            order = [f"after:{self.touched[one]}" for one in sorted(import_time.names(statement)) if several[one] > 1]
            for name in names:
                self.definitions.setdefault(name, []).append(self._definition(statement, name, place, order))
            if does:
                self.statements.append(self._definition(statement, "", place, order))
            self.touched += self._touches(statement, names, does)

    def _changing(self) -> set[str]:
        own = {name for one, names, _ in self.waiting if not isinstance(one, ast.ClassDef) for name in names}
        imported = {
            name
            for name, bound in self.bindings.items()
            if any(member and module.split(".")[0] not in sys.stdlib_module_names for module, member in bound)
        }
        return own | imported

    def _touches(self, statement: ast.stmt, names: tuple[str, ...], does: bool) -> Counter[str]:
        """The names that may stand for something else after a statement, or for what it has changed: next(COUNTER)."""
        read = import_time.names(statement) if does else import_time.handed(statement) & self.changing
        return Counter({*names, *read})

    def _definition(self, statement: ast.stmt, name: str, place: int, order: list[str]) -> Definition:
        writer = _Writer(self)
        own = isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef)
        writer.write(statement, nameless=own)
        label = _label(statement, name)
        bases: list[ast.expr] = []
        told: list[ast.expr] = []
        acts = False
        if isinstance(statement, ast.ClassDef):
            bases, told = [*statement.bases, *(one.value for one in statement.keywords)], import_time.told(statement)
            acts = any(True for _ in import_time.stored(import_time.evaluated(statement)))
        return Definition(
            name,
            label,
            (*writer.tokens, *order),
            place,
            tuple(_asked(import_time.marks(statement))),
            tuple(_asked(import_time.calls(statement))),
            tuple(_asked(bases)),
            tuple(_asked(told)),
            acts,
            tuple(dict.fromkeys(writer.modules)),
            tuple(dict.fromkeys(writer.resources)),
            tuple(dict.fromkeys(writer.beside)),
            tuple(writer.problems),
            self._parts(statement, label),
        )

    def _parts(self, statement: ast.stmt, label: str) -> dict[str, str]:
        if not isinstance(statement, ast.ClassDef):
            return {label: self._digest([statement])}
        found: dict[str, list[ast.AST]] = {label: [*statement.bases, *statement.keywords, *statement.decorator_list]}
        for inner in statement.body:
            word, _, name = _label(inner, "").rpartition(" ")
            found.setdefault(f"{word.replace('constant', 'field')} {label}.{name}".strip(), []).append(inner)
        return {part: self._digest(nodes) for part, nodes in found.items()}

    def _digest(self, nodes: Sequence[ast.AST]) -> str:
        writer = _Writer(self)
        for node in nodes:
            writer.write(node)
        return digest_of(" ".join(map(_said, writer.tokens)))


def _asked(nodes: Iterable[ast.expr]) -> Iterator[Ref]:
    """The names that expressions begin with, of those that begin with one."""
    for node in nodes:
        name, attributes = import_time.chain(node.func if isinstance(node, ast.Call) else node)
        if name:
            yield Ref(name, attributes)


def _label(statement: ast.AST, name: str) -> str:
    """As people know a statement."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return statement.name
    if isinstance(statement, ast.Assign):
        return f"constant {name or ast.unparse(statement.targets[0])}"
    if isinstance(statement, ast.AnnAssign | ast.AugAssign):
        return f"constant {name or ast.unparse(statement.target)}"
    return f"constant {name}" if name else "statements"


def bound_by(statement: ast.Import | ast.ImportFrom, package: str) -> Iterator[tuple[str, str, str]]:
    """(name, module, member) of what an import binds; `import a.b` binds a, and imports a.b."""
    if isinstance(statement, ast.Import):
        for alias in statement.names:
            yield (alias.asname, alias.name, "") if alias.asname else (alias.name.split(".")[0],) * 2 + ("",)
            if not alias.asname and "." in alias.name:
                yield "", alias.name, ""
        return
    module = absolute(statement.module or "", statement.level, package)
    for alias in statement.names:
        yield (alias.asname or alias.name, module, "" if alias.name == "*" else alias.name)


def _imports_of(statement: ast.stmt) -> Iterator[ast.Import | ast.ImportFrom]:
    """The imports that a compound statement of a module does: those within functions are not done yet."""
    for node in import_time.evaluated(statement):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node


_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def _bound(statement: ast.stmt) -> tuple[tuple[str, ...], bool]:
    """The names that a module's statement defines, and whether it does anything besides."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return (statement.name,), False
    if isinstance(statement, ast.Assign):
        targets = [one for target in statement.targets for one in _flat(target)]
    elif isinstance(statement, ast.AnnAssign | ast.AugAssign):
        targets = _flat(statement.target)
    elif isinstance(statement, ast.Pass):
        return (), False
    else:
        names, _ = _names_of([statement])
        return tuple(sorted(names)), True
    names = {one.id for one in targets if isinstance(one, ast.Name)}
    return tuple(sorted(names)), len(names) < len({ast.dump(one) for one in targets})


def _flat(target: ast.expr) -> list[ast.expr]:
    if isinstance(target, ast.Tuple | ast.List):
        return [inner for one in target.elts for inner in _flat(one)]
    return [target.value] if isinstance(target, ast.Starred) else [target]


def _names_of(nodes: Iterable[ast.AST]) -> tuple[set[str], set[str]]:
    """The names that are bound in one scope, and those that it says are bound elsewhere."""
    names, elsewhere = set[str](), set[str]()
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
            continue
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            names.add(node.id)
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
            names.add(node.name)
        elif isinstance(node, ast.MatchMapping) and node.rest:
            names.add(node.rest)
        elif isinstance(node, ast.Global | ast.Nonlocal):
            elsewhere |= set(node.names)
        if isinstance(node, _COMPREHENSIONS):
            names |= {one.target.id for one in ast.walk(node) if isinstance(one, ast.NamedExpr)}
        elif not isinstance(node, ast.Lambda | ast.Import | ast.ImportFrom):
            waiting += ast.iter_child_nodes(node)
    return names - elsewhere, elsewhere


@dataclass
class _Scope:
    """The names of a function, a class or a comprehension."""

    names: set[str]
    imports: dict[str, list[tuple[str, str]]]
    is_class: bool = False
    outside: frozenset[str] = frozenset()
    """names that it says are the module's"""


class _Writer:
    """Writes a tree as tokens."""

    def __init__(self, reader: _Reader) -> None:
        self.reader = reader
        self.tokens: list[Token] = []
        self.modules: list[str] = []
        self.resources: list[str] = []
        self.beside: list[str] = []
        self.problems: list[str] = []
        self.scopes: list[_Scope] = []
        self.telling = 0
        """how deep within a `raise`, or what hands a name or a docstring on: no result hangs on these words"""

    def write(self, node: ast.AST, nameless: bool = False) -> None:
        """Adds the tokens of a node."""
        if isinstance(node, ast.Import | ast.ImportFrom):
            self.modules += [
                m for _, module, member in bound_by(node, self.reader.package) for m in _both(module, member)
            ]
            return
        if self._loaded(node) or isinstance(node, ast.Call) and self._call(node):
            return
        if isinstance(node, ast.Name | ast.Attribute) and self._name(node):
            return
        self.telling += _only_tells(node)
        self.tokens.append(f"({type(node).__name__}")
        if isinstance(node, _SCOPES):
            self._scope(node, nameless)
        elif isinstance(node, _COMPREHENSIONS):
            self._comprehension(node)
        else:
            for name in node._fields:
                self._field(name, getattr(node, name, None))
        for name in ("annotation", "returns"):
            self._words(getattr(node, name, None))
        self.tokens.append(")")
        self.telling -= _only_tells(node)

    def _field(self, name: str, value: object) -> None:
        if name in LEFT_OUT or value is None and name != "value" or value == []:
            return
        self.tokens.append(f"{name}=")
        self._value(value)

    def _value(self, value: object) -> None:
        if isinstance(value, list):
            for one in value:
                self._value(one)
        elif isinstance(value, ast.AST):
            self.write(value)
        else:
            self.tokens.append(f"{type(value).__name__}:{value!r}")

    def _scope(self, node: ast.AST, nameless: bool) -> None:
        """A function's own names are its own; of a class's body they are, and its methods do not see them."""
        body = node.body if isinstance(getattr(node, "body", None), list) else [node.body]  # type: ignore[attr-defined]
        outer = ("decorator_list", "returns", "bases", "keywords")
        for name in ("name", *outer):
            value = getattr(node, name, None)
            if not (name == "name" and nameless):
                self._field(name, value)
        arguments = getattr(node, "args", None)
        names, elsewhere = _names_of(body)
        if isinstance(arguments, ast.arguments):
            for one in (*arguments.defaults, *arguments.kw_defaults):
                self._value(one)
            names |= {one.arg for one in ast.walk(arguments) if isinstance(one, ast.arg)}
        names |= {getattr(one, "name", "") for one in getattr(node, "type_params", [])}
        imports: dict[str, list[tuple[str, str]]] = {}
        for statement in (one for inner in body for one in _own_imports(inner)):
            for name, module, member in bound_by(statement, self.reader.package):
                imports.setdefault(name, []).append((module, member))
        is_class = isinstance(node, ast.ClassDef)
        if isinstance(arguments, ast.arguments):
            self._arguments(arguments)
        self.scopes.append(_Scope(names, imports, is_class, frozenset(elsewhere)))
        self._field("type_params", getattr(node, "type_params", None))
        self.tokens.append("body=")
        self._value(body)
        self.scopes.pop()

    def _arguments(self, arguments: ast.arguments) -> None:
        for name in ("posonlyargs", "args", "vararg", "kwonlyargs", "kwarg"):
            value = getattr(arguments, name)
            for one in value if isinstance(value, list) else [value] if value else []:
                self.tokens += [f"{name}:{one.arg}"]
                self._field("annotation", one.annotation)
                self._words(one.annotation)

    def _words(self, annotation: ast.AST | None) -> None:
        """Refers to what annotations name in quotes, as `get_type_hints` finds it; a Literal's quotes name nothing."""
        if annotation is None or isinstance(annotation, ast.Subscript) and _last(annotation.value) == "Literal":
            return
        with suppress(SyntaxError):
            quoted = parsed(_text(annotation) or "None", mode="eval")
            named = (one.id for one in ast.walk(quoted) if isinstance(one, ast.Name))
            self.tokens += [Ref(name) for name in named if name in self.reader.known]
        for inner in ast.iter_child_nodes(annotation):
            self._words(inner)

    def _comprehension(self, node: ast.AST) -> None:
        generators = node.generators  # type: ignore[attr-defined]
        names, _ = _names_of(one.target for one in generators)
        self.scopes.append(_Scope(names, {}))
        for name in node._fields:
            if name == "generators":
                self.tokens.append("generators=")
                self._generators(generators)
            else:
                self._field(name, getattr(node, name, None))
        self.scopes.pop()

    def _generators(self, generators: list[ast.comprehension]) -> None:
        """Write the loops of a comprehension; the first iterable is evaluated outside: [row for row in row]."""
        for place, one in enumerate(generators):
            self.tokens.append("(comprehension")
            self._field("target", one.target)
            own = [] if place else [self.scopes.pop()]
            self._field("iter", one.iter)
            self.scopes += own
            self._field("ifs", one.ifs)
            self._field("is_async", one.is_async)
            self.tokens.append(")")

    # Names

    def ref(self, node: ast.AST) -> Ref | None:
        """The reference of a name, or of a chain of attributes on one, to outside the definition."""
        attributes: list[str] = []
        while isinstance(node, ast.Attribute):
            attributes.insert(0, node.attr)
            node = node.value
        if not isinstance(node, ast.Name):
            return None
        found = self._imported(node.id, isinstance(node.ctx, ast.Load))
        return Ref(node.id, tuple(attributes), *found[0]) if found else None

    def _imported(self, name: str, is_read: bool) -> list[tuple[str, str]]:
        """Module and member of a name: of none where it is the scopes' own, empty ones where it is the module's."""
        for depth, scope in enumerate(reversed(self.scopes)):
            if scope.is_class and depth:
                continue
            if name in scope.outside:
                break
            if name in scope.imports:
                return scope.imports[name]
            if name in scope.names and not (scope.is_class and is_read and name in self.reader.known):
                return []  # a class's body reads the module's name until it has its own: size = size
        return [("", "")]

    def _name(self, node: ast.Name | ast.Attribute) -> bool:
        """Writes what is outside as a reference. False where there is more to write."""
        if isinstance(node, ast.Attribute) and node.attr == "__file__" or getattr(node, "id", "") == "__file__":
            ours = not os.path.isabs(self.reader.path)
            self.problems.append(
                f"A data file is asked for by its name, for a key holds its bytes, but line {node.lineno} of "
                f"{self.reader.path} has __file__. "
                + (
                    'Move the file to components/sources/data, and write resource("NAME").'
                    if ours
                    else "Pass the step what the file holds, or a source that has it among its assets."
                )
            )
        self._as_text(node)
        found = self.ref(node)
        if found is None:
            if isinstance(node, ast.Name):
                self.tokens.append(f"name:{node.id}")
                return True
            return False
        self.tokens.append(found)
        for module, member in self._imported(found.name, True)[1:]:  # one import or the other: which, is not known
            self.tokens.append(Ref(found.name, found.attributes, module, member))
        self._by_name(node, found)
        return True

    def _by_name(self, node: ast.Name | ast.Attribute, found: Ref) -> None:
        """Notes names that lead to what nobody can read beforehand."""
        dotted = self._dotted(found)
        if dotted in (*IMPORTERS, "importlib", "runpy"):  # handed about
            self._refuse(node, "An import takes")
        elif dotted == LOADED or dotted.startswith(f"{LOADED}."):
            self._refuse(node, "A loaded module is asked for by")
        elif found.name not in self.reader.known and (dotted in EVERYTHING or dotted in HERE and not self._inside()):
            self.tokens.append(Ref(ALL))
        elif any(dotted == one or dotted.startswith(f"{one}.") for one in TEXT_BY):
            self.tokens.append(VERBATIM)

    def _inside(self) -> bool:
        """True within a function: its `locals()` are its own."""
        return not all(scope.is_class for scope in self.scopes)

    def _as_text(self, node: ast.Name | ast.Attribute) -> None:
        """Notes what asks code for its own text, or for a name of whatever it stands for."""
        asked = node.attr if isinstance(node, ast.Attribute) else node.id
        if not isinstance(node.ctx, ast.Load) or self.telling:
            return
        if asked in TEXT:
            self.tokens.append(VERBATIM)
        elif asked in NAMES and isinstance(node, ast.Attribute) and not self._is_of_a_class(node.value):
            self.tokens.append(NAMED)

    def _is_of_a_class(self, node: ast.expr) -> bool:
        """True if a class is asked for its name as type(x): a key has the names of its arguments' classes."""
        return isinstance(node, ast.Call) and _last(node.func) == "type" or _last(node) in ("cls", "__class__")

    def _call(self, node: ast.Call) -> bool:
        """Notes calls that lead to other files. True where the call is written by that."""
        file = _text(node.args[0]) if node.args else None
        if _last(node.func) == "with_name" and file and file.endswith(".py") and _has_file(node.func):
            self.beside.append(file.removesuffix(".py"))
            return True
        called = self._full(node.func)
        if called in IMPORTERS:
            return self._import_by_name(node)
        if called.endswith("resource.resource") or called == "resource":
            self._resource(node)
        return False

    def _full(self, node: ast.AST) -> str:
        """The dotted name of what is called, as far as imports tell."""
        found = self.ref(node)
        return self._dotted(found) if found else ""

    def _dotted(self, found: Ref) -> str:
        bound = (
            (found.module, found.member) if found.module else (self.reader.bindings.get(found.name) or [("", "")])[0]
        )
        parts = [*filter(None, bound), *found.attributes] if bound[0] else [found.name, *found.attributes]
        return ".".join(parts)

    def _import_by_name(self, node: ast.Call) -> bool:
        named = _named_module(node, self.reader.package)
        if named:
            self.modules.append(named)
            self.tokens.append(Ref(named, (), named, ""))
            return True
        self._refuse(node, "An import takes")
        return False

    def _refuse(self, node: ast.expr, law: str) -> None:
        self.problems.append(
            f"{law} a name in quotes, for a key holds the module's code, but "
            f"line {node.lineno} of {self.reader.path} has {ast.unparse(node)}. Write the name there."
        )

    def _loaded(self, node: ast.AST) -> bool:
        """Writes what is found among the modules that are loaded: sys.modules["NAME"]. False where there is more."""
        if isinstance(node, ast.Attribute) and node.attr == "__doc__" and self._asks_loaded(node.value):
            self.tokens.append("words")  # are in no key
        elif isinstance(node, ast.Compare) and self._full(node.comparators[0]) == LOADED:
            self.write(node.left)
        elif (name := self._asks_loaded(node)) is None:
            return False
        elif text := _text(name):
            self.tokens.append(Ref(text, (), text))
        elif _last(name) == "__name__":
            self.tokens.append(Ref(ALL))
        else:
            self._refuse(node, "A loaded module is asked for by")  # type: ignore[arg-type]
        return True

    def _asks_loaded(self, node: ast.AST) -> ast.expr | None:
        """The name of the module that an expression asks for."""
        if isinstance(node, ast.Subscript) and self._full(node.value) == LOADED:
            return node.slice
        if isinstance(node, ast.Call) and node.args and self._full(node.func) == f"{LOADED}.get":
            return node.args[0]
        return None

    def _resource(self, node: ast.Call) -> None:
        named = [*node.args, *(keyword.value for keyword in node.keywords)]
        if len(named) != 1 or (text := _text(named[0])) is None:
            self.problems.append(
                f"resource() takes a name in quotes, for a key holds the file's bytes, but line {node.lineno} of "
                f"{self.reader.path} has {ast.unparse(node)}. Write the name there."
            )
        else:
            self.resources.append(text)


def _only_tells(node: ast.AST) -> bool:
    """True if a statement raises, or hands a name or docstring of one thing to another: g.__doc__ = f.__doc__."""
    handed = isinstance(node, ast.Assign) and all(_last(one) in ("__doc__", *NAMES) for one in node.targets)
    return handed or isinstance(node, ast.Raise)


def _has_file(node: ast.AST) -> bool:
    return any(_last(inner) == "__file__" for inner in ast.walk(node))


def _both(module: str, member: str) -> tuple[str, ...]:
    return (module, f"{module}.{member}") if member else (module,)


def _own_imports(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """The imports of one scope, not of those within it."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield node
    elif not isinstance(node, _SCOPES):
        for inner in ast.iter_child_nodes(node):
            yield from _own_imports(inner)


def package_of(name: str, path: Path) -> str:
    """The package from which a module's relative imports start."""
    return name if path.name == "__init__.py" else name.rpartition(".")[0]


def shown(path: Path, root: Path) -> str:
    """A file as people know it: within the project, or in full."""
    return os.path.relpath(path, root) if path.is_relative_to(root) else str(path)
