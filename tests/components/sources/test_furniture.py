import subprocess
import sys
import zipfile
from collections import Counter

import numpy as np
import pytest

from components.errors import DataError
from components.runtime.resource import resource
from components.sources import furniture
from components.sources.furniture import Furniture
from components.sources.sweethome3d import catalogue, packed

SOURCE = Furniture()
ROWS = SOURCE.rows()


def test_there_are_446_pieces_in_14_classes():
    counts = Counter(asset.label for asset in ROWS)

    assert (len(ROWS), len(counts)) == (446, 14)
    assert (counts["chair"], counts["person"], counts["door"]) == (70, 27, 15)
    assert len({asset.id for asset in ROWS}) == 446


def test_every_piece_has_an_author_and_a_licence_that_allows_sharing():
    assert {asset.attributes["licence"] for asset in ROWS} == {"CC0-1.0", "CC-BY-3.0", "CC-BY-3.0-US"}
    assert all(asset.attributes["author"] for asset in ROWS)


def test_every_piece_is_named_in_the_attribution():
    text = resource("ATTRIBUTION.md").read_text()

    assert [asset.id for asset in ROWS if f"`{asset.id}`" not in text] == []


def test_every_class_is_in_every_split():
    found = {(asset.label, asset.split) for asset in ROWS}

    assert len(found) == 14 * 3


def test_every_piece_can_be_used():
    for asset in ROWS:
        mesh = SOURCE.open(asset)
        assert mesh.problem() is None, asset.id
        assert mesh.materials.max() < len(mesh.colors), asset.id


def test_a_piece_stands_on_the_floor_at_the_size_of_the_catalogue():
    sizes = {row["id"]: row["size"] for row in packed.index_of(resource("furniture.bin"))}
    for asset in ROWS[::9]:
        vertices = SOURCE.open(asset).vertices
        assert abs(vertices[:, 1].min()) < 0.02 * np.ptp(vertices), asset.id
        np.testing.assert_allclose(np.ptp(vertices, axis=0), sizes[asset.id], rtol=0.25, atol=3, err_msg=asset.id)


def test_people_are_taller_than_wide_and_cars_longer_than_tall():
    standing = next(a for a in ROWS if a.id == "reallusion/male-1")
    car = next(a for a in ROWS if a.id == "scopia/van")
    width, height, depth = np.ptp(SOURCE.open(standing).vertices, axis=0)
    assert height > 2 * max(width, depth)
    width, height, depth = np.ptp(SOURCE.open(car).vertices, axis=0)
    assert depth > 1.5 * height


def test_the_folds_are_as_even_as_a_hash_makes_them():
    """446 / 5, give or take 8.4."""
    sides = [Counter(asset.split for asset in Furniture(fold=fold).rows()) for fold in range(5)]

    assert [side["test"] for side in sides] == [94, 99, 83, 90, 80]
    assert sides[0] == {"train": 303, "val": 49, "test": 94}


def test_a_piece_is_the_same_one_in_each_of_its_forms():
    contents, textured = {a.id: a.content for a in ROWS}, Furniture(textured=True).rows()

    assert {asset.id: asset.content for asset in textured}.items() <= contents.items()
    assert all(asset.digest != asset.content for asset in textured)


def test_textured_pieces_have_pictures_and_the_split_of_the_others():
    source, splits = Furniture(textured=True), {asset.id: asset.split for asset in ROWS}
    rows = source.rows()

    assert 5 <= len(rows) <= 8
    for asset in rows:
        mesh = source.open(asset)
        assert asset.split == splits[asset.id]
        assert any(picture is not None and picture.std() > 5 for picture in mesh.textures), asset.id
        assert mesh.uv.shape == (len(mesh.faces), 3, 2)


def test_folds_share_no_test_piece():
    tests = [{a.id for a in Furniture(fold=fold).rows() if a.split == "test"} for fold in range(5)]

    assert sum(map(len, tests)) == len(set().union(*tests)) == 446


def test_a_packed_mesh_comes_back_as_it_was(tmp_path):
    mesh = SOURCE.open(ROWS[7])
    packed.write(tmp_path / "one.bin", [({"id": "a"}, mesh, [])])
    (row,) = packed.index_of(tmp_path / "one.bin")
    again = packed.mesh_at(tmp_path / "one.bin", row)

    np.testing.assert_array_equal(again.faces, mesh.faces)
    np.testing.assert_array_equal(again.materials, mesh.materials)
    np.testing.assert_allclose(again.vertices, mesh.vertices, atol=np.ptp(mesh.vertices) / 65535)


def test_a_damaged_bundle_is_noticed(tmp_path):
    (tmp_path / "one.bin").write_bytes(b"")
    with pytest.raises(DataError, match="must be a file of packed meshes, but is not"):
        packed.index_of(tmp_path / "one.bin")
    packed.write(tmp_path / "one.bin", [({"id": "a"}, SOURCE.open(ROWS[7]), [])])
    data = bytearray((tmp_path / "one.bin").read_bytes())
    data[-5] ^= 1
    (tmp_path / "one.bin").write_bytes(data)
    with pytest.raises(DataError, match="The bytes of a in .* the file is damaged. Install it again"):
        packed.mesh_at(tmp_path / "one.bin", packed.index_of(tmp_path / "one.bin")[0])


@pytest.fixture
def libraries(tmp_path):
    """The five libraries with one chair, which lies on its back and is in inches."""
    row = "name#1=Chair \\u00e9\ncategory#1=Kitchen\nmodel#1=/c/my%20chair.obj\nwidth#1=40\ndepth#1=50\nheight#1=90\n"
    row += "creator#1=Somebody\nmodelRotation#1=1 0 0 0 0 1 0 -1 0\n"
    for library in catalogue.LIBRARIES:
        with zipfile.ZipFile(tmp_path / f"{library}.sh3f", "w") as archive:
            archive.writestr("PluginFurnitureCatalog.properties", row if library == "Scopia" else "")
            archive.writestr("c/my chair.obj", "v 0 0 0\nv 1 0 0\nv 0 2 0\nv 0 0 3\nv 99 99 99\nf 1 2 3\nf 1 2 4\n")
    return tmp_path


def test_the_whole_package_is_turned_upright_and_scaled(libraries):
    source = Furniture(full=True, root=str(libraries))
    (asset,) = source.rows()
    mesh = source.open(asset)

    assert (asset.id, asset.label, asset.attributes["name"]) == ("scopia/chair", "chair", "Chair é")
    np.testing.assert_allclose(np.ptp(mesh.vertices[:4], axis=0), [40, 90, 50], rtol=1e-6)
    assert mesh.vertices[3].tolist() == [-20, 90, 25]  # what was z is up


def test_a_root_without_the_package_is_named(tmp_path):
    with pytest.raises(DataError, match="has neither"):
        Furniture(full=True, root=str(tmp_path)).rows()
    with pytest.raises(DataError, match="does not exist"):
        Furniture(full=True, root=str(tmp_path / "nowhere")).rows()


def test_another_package_is_refused(tmp_path):
    (tmp_path / "sweethome3d-furniture_9.deb").write_bytes(b"!<arch>\n")

    with pytest.raises(DataError, match="this file has 8"):
        Furniture(full=True, root=str(tmp_path)).rows()


def test_a_machine_without_apt_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("RAYFIELD_STORE", str(tmp_path / "store"))

    with pytest.raises(DataError, match="no apt-get.*Pass --root"):
        Furniture(full=True).rows()


@pytest.mark.parametrize(
    ("name", "category", "label"),
    [
        ("Rocking horse", "Bedroom", None),
        ("Glass door cabinet", "Kitchen", "cabinet"),
        ("Bedside table", "Bedroom", "table"),
        ("Woman shoes", "Characters", None),
        ("Bus", "Vehicles", "vehicle"),
        ("Table lamp", "Lights", "lamp"),
        ("Carpet", "Living room", None),
    ],
)
def test_the_first_rule_decides_the_class(name, category, label):
    assert catalogue.class_of(name, category) == label


def test_listing_imports_nothing_heavy():
    code = "import sys; from components.sources.furniture import Furniture; Furniture().rows(); "
    code += "print(sorted({'torch', 'pandas', 'trimesh', 'numba', 'ray'} & set(sys.modules)))"

    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_the_bundle_is_small():
    assert resource("furniture.bin").stat().st_size < 6_000_000
    assert furniture.resource("textured.bin").stat().st_size < 3_000_000
