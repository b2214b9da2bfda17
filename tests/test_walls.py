"""
Who may import whom: DESIGN.md, section 1.
"""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.engine.caching.modules import closure

ROOT = Path(__file__).resolve().parents[1]
PURE = ("families", "layers", "kernels", "representations", "sources", "metrics", "formats")
ALLOWED_FAMILIES = {"mae": {"vit"}, "vilt": {"vit"}, "igan": {"gan"}, "pix2pixhd": {"pix2pix"}}
KNOW_MLFLOW = {  # and what imports these
    "pipelines/engine/monitoring/mlflow_sync.py",
    "pipelines/doctor.py",
    "components/steps/registry/versions.py",  # the aliases and versions
    "components/steps/registry/packaging.py",  # what a registered model is made of
    "components/steps/registry/served.py",
}


def python(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(path: Path) -> set[str]:
    """The dotted names that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def packages(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imports(path)}


def relative(path: Path) -> Iterator[int]:
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.ImportFrom) and node.level:
            yield node.lineno


def test_components_never_import_pipelines():
    assert [name_of(p) for p in python("components") if "pipelines" in packages(p)] == []


@pytest.mark.parametrize("folder", ("runtime", "plotting"))
def test_what_no_key_covers_imports_nothing_that_a_key_does(folder):
    own = ("components.errors", f"components.{folder}")
    for path in python(f"components/{folder}"):
        ours = {name for name in imports(path) if name.startswith("components.")}

        assert {name for name in ours if not name.startswith(own)} == set(), name_of(path)


@pytest.mark.parametrize("folder", PURE)
def test_what_works_in_a_bare_notebook_imports_neither_ray_nor_mlflow(folder):
    assert [name_of(p) for p in python(f"components/{folder}") if packages(p) & {"ray", "mlflow"}] == []


@pytest.mark.parametrize("folder", PURE)
def test_nor_does_anything_that_it_imports(folder):
    """Transitively: a family that imports a step would bring Ray with it."""
    modules = [name_of(p).removesuffix(".py").replace("/", ".") for p in python(f"components/{folder}")]

    assert [m.name for m in closure(modules) if {"ray", "mlflow"} & set(m.packages)] == []


def test_kernels_are_compiled_in_one_way():
    """numba's own cache misses what lies in other files."""
    compiling = {"numba.njit", "numba.jit", "numba.vectorize", "numba.guvectorize", "numba.stencil", "numba.cfunc"}

    assert [name_of(p) for p in python("components") if imports(p) & compiling] == ["components/kernels/compiled.py"]


def test_only_steps_and_the_engine_know_ray():
    """And what looks at a whole installation, or asks a model of a whole source."""
    know = {name_of(p) for p in python("components") + python("pipelines") if "ray" in packages(p)}
    may = ("components/steps/", "pipelines/engine/", "pipelines/doctor.py", "pipelines/inference/")

    assert {name for name in know if not name.startswith(may)} == set()


def test_only_tracking_registering_and_serving_know_mlflow():
    know = {name_of(p) for p in python("components") + python("pipelines") if "mlflow" in packages(p)}

    assert know - KNOW_MLFLOW == set()


def test_a_family_imports_no_other_but_the_one_that_its_paper_builds_on():
    folder = ROOT / "components" / "families"
    for path in sorted(folder.glob("*.py")):
        others = {name.split(".")[2] for name in imports(path) if name.startswith("components.families.")}

        assert others <= ALLOWED_FAMILIES.get(path.stem, set()), path.stem


def test_every_init_is_only_a_docstring():
    found = [
        p for folder in ("components", "pipelines", "tests", "infra") for p in (ROOT / folder).rglob("__init__.py")
    ]
    for path in found:
        tree = ast.parse(path.read_bytes())

        assert ast.get_docstring(tree) and len(tree.body) == 1, name_of(path)


def test_the_project_imports_by_whole_names():
    """Relative imports would be read right by the keys, and wrong by people."""
    assert [name_of(p) for p in python("components") + python("pipelines") if list(relative(p))] == []


def test_text_is_utf_8_whatever_the_locale():
    """But for what reads the same in every encoding: code.py's, a lock of ASCII."""
    found = [place for folder in ("components", "pipelines", "infra") for p in python(folder) for place in by_locale(p)]

    assert [place for place in found if not place.startswith("pipelines/engine/caching/modules.py")] == []


def by_locale(path: Path) -> Iterator[str]:
    """The calls of a file that read or write text as the locale has it."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Call) and is_text(node) and not {k.arg for k in node.keywords} & {"encoding", None}:
            yield f"{name_of(path)}:{node.lineno} {ast.unparse(node)}"


def is_text(node: ast.Call) -> bool:
    name = getattr(node.func, "id", getattr(node.func, "attr", ""))
    texts = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
    if name == "read_text":
        return not texts  # that of a package's metadata takes a name
    if name in ("open", "fdopen"):
        built_in = isinstance(node.func, ast.Name)
        modes = [text for text in texts if set(text) <= set("rwxabt+")]
        return bool(modes or built_in) and not any("b" in mode for mode in modes)
    return name == "write_text" or any(k.arg in ("text", "universal_newlines") for k in node.keywords)


def test_data_files_are_asked_for_by_a_name_in_quotes():
    """A key holds the bytes of the files that the code names so; a computed name would be in no key."""
    for path in python("components"):
        for node in ast.walk(ast.parse(path.read_bytes())):
            called = isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", ""))
            if called == "resource":
                assert all(isinstance(a, ast.Constant) for a in node.args), f"{name_of(path)}:{node.lineno}"


def test_the_packages_are_locked_by_name_and_version_alone():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"]

    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!]+", line)] == []
    assert "torch==2.13.0" in lines
    assert "://" not in (ROOT / "constraints.txt").read_text()


def test_torchvision_is_asked_for_nowhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = project["dependencies"] + [p for extra in project["optional-dependencies"].values() for p in extra]
    locked = (ROOT / "constraints.txt").read_text().splitlines()

    assert [p for p in asked + locked if p.startswith("torchvision")] == []
