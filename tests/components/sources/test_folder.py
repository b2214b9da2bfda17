import errno
import json
import os
import struct
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.errors import DataError
from components.formats.decode import decode
from components.source import Changed, Unreadable
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
    monkeypatch.setattr(folder, "YOUNG", 0)
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
        with pytest.raises(Unreadable, match="no 1.OBJ may not be read: Permission denied"):
            source.open(asset)
    after = {row.id: row for row in source.rows()}

    assert [name for name in after if after[name].digest != before[name].digest] == [asset.id]


def test_a_picture_that_may_not_be_read_sets_its_shape_aside_and_leaves_it_no_other_digest(root, monkeypatch):
    """A permission is the file's own: it stops no other, and the shape that is readable has another key."""
    asset = painted(root)
    digest, picture, read = asset.digest, root / "chair" / "red.png", Path.read_bytes
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", lambda path: refuse(path) if path == picture else read(path))
        locked = listed(root)["chair/painted.obj"]
        with pytest.raises(Unreadable, match="^red.png may not be read: Permission denied$"):
            Folder(root=str(root)).open(locked)
        with pytest.raises(Changed):
            Folder(root=str(root)).open(asset)

    assert locked.digest != digest
    assert listed(root)["chair/painted.obj"].digest == digest
    with pytest.raises(Changed):
        Folder(root=str(root)).open(locked)


def listed(root):
    return {asset.id: asset for asset in Folder(root=str(root)).rows()}


def painted(root):
    """A shape whose one face is red, by its picture."""
    (root / "chair" / "painted.obj").write_bytes(b"mtllib red.mtl\nusemtl a\n" + TRIANGLE)
    (root / "chair" / "red.mtl").write_bytes(b"newmtl a\nmap_Kd red.png\n")
    Image.fromarray(np.full((2, 2, 3), (255, 0, 0), np.uint8)).save(root / "chair" / "red.png")
    return listed(root)["chair/painted.obj"]


ERRORS = [errno.EIO, errno.EMFILE, errno.ESTALE, errno.ECONNRESET, errno.ENOMEM]


@pytest.mark.parametrize("file", ["painted.obj", "red.mtl", "red.png"])
@pytest.mark.parametrize("number", ERRORS, ids=errno.errorcode.get)
def test_an_error_of_reading_is_that_error_and_nothing_is_grey(root, monkeypatch, file, number):
    monkeypatch.setattr(folder, "YOUNG", 0)
    asset, read = painted(root), Path.read_bytes

    def broken(path):
        if path.name == file:
            raise OSError(number, os.strerror(number), str(path))
        return read(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", broken)
        with pytest.raises(OSError, match=file) as opening:
            Folder(root=str(root)).open(asset)
        with pytest.raises(OSError, match=file) as listing:
            (root / "chair" / "red.mtl").write_bytes(b"newmtl a\nmap_Kd red.png\n\n")
            Folder(root=str(root)).rows()
    (root / "chair" / "red.mtl").write_bytes(b"newmtl a\nmap_Kd red.png\n")

    assert opening.value.errno == listing.value.errno == number
    (picture,) = Folder(root=str(root)).open(asset).textures
    assert picture.tolist() == [[[255, 0, 0]] * 2] * 2


@pytest.mark.parametrize("file", ["painted.obj", "red.mtl", "red.png"])
@pytest.mark.parametrize("how", ["written", "removed"])
def test_what_changed_after_the_listing_is_refused_and_listed_anew(root, file, how):
    asset = painted(root)
    changed = root / "chair" / file
    before = changed.stat()
    if how == "removed":
        changed.unlink()
    else:
        data = changed.read_bytes()
        changed.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns))

    with pytest.raises(Changed, match="painted.obj changed since then. Run again when nothing writes to it"):
        Folder(root=str(root)).open(asset)
    assert getattr(listed(root).get(asset.id), "digest", None) != asset.digest


def test_a_change_that_no_stamp_shows_is_found_by_the_listing_that_follows(root, monkeypatch):
    monkeypatch.setattr(folder, "YOUNG", 0)
    monkeypatch.setattr(folder, "_stamp", lambda path: [1, 1, 1, 1] if path.exists() else None)
    asset = painted(root)
    shape = root / "chair" / "painted.obj"
    shape.write_bytes(shape.read_bytes() + b"# news\n")

    assert listed(root)[asset.id].digest == asset.digest  # nothing tells it of the change
    with pytest.raises(Changed):
        Folder(root=str(root)).open(asset)
    Folder(root=str(root)).open(listed(root)[asset.id])


def test_a_file_that_changes_while_it_is_read_is_read_again(root, monkeypatch):
    """Its bytes of before must not have the stamp of after."""
    monkeypatch.setattr(folder, "YOUNG", 0)
    shape, read, saved = root / "chair" / "deep inside" / "no 0.OBJ", Path.read_bytes, []

    def save_after(path):
        data = read(path)
        if path == shape and not saved:
            saved.append(path.write_bytes(TRIANGLE + b"# saved meanwhile\n"))
        return data

    monkeypatch.setattr(Path, "read_bytes", save_after)
    asset = listed(root)["chair/deep inside/no 0.OBJ"]

    assert Folder(root=str(root)).open(asset).vertices[1].tolist() == [1, 0, 0]
    assert listed(root)[asset.id].digest == asset.digest


def test_a_file_that_never_lies_still_is_named(root, monkeypatch):
    shape, read = root / "chair" / "deep inside" / "no 0.OBJ", Path.read_bytes

    def save_after(path):
        data = read(path)
        if path == shape:
            path.write_bytes(data + b"#\n")
        return data

    monkeypatch.setattr(Path, "read_bytes", save_after)

    with pytest.raises(Changed, match="no 0.OBJ changes while it is read"):
        listed(root)


def test_a_file_that_is_younger_than_a_clock_can_tell_is_read_again(root, monkeypatch):
    """A second change within one tick of a file system's clock leaves the stamp as it was."""
    times = {path: folder._stamp(path) for path in root.rglob("*.OBJ")}
    monkeypatch.setattr(folder, "_stamp", lambda path: times.get(path))
    old = time.time_ns() - 2 * folder.YOUNG
    times |= {path: [stamp[0], old, old, stamp[3]] for path, stamp in times.items() if path.name != "no 0.OBJ"}
    listed(root)
    read = []
    monkeypatch.setattr(folder, "_entry", lambda path, real=folder._entry: read.append(path.name) or real(path))
    listed(root)

    assert read == ["no 0.OBJ", "no 0.OBJ"]


def test_what_is_absent_is_not_what_is_empty(root):
    asset = painted(root)
    seen = {asset.digest}
    for change in ("unlink", "touch"):
        getattr(root / "chair" / "red.png", change)()
        seen.add(listed(root)[asset.id].digest)

    assert len(seen) == 3


def test_a_shape_that_names_a_device_reads_nothing_of_it(root):
    (root / "chair" / "endless.obj").write_bytes(b"mtllib /dev/zero\n" + TRIANGLE)

    assert Folder(root=str(root)).open(listed(root)["chair/endless.obj"]).faces.tolist() == [[0, 1, 2]]


def test_a_folder_that_may_not_be_listed_is_no_empty_one(root, monkeypatch):
    """Root may list everything, so the errors are made up. What a system or a program hides is passed over."""
    for name in (".hidden", "lost+found", "chair"):
        (root / name).mkdir(exist_ok=True)
    scan, locked, number = os.scandir, {".hidden", "lost+found"}, errno.EACCES

    def scandir(path):
        if Path(path).name in locked:
            raise OSError(number, os.strerror(number), str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert len(listed(root)) == 10
    locked.add("chair")
    with pytest.raises(DataError, match="one that may be listed, but .*chair is not: Permission denied"):
        listed(root)
    number = errno.EIO
    with pytest.raises(OSError, match="Input/output error"):
        listed(root)


def test_a_listing_that_cannot_be_kept_is_made_each_time(root, monkeypatch):
    """By one who may only read the store."""

    def refused(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(folder.filesystem, "write_atomically", refused)

    assert len(listed(root)) == len(listed(root)) == 10


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


def test_a_file_whose_name_is_not_utf_8_is_listed_by_a_name_that_is_and_says_why_when_it_is_opened(root):
    before = {asset.id: asset for asset in Folder(root=str(root)).rows()}
    for name in (b"chair/\xff.obj", b"\xfe/a.obj"):
        path = Path(os.fsdecode(os.path.join(os.fsencode(root), name)))
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(TRIANGLE)
    source = Folder(root=str(root), up="z")
    after = {asset.id: asset for asset in source.rows()}

    assert after.keys() - before.keys() == {"chair/\\xff.obj", "\\xfe/a.obj"}
    assert after["\\xfe/a.obj"].label == "\\xfe"
    for name in after.keys() - before.keys():
        with pytest.raises(Unreadable) as caught:
            source.open(after[name])
        assert str(caught.value) == f"A file's name is UTF-8, but {name} is not. Rename it."
