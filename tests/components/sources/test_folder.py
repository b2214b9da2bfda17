import errno
import json
import os
import struct
from pathlib import Path

import pytest

from components.decode import decode
from components.errors import DataError
from components.source import Unreadable
from components.sources import folder
from components.sources.folder import Folder, named

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


def test_another_axis_is_another_digest_of_the_same_content(root):
    upright, turned = (Folder(root=str(root), up=axis).rows() for axis in ("y", "z"))

    assert [(a.id, a.content, a.split) for a in upright] == [(a.id, a.content, a.split) for a in turned]
    assert all(one.digest == one.content != other.digest for one, other in zip(upright, turned, strict=True))


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


def test_a_file_that_may_not_be_read_is_listed_and_says_why_when_it_is_opened(root, monkeypatch):
    """Root may read everything, so the error is made up."""
    locked = root / "chair" / "deep inside" / "no 1.OBJ"
    read = Path.read_bytes
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", lambda path: refuse(path) if path == locked else read(path))
        source = Folder(root=str(root))
        before = {asset.id: asset for asset in source.rows()}
        asset = before["chair/deep inside/no 1.OBJ"]

        assert len(before) == 10
        with pytest.raises(Unreadable, match="cannot be read: Permission denied"):
            source.open(asset)
    after = {row.id: row for row in source.rows()}

    assert [name for name in after if after[name].digest != before[name].digest] == [asset.id]


def refuse(path):
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


@pytest.mark.parametrize("name", [b"x" * 300 + b".mtl", b"a\0b.mtl"], ids=["too long", "with a zero"])
def test_a_library_whose_name_no_file_can_have_is_none(root, name):
    (root / "chair" / "odd.obj").write_bytes(b"mtllib " + name + b"\n" + TRIANGLE)
    source = Folder(root=str(root))
    asset = next(a for a in source.rows() if a.id == "chair/odd.obj")

    assert source.open(asset).faces.tolist() == [[0, 1, 2]]


def test_links_to_folders_are_followed_and_those_in_a_ring_are_not(root, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "deep").mkdir(parents=True)
    (elsewhere / "deep" / "a.obj").write_bytes(TRIANGLE)
    before = len(Folder(root=str(root)).rows())
    (root / "linked").symlink_to(elsewhere)
    for place, target in (("deep/up", ".."), ("deep/self", "self"), ("over", root), ("above", root.parent)):
        (elsewhere / place).symlink_to(target, target_is_directory=True)
    source = Folder(root=str(root))
    found = {asset.id: asset for asset in source.rows()}

    assert len(found) == before + 1
    assert found["linked/deep/a.obj"].label == "linked"
    assert source.open(found["linked/deep/a.obj"]).faces.tolist() == [[0, 1, 2]]
    assert root / "linked" / "deep" / "a.obj" in set(source.watch())


def test_two_folders_that_lead_to_each_other_are_walked_once_each_way(tmp_path):
    for one, other in (("a", "b"), ("b", "a")):
        (tmp_path / one).mkdir()
        (tmp_path / one / "x.obj").write_bytes(TRIANGLE)
        (tmp_path / one / "on").symlink_to(tmp_path / other)

    assert set(folder.shapes(str(tmp_path))) == {"a/x.obj", "a/on/x.obj", "b/x.obj", "b/on/x.obj"}


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


OBJ = b" mtllib my paint.mtl\nmtllib sub\\more.mtl\nmtllib one.mtl\ttwo.mtl\nusemtl a\n" + TRIANGLE
LIBRARY = b"newmtl a\n  map_Kd -s 1 1 1 -clamp on my picture.png\nmap_Kd pictures\\b.png\n"


def glb_that_names(*files: str) -> bytes:
    document = json.dumps({"asset": {"version": "2.0"}, "images": [{"uri": file} for file in files]}).encode()
    document += b" " * (-len(document) % 4)
    chunk = struct.pack("<II", len(document), 0x4E4F534A) + document
    return struct.pack("<III", 0x46546C67, 2, 12 + len(chunk)) + chunk


@pytest.mark.parametrize(
    "file", ["my paint.mtl", "sub/more.mtl", "two.mtl", "my picture.png", "pictures/b.png", "a b.png"]
)
def test_one_byte_of_any_file_that_a_shape_names_is_a_new_digest(root, file):
    chair = root / "chair"
    (chair / "named.obj").write_bytes(OBJ)
    (chair / "named.glb").write_bytes(glb_that_names("a%20b.png"))
    for name in ("my paint.mtl", "sub/more.mtl"):
        (chair / name).parent.mkdir(exist_ok=True)
        (chair / name).write_bytes(LIBRARY)
    source = Folder(root=str(root))
    before = {asset.id: asset.digest for asset in source.rows()}
    (chair / file).parent.mkdir(exist_ok=True)
    (chair / file).write_bytes(LIBRARY + b"# and more" if file.endswith("mtl") else b"a picture")
    first = {asset.id: asset.digest for asset in source.rows()}
    (chair / file).write_bytes(LIBRARY + b"# and yet more" if file.endswith("mtl") else b"a picture!")
    second = {asset.id: asset.digest for asset in source.rows()}
    own = "chair/named.glb" if file == "a b.png" else "chair/named.obj"

    assert len({before[own], first[own], second[own]}) == 3
    assert [name for name in before if before[name] != second[name]] == [own]


def test_the_files_that_are_listed_are_those_that_the_decoder_opens(tmp_path):
    """The listing reads names alone; decoding is its slow twin."""
    asked: list[str] = []

    def resolve(name: str) -> bytes | None:
        asked.append(name)
        return LIBRARY if name.endswith(".mtl") and "\t" not in name else None

    decode(OBJ, "obj", resolve)

    assert set(named(OBJ, "obj", resolve)) == set(asked)
    assert len(set(asked)) == 7
