"""
What makes a mesh unusable, whichever representation it is asked for.
"""

import numpy as np
import pyarrow.parquet as pq
import pytest

from components.formats.decode import decode
from components.formats.mesh import Mesh
from components.kernels.sampling import areas, has_area
from components.representations.descriptors import Descriptors
from components.representations.points import Points
from components.representations.views import Views
from components.representations.voxels import Voxels
from components.source import Asset, Source, Unreadable
from components.steps.preprocess import preprocess

LINE = np.outer([1, 2, 3], [0.1, 0.2, 0.3])  # in float32 its corners are not quite on one line
FLAT = {
    "corners on an axis": [[0, 0, 0], [1, 0, 0], [2, 0, 0]],
    "corners on any line": LINE,
    "corners on a line far away": LINE + 1000,
    "corners on a line through great numbers": LINE * 1e30,
    "corners on a line through small numbers": LINE * 1e-30,
    "two corners at one place": [[0, 0, 0], [0.3, 0.7, 0.1], [0.3, 0.7, 0.1]],
}
WIDE = {
    "one": [[0, 0, 0], [1, 0, 0], [0, 1, 0]],
    "a tiny one": [[0, 0, 0], [1e-30, 0, 0], [0, 1e-30, 0]],
    "a great one": [[0, 0, 0], [1e30, 0, 0], [0, 1e30, 0]],
    "a needle": [[0, 0, 0], [1, 0, 0], [1, 1e-5, 0]],
}


def mesh_of(*triangles: object) -> Mesh:
    vertices = np.array(triangles, np.float32).reshape(-1, 3)
    return Mesh(vertices, np.arange(len(vertices), dtype=np.int32).reshape(-1, 3))


@pytest.mark.parametrize("case", FLAT)
def test_a_mesh_of_faces_without_area_says_so(case):
    mesh = mesh_of(FLAT[case], FLAT[case])

    assert mesh.problem() == "none of its 2 faces has an area: the corners of each lie on one line"


@pytest.mark.parametrize("case", WIDE)
def test_one_face_with_an_area_is_enough(case):
    assert mesh_of(*FLAT.values(), WIDE[case]).problem() is None
    assert mesh_of(WIDE[case], *FLAT.values()).problem() is None


def test_what_has_an_area_has_one_by_numpy_as_well():
    """Corners on a coarse grid: what is left of rounding is nothing, so that the slow twin needs no bound."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(300):
        mesh = mesh_of(*rng.integers(0, 3, (rng.integers(1, 3), 3, 3)))
        found.append(has_area(mesh.vertices, mesh.faces))

        assert found[-1] == (areas(mesh.triangles) > 0).any()
    assert 0 < found.count(False) < 300


@pytest.mark.parametrize("kind", ["obj", "off"])
def test_a_file_of_faces_without_area_cannot_be_read(kind):
    points = ["0 0 0", "1 1 1", "2 2 2"]
    data = {
        "obj": "".join(f"v {point}\n" for point in points) + "f 1 2 3\n",
        "off": "OFF\n3 1 0\n" + "".join(f"{point}\n" for point in points) + "3 0 1 2\n",
    }[kind]

    with pytest.raises(Unreadable, match="none of its 1 faces has an area"):
        decode(data.encode(), kind)


class Shapes(Source):
    """One shape without any area, one with a face that has none, and one that is sound."""

    def rows(self) -> list[Asset]:
        return [Asset(name, f"/{name}", "label", "train", name) for name in ("flat", "mixed", "sound")]

    def open(self, asset: Asset) -> Mesh:
        flat, wide = FLAT["corners on any line"], WIDE["one"]
        return mesh_of(*{"flat": [flat], "mixed": [flat, wide], "sound": [wide]}[asset.id])


@pytest.mark.parametrize("representation", [Points(), Voxels(), Views(count=1, size=8), Descriptors()], ids=repr)
def test_every_representation_refuses_a_shape_without_area_with_the_same_reason(representation):
    table = preprocess(Shapes(), [representation], on="here")

    assert [(row["id"], row["reason"]) for row in pq.read_table(table.quarantine.path()).to_pylist()] == [
        ("flat", "none of its 1 faces has an area: the corners of each lie on one line")
    ]
    assert table.counts["train"] == 2
