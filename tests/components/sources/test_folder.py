import os

import pytest

from components.errors import DataError
from components.source import Unreadable
from components.sources import folder
from components.sources.folder import Folder

TRIANGLE = b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Two labels with five shapes each, and what is no shape."""
    monkeypatch.setenv("RAYFIELD_STORE", str(tmp_path / "store"))
    shapes = tmp_path / "my shapes"
    for label in ("chair", "round table"):
        for number in range(5):
            path = shapes / label / "deep inside" / f"no {number}.OBJ"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(TRIANGLE.replace(b"v 1", f"v {number + 1}".encode()))
    (shapes / "chair" / "notes.txt").write_text("not a shape")
    (shapes / ".cache").mkdir()
    (shapes / ".cache" / "hidden.obj").write_bytes(TRIANGLE)
    (shapes / "chair" / "._a.obj").write_bytes(TRIANGLE)
    return shapes


def test_the_first_folder_is_the_label(root):
    rows = {asset.id: asset for asset in Folder(root=str(root)).rows()}

    assert len(rows) == 10
    assert rows["round table/deep inside/no 3.OBJ"].label == "round table"
    assert {asset.split for asset in rows.values()} == {"train", "val", "test"}


def test_a_shape_opens(root):
    source = Folder(root=str(root))
    asset = next(a for a in source.rows() if a.id == "chair/deep inside/no 3.OBJ")

    assert source.open(asset).vertices[1].tolist() == [4, 0, 0]


def test_a_listing_is_the_same_wherever_the_folder_lies(root, tmp_path):
    before = Folder(root=str(root)).digest()
    root.rename(tmp_path / "elsewhere")

    assert Folder(root=str(tmp_path / "elsewhere")).digest() == before


def test_only_what_changed_is_read_again(root, monkeypatch):
    source = Folder(root=str(root))
    before = {asset.id: asset.digest for asset in source.rows()}
    changed = root / "chair" / "deep inside" / "no 0.OBJ"
    changed.write_bytes(TRIANGLE + b"# news\n")
    read = []
    monkeypatch.setattr(folder, "_entry", lambda path, real=folder._entry: read.append(path) or real(path))
    after = {asset.id: asset.digest for asset in source.rows()}

    assert read == [changed]
    assert [name for name in after if after[name] != before[name]] == ["chair/deep inside/no 0.OBJ"]


def test_a_new_colour_is_a_new_digest(root):
    painted, paint = root / "chair" / "painted.obj", root / "chair" / "paint.mtl"
    painted.write_bytes(b"mtllib paint.mtl\nusemtl a\n" + TRIANGLE)
    digests = []
    for color in (b"", b"newmtl a\nKd 1 0 0\n", b"newmtl a\nKd 0 1 0\nmap_Kd a.png\n"):
        if color:
            paint.write_bytes(color)
        digests.append(next(a.digest for a in Folder(root=str(root)).rows() if a.id == "chair/painted.obj"))

    assert len(set(digests)) == 3


def test_a_file_with_no_bytes_is_listed_and_cannot_be_opened(root):
    (root / "chair" / "empty.ply").write_bytes(b"")
    source = Folder(root=str(root))
    asset = next(a for a in source.rows() if a.id == "chair/empty.ply")

    with pytest.raises(Unreadable, match="no bytes"):
        source.open(asset)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match="nowhere' does not exist"):
        Folder(root=str(tmp_path / "nowhere")).rows()


def test_a_folder_without_labels_says_the_law(root):
    os.replace(root / "chair" / "deep inside" / "no 0.OBJ", root / "loose.obj")

    with pytest.raises(DataError, match="one sub-folder for each label"):
        Folder(root=str(root)).rows()


def test_a_folder_without_shapes_says_which_it_reads(tmp_path):
    (tmp_path / "a.txt").write_text("not a shape")

    with pytest.raises(DataError, match="OBJ, PLY, OFF, STL, GLB"):
        Folder(root=str(tmp_path)).rows()
