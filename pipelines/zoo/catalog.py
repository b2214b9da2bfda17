"""
The families without importing one: their docstrings and what was measured.
"""

import ast
import json
import re
from pathlib import Path
from typing import Any

from components.runtime.objects import digest_of
from components.runtime.serialization import canonical
from pipelines.engine.caching.fingerprint import fingerprint
from pipelines.engine.caching.modules import ROOT

FOLDER = ROOT / "components" / "families"


def families() -> list[dict[str, Any]]:
    """A dict for each file of components/families: name, what, size, paper, measured, stale."""
    return [_row(path) for _, path in sorted(_files().items())]


def _files() -> dict[str, Path]:
    """Family -> its file, in whatever chapter's folder."""
    return {path.stem: path for path in FOLDER.rglob("*.py") if path.stem != "__init__"}


def _row(path: Path) -> dict[str, Any]:
    doc = ast.get_docstring(ast.parse(path.read_bytes())) or ""
    said = header(doc)
    result = ROOT / "results" / f"{path.stem}.json"
    held = json.loads(result.read_text(encoding="utf-8")) if result.exists() else None
    measured = "not certified yet: rayfield certify " + path.stem
    if held:
        stale = "" if held["key"] == certificate_key(path.stem) else " (stale: the code has changed since)"
        measured = held["measured"] + stale
    return {
        "name": path.stem,
        "what": doc.splitlines()[0] if doc else "",
        "paper": said.get("Paper", ""),
        "size": said.get("Size", ""),
        "measured": measured,
    }


def header(doc: str) -> dict[str, str]:
    """The lines "Paper  ..." of a family's docstring, each with the lines that continue it."""
    found: dict[str, str] = {}
    name = ""
    for line in doc.splitlines():
        word, _, rest = line.partition(" ")
        if word in ("Paper", "Reference", "Size", "Run", "Expect", "Exempt", "Workers") and rest.startswith("  "):
            name = word
            found[name] = rest.strip()
        elif name and line.startswith("   "):
            found[name] += " " + line.strip()
        else:
            name = ""
    return found


def exemption(family: str, point: int) -> str:
    """Why a point of `rayfield certify` has no meaning for a family, as its docstring says; nothing if it has one."""
    path = _files().get(family)
    if path is None:  # one of one's own
        return ""
    said = header(ast.get_docstring(ast.parse(path.read_bytes())) or "").get("Exempt", "")
    return said if f"{point}:" in said else ""


def certificate_key(family: str) -> str:
    """The digest that a certificate depends on: code of the family, of the steps that measured it, their packages."""
    path = _files()[family]
    kinds = re.findall(r"^class (\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    (own,) = [kind for kind in kinds if kind.lower() == family.replace("_", "")]
    steps = [(f"components.steps.{name}", name) for name in ("train", "tune", "evaluate")]
    module = ".".join(["components", "families", *path.relative_to(FOLDER).with_suffix("").parts])
    made_by = fingerprint([*steps, (module, own)])
    return digest_of(canonical(made_by.in_key).encode())


def table() -> str:
    """The families as a Markdown table: the README's."""
    rows = [f"| `{r['name']}` | {_cell(r['what'])} | {_cell(r['size'])} | {_cell(r['measured'])} |" for r in families()]
    return "\n".join(["| family | what | parameters | measured at tiny size |", "|---|---|---|---|", *rows])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
