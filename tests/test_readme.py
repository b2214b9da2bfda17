"""
The README says what is so: its table is the one that `rayfield families --markdown` writes, its commands exist.
"""

import re

import pytest
from click import Context

from components.family import names
from pipelines.cli import main
from pipelines.engine import pipeline
from pipelines.engine.catalog import table
from pipelines.engine.code import ROOT

README = (ROOT / "README.md").read_text()


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
