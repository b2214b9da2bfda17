"""
The README says what is so: its table is the one that `rayfield families --markdown` writes, its commands exist.
"""

import re
import shlex

import pytest
from click import Context

from components.family import names
from components.sources.furniture import Furniture
from pipelines.cli.main import main
from pipelines.engine import pipeline
from pipelines.engine.caching.modules import ROOT
from pipelines.zoo.catalog import table
from tests.integration import test_readmes_commands
from tests.readme import blocks, promises

README = (ROOT / "README.md").read_text(encoding="utf-8")
BY_CI = {"make quickstart", "make test", "rayfield predict models:/furniture@champion chair.obj"}
REASONS = ("not run: ", "planned: ")


def test_the_table_of_families_is_the_generated_one():
    written = re.search(r"<!-- families -->\n(.*?)<!-- /families -->", README, re.DOTALL)

    assert written
    assert written[1].strip() == table().strip(), "write it anew: rayfield families --markdown"


@pytest.mark.parametrize("name", names())
def test_every_family_has_a_certificate(name):
    assert (ROOT / "results" / f"{name}.json").is_file(), f"rayfield certify {name}"


def test_every_pipeline_that_the_readme_names_exists():
    named = set(re.findall(r"rayfield (?:run|plan) ([a-z]+)", README))

    assert named
    assert named <= set(pipeline.names())


def test_every_command_that_the_readme_names_exists():
    named = set(re.findall(r"rayfield ([a-z]+)", README)) - {"rayfield"}

    assert named <= set(main.list_commands(Context(main)))


def test_every_file_that_the_readme_links_to_is_there():
    for path in re.findall(r"\]\(((?!http)[^)]+)\)", README):
        assert (ROOT / path).exists(), path


def test_every_test_that_shows_what_the_engine_promises_is_there():
    """CONTRIBUTING names files below tests/, tests/components or tests/pipelines, several of one folder after it."""
    table = (ROOT / "CONTRIBUTING.md").read_text().partition("## What the engine promises")[2].partition("\n## ")[0]
    named = re.findall(r"(?:[a-z]+/)?test_[a-z_0-9]+\.py", table)
    there = {str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("test_*.py")}

    assert len(named) > 30
    assert [name for name in named if not any(path.endswith(f"/{name}") for path in there)] == []


# Its commands are run


def test_every_command_of_the_readme_is_run_or_says_why_not():
    """By CI, or by tests/integration/test_readmes_commands.py; a comment before a block says why it is not."""
    unmarked = [command for block in blocks(README) if not block.mark.startswith(REASONS) for command in block.commands]

    assert set(unmarked) <= BY_CI | {*test_readmes_commands.RUN, *test_readmes_commands.SERVED}
    assert "```" not in README, "tests/readme.py reads indented blocks"


def test_a_new_block_without_a_reason_is_noticed():
    added = blocks(README + "\n\n    rayfield invent\n\n<!-- not run: needs a moon -->\n\n    rayfield land\n")[-2:]

    assert [(block.commands, block.mark) for block in added] == [
        (("rayfield invent",), ""),
        (("rayfield land",), "not run: needs a moon"),
    ]


def test_ci_runs_what_the_readme_has_it_run():
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8")

    assert {command for block in blocks(README) for command in block.commands} >= BY_CI
    assert [command for command in BY_CI if not re.search(rf"{re.escape(command)}(?![\w-])", lines)] == []


def test_ci_compares_what_the_readme_promises_for_the_commands_that_it_runs():
    compared = re.findall(r"^run (.*)$", (ROOT / ".ci" / "run").read_text(encoding="utf-8"), re.MULTILINE)
    names = {shlex.split(line)[1] for line in compared}

    assert names == {"make quickstart, after the installation", "the same again, all kept", "rayfield --help"}
    assert names <= promises(README).keys()


def test_the_readme_counts_the_furniture_right():
    rows = Furniture().rows()

    assert f"turns {len(rows)} real pieces of furniture" in README
    assert f"names {len({row.label for row in rows})} kinds of them" in README
