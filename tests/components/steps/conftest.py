"""
A small table of made-up shapes, for the steps that need one.
"""

from pathlib import Path

import pytest

from components.representations.descriptors import Descriptors
from components.sources.folder import Folder
from components.steps.preprocess import preprocess
from components.table import Table
from tests.meshes import small_pointnet, small_voxnet, write_shapes


@pytest.fixture
def shapes(tmp_path: Path) -> Path:
    return write_shapes(tmp_path / "shapes")


@pytest.fixture
def table(shapes: Path) -> Table:
    """24 shapes in three classes, as points, voxels and descriptors."""
    sets = [small_pointnet().representation(), small_voxnet().representation(), Descriptors()]
    return preprocess(Folder(root=str(shapes)), sets, on="here")
