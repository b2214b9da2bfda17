"""
What is known of the families without importing one: their docstrings and what was measured.
"""

import ast
import json
from pathlib import Path
from typing import Any

from components.runtime.files import digest_of
from components.runtime.plain import canonical
from pipelines.engine.code import ROOT, dependencies

FOLDER = ROOT / "components" / "families"


def families() -> list[dict[str, Any]]:
    """A dict for each file of components/families: name, what, size, paper, measured, stale."""
    return [_row(path) for path in sorted(FOLDER.glob("*.py")) if path.stem != "__init__"]


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
    """Why a point of SYSTEMS.md has no meaning for a family, as its docstring says; nothing if it has one."""
    doc = ast.get_docstring(ast.parse((FOLDER / f"{family}.py").read_bytes())) or ""
    said = header(doc).get("Exempt", "")
    return said if f"{point}:" in said else ""


def certificate_key(family: str) -> str:
    """What a certificate depends on: the code of its family and of what it imports, and their packages."""
    return digest_of(canonical(dependencies([f"components.families.{family}"])).encode())


def table() -> str:
    """The families as a Markdown table: the README's."""
    rows = [f"| `{r['name']}` | {_cell(r['what'])} | {_cell(r['size'])} | {_cell(r['measured'])} |" for r in families()]
    return "\n".join(["| family | what | parameters | measured at tiny size |", "|---|---|---|---|", *rows])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
