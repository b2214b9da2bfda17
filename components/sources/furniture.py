"""
446 pieces of furniture in 14 classes, from Debian's package sweethome3d-furniture (Creative Commons).

    Furniture()                 about 2,000 faces each, one colour a face; bundled, 4 MB
    Furniture(textured=True)    a few of them with all of their faces and pictures; bundled
    Furniture(full=True)        all of them with all of their faces and pictures; a download of 120 MB

Lengths are centimetres, y is up, and a piece stands on y = 0. An id means the same piece, in the same split, in all
three. Authors and licences: components/sources/data/ATTRIBUTION.md.
"""

import hashlib
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated

from components.constraints import AtLeast, Natural
from components.errors import DataError, UsageError
from components.formats.mesh import Mesh
from components.runtime import filesystem, objects
from components.runtime.archives import member_of_ar, tar_members, unxz
from components.runtime.resource import resource
from components.source import Asset, Source, check_digest, split_by_hash
from components.sources.sweethome3d import catalogue, packed

PACKAGE = "sweethome3d-furniture"
VERSION = "1.8-1"
SIZE = 119_782_356
SHA256 = "3ccb90c63f9525e887a767b9cd5c8b6933b8b6b2973a615a5359ee68a2118668"
VAL = 0.12
REMEDY = "Pass --root with the .deb of a Debian mirror, or leave --full out for the bundled shapes."


class Furniture(Source):
    """Furniture, plants, people and vehicles of Sweet Home 3D."""

    full: bool = False
    """all faces and pictures, from the Debian package instead of the bundled file"""
    root: str = ""
    """with full: the .deb, or a folder that has it or its .sh3f files; empty downloads it"""
    textured: bool = False
    """only the few bundled pieces that have all of their faces and pictures"""
    fold: Natural = 0
    """which of the folds is the test set"""
    folds: Annotated[int, AtLeast(2)] = 5
    """parts of each class, one of which is the test set"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.root and not self.full:
            raise UsageError(
                f"--root is read with --full only, but got {self.root!r} without it. "
                f"Did you mean --source folder --root {self.root}?"
            )

    def rows(self) -> list[Asset]:
        # dealt over all of the pieces, so that a textured one keeps its side
        everything = _from_package(library(self.root)) if self.full else _from_file(resource("furniture.bin"))
        split = split_by_hash(everything, fold=self.fold, folds=self.folds, val=VAL)
        if not self.textured:
            return split
        few = {asset.id: asset for asset in (everything if self.full else _from_file(resource("textured.bin")))}
        named = _index(resource("textured.bin"))
        return [replace(few[asset.id], split=asset.split) for asset in split if asset.id in named]

    def open(self, asset: Asset) -> Mesh:
        if self.full:
            folder = library(self.root)
            piece = _pieces(folder).get(asset.id)
            check_digest(asset, piece.digest if piece else "")
            assert piece is not None  # no asset has the digest of nothing
            return catalogue.open_piece(folder, piece)
        path = resource("textured.bin") if self.textured else resource("furniture.bin")
        row = _index(path).get(asset.id, {"digest": ""})
        check_digest(asset, row["digest"])
        return packed.mesh_at(path, row)

    def watch(self) -> Iterable[Path]:
        if self.full:
            return [library(self.root) / f"{name}.sh3f" for name in catalogue.LIBRARIES]
        return [resource("furniture.bin"), resource("textured.bin")]


def _index(path: Path) -> dict[str, packed.Row]:
    return _index_of(path, _stamp(path))


@lru_cache(4)
def _index_of(path: Path, stamp: tuple[int, ...]) -> dict[str, packed.Row]:
    return {row["id"]: row for row in packed.index_of(path)}


def _pieces(folder: Path) -> dict[str, catalogue.Piece]:
    return _pieces_of(folder, tuple(_stamp(folder / f"{name}.sh3f") for name in catalogue.LIBRARIES))


@lru_cache(4)
def _pieces_of(folder: Path, stamps: tuple[tuple[int, ...], ...]) -> dict[str, catalogue.Piece]:
    return {piece.id: piece for piece in catalogue.pieces(folder)}


def _stamp(path: Path) -> tuple[int, ...]:
    """A stamp that changes with a file; constant for a missing one, which its reader tells of."""
    stat = path.stat() if path.exists() else None
    return (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino) if stat else ()


def _from_file(path: Path) -> list[Asset]:
    rows = _index(path).values()
    kept = ("name", "author", "licence", "library")
    return [
        Asset(
            row["id"],
            f"{path.name}#{row['id']}",
            row["label"],
            "",
            row["digest"],
            {key: row[key] for key in kept},
            _content(row["id"]),
        )
        for row in rows
    ]


def _from_package(folder: Path) -> list[Asset]:
    return [
        Asset(
            piece.id,
            f"{piece.library}.sh3f#{piece.model}",
            piece.label,
            "",
            piece.digest,
            {"name": piece.name, "author": piece.author, "licence": piece.licence, "library": piece.library},
            _content(piece.id),
        )
        for piece in _pieces(folder).values()
    ]


def _content(piece: str) -> str:
    """One for a piece in all of its forms, the digest of the bundled one: who has learned one form knows the others."""
    row = _index(resource("furniture.bin")).get(piece)
    return row["digest"] if row else ""


def library(root: str) -> Path:
    """The folder with the .sh3f files: the one given, or the package unpacked below the store."""
    given = Path(root)
    if root and not given.exists():
        raise DataError(f"--root is the Debian package or a folder with it, but {root} does not exist. {REMEDY}")
    if root and given.is_dir():
        found = next(iter(sorted(given.rglob(f"{catalogue.LIBRARIES[0]}.sh3f"))), None)
        if found:
            return found.parent
        given = next(iter(sorted(given.glob(f"{PACKAGE}_*.deb"))), given)
        if given.is_dir():
            raise DataError(
                f"--root is a folder with {PACKAGE}_{VERSION}_all.deb or its .sh3f files, but {root} has neither."
            )
    store = objects.scratch_root() if filesystem.is_remote(objects.root()) else Path(objects.root())
    folder = store / "data" / f"{PACKAGE}_{VERSION}"
    if not all((folder / f"{name}.sh3f").is_file() for name in catalogue.LIBRARIES):
        unpack(checked(given.read_bytes() if root else download()), folder)
    return folder


def download() -> bytes:
    """The package, by apt-get: nothing is installed, and no root is needed."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["apt-get", "download", f"{PACKAGE}={VERSION}"]
        try:
            done = subprocess.run(
                command, cwd=folder, capture_output=True, encoding="utf-8", errors="replace", timeout=600
            )
        except FileNotFoundError:
            raise DataError(
                f"The full furniture is a Debian package, but this machine has no apt-get. {REMEDY}"
            ) from None
        found = list(Path(folder).glob("*.deb"))
        if done.returncode or not found:
            said = (done.stderr.strip().splitlines() or ["it made no file"])[-1]
            raise DataError(f"apt-get must give {PACKAGE} {VERSION}, but said: {said}. Run apt-get update. {REMEDY}")
        return found[0].read_bytes()


def checked(package: bytes) -> bytes:
    """The package itself, if it is the one that this code knows."""
    digest = hashlib.sha256(package).hexdigest()
    if (len(package), digest) != (SIZE, SHA256):
        law = f"{PACKAGE} {VERSION} has {SIZE} bytes and SHA-256 {SHA256[:12]}..."
        raise DataError(f"{law}, but this file has {len(package)} and {digest[:12]}.... {REMEDY}")
    return package


def unpack(package: bytes, folder: Path) -> None:
    """The .sh3f files of a .deb: an `ar` archive whose member data.tar.xz has them."""
    found = dict(tar_members(unxz(member_of_ar(package, "data.tar.xz")), ".sh3f"))
    for name, content in found.items():  # all of them are sound: none is written before that is known
        filesystem.write_atomically(folder / name, content)
