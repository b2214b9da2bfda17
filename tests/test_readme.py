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
