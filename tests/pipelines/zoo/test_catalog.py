"""
The catalogue of families: read from their files, without importing one.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from components.family import names
from pipelines.zoo import catalog
from pipelines.zoo.catalog import certificate_key, families, header, table

ROOT = Path(__file__).resolve().parents[3]


def test_every_family_is_in_it_with_what_its_file_says():
    rows = families()

    assert [row["name"] for row in rows] == names()
    assert all(row["what"] and row["paper"] and row["size"] for row in rows)


def test_reading_it_imports_no_torch():
    code = "import sys; from pipelines.zoo.catalog import families; families(); print('torch' in sys.modules)"

    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True).strip() == "False"


def test_lines_that_continue_a_heading_belong_to_it():
    doc = "A net.\n\nPaper       One, two,\n            three\nRun         rayfield run\n\nWords after it."

    assert header(doc) == {"Paper": "One, two, three", "Run": "rayfield run"}


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose families have no certificates yet."""
    (tmp_path / "results").mkdir()
    monkeypatch.setattr(catalog, "ROOT", tmp_path)
    return tmp_path / "results"


def measured(name: str) -> str:
    return next(row["measured"] for row in families() if row["name"] == name)


def test_what_was_measured_is_told_and_old_measurements_are_marked(results):
    said = {"measured": "0.62 ± 0.05", "key": certificate_key("voxnet")}
    (results / "voxnet.json").write_text(json.dumps(said))
    assert measured("voxnet") == "0.62 ± 0.05"

    (results / "voxnet.json").write_text(json.dumps({**said, "key": "older"}))
    assert measured("voxnet") == "0.62 ± 0.05 (stale: the code has changed since)"


def test_a_family_that_was_never_measured_says_how_to(results):
    assert measured("voxnet") == "not certified yet: rayfield certify voxnet"


def test_the_table_has_a_row_for_each_family_and_no_broken_cell():
    _, rule, *rows = table().splitlines()

    assert len(rows) == len(names())
    assert {row.replace("\\|", "").count("|") for row in [rule, *rows]} == {5}
