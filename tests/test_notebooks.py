import nbformat
import pytest
from nbclient import NotebookClient

from pipelines.engine.caching.modules import ROOT

every_notebook = pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda p: p.stem)


@every_notebook
def test_holds_calls_and_neither_logic_nor_outputs(path):
    cells = [c for c in nbformat.read(path, 4).cells if c.cell_type == "code"]

    assert cells
    assert not [c.source for c in cells if c.outputs]
    assert not [line for c in cells for line in c.source.splitlines() if line.startswith(("def ", "class "))]


@every_notebook
def test_runs_from_its_first_cell_to_its_last(path, tmp_path):
    client = NotebookClient(nbformat.read(path, 4), timeout=300, resources={"metadata": {"path": str(tmp_path)}})

    ran = client.execute()

    assert [c for c in ran.cells if c.cell_type == "code" and c.execution_count]
