"""
The furniture libraries of Sweet Home 3D: what they hold, which class each piece has, and how to open one.

A library is a .sh3f file: a zip with a catalogue (a Java .properties file) and, for each piece, an OBJ in units of its
own with its materials and pictures. The catalogue gives the size in centimetres and how to turn the piece upright.
"""

import hashlib
import posixpath
import re
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote

import numpy as np

from components.errors import DataError
from components.formats.mesh import Mesh
from components.runtime.archives import read_member
from components.source import Changed

LIBRARIES = ("BlendSwap-CC-0", "BlendSwap-CC-BY", "KatorLegaz", "Reallusion", "Scopia")
LICENCES = {
    "BlendSwap-CC-0": "CC0-1.0",
    "BlendSwap-CC-BY": "CC-BY-3.0",
    "KatorLegaz": "CC-BY-3.0-US",
    "Reallusion": "CC-BY-3.0-US",
    "Scopia": "CC-BY-3.0",
}


@dataclass(frozen=True)
class Piece:
    """One piece that has a class."""

    id: str
    name: str
    label: str
    author: str
    licence: str
    library: str
    model: str  # where its OBJ lies in the library
    size: tuple[float, float, float]  # width (x), height (y) and depth (z) in cm
    rotation: tuple[float, ...]  # 9 numbers, row by row: model to upright
    contents: str  # of every file in its folder the name, the size and the checksum, by which a zip's bytes are checked
    digest: str  # of the contents, the size and the rotation


def pieces(root: Path) -> list[Piece]:
    """The pieces of the libraries in `root` that have a class; ids are `library/name`, numbered where names recur."""
    found: list[Piece] = []
    for library in LIBRARIES:
        path = root / f"{library}.sh3f"
        if not path.is_file():
            raise DataError(
                f"The furniture is {len(LIBRARIES)} .sh3f files in one folder, but {root} has no {path.name}."
            )
        found += _of_library(path, library)
    return _numbered(found)


def open_piece(root: Path, piece: Piece) -> Mesh:
    """The piece upright (y is up), in centimetres, standing on y = 0, its middle at x = z = 0."""
    from components.formats.decode import decode  # numba takes longer to import than the bundled index to read

    with zipfile.ZipFile(root / f"{piece.library}.sh3f") as archive:
        folder, files = posixpath.dirname(piece.model), set(archive.namelist())
        if _folders(archive).get(folder) != piece.contents:
            raise Changed(f"What is decoded is what was listed, but {archive.filename} changed since then. Run again.")

        def resolve(name: str) -> bytes | None:
            path = posixpath.normpath(posixpath.join(folder, name.replace("\\", "/")))
            return read_member(archive, path) if path in files else None

        mesh = decode(read_member(archive, piece.model), "obj", resolve)
    used = np.unique(mesh.faces)  # helper points that no face uses must not count in the size
    upright = mesh.vertices.astype(np.float64) @ np.reshape(piece.rotation, (3, 3)).T
    low, high = upright[used].min(axis=0), upright[used].max(axis=0)
    scale = np.array(piece.size) / np.where(high > low, high - low, 1.0)
    placed = (upright - [(low[0] + high[0]) / 2, low[1], (low[2] + high[2]) / 2]) * scale
    return replace(mesh, vertices=placed.astype(np.float32))


def _of_library(path: Path, library: str) -> Iterator[Piece]:
    with zipfile.ZipFile(path) as archive:
        folders = _folders(archive)
        for row in properties(read_member(archive, "PluginFurnitureCatalog.properties")):
            label = class_of(row["name"], row["category"])
            if label is None:
                continue
            model = unquote(row["model"]).lstrip("/")
            contents = folders[posixpath.dirname(model)]
            rotation = row.get("modelRotation", "1 0 0 0 1 0 0 0 1")
            decisive = [contents, row["width"], row["depth"], row["height"], rotation]
            yield Piece(
                id=f"{slug(library)}/{slug(row['name'])}",
                name=row["name"],
                label=label,
                author=AUTHORS.get(library, row.get("creator", "")),
                licence=LICENCES[library],
                library=library,
                model=model,
                size=(float(row["width"]), float(row["height"]), float(row["depth"])),
                rotation=tuple(float(word) for word in rotation.split()),
                contents=contents,
                digest=hashlib.blake2b("\n".join(decisive).encode(), digest_size=16).hexdigest(),
            )


def _folders(archive: zipfile.ZipFile) -> dict[str, str]:
    """A line for each file of a folder, by the folder."""
    folders: dict[str, list[str]] = {}
    for info in archive.infolist():
        lines = folders.setdefault(posixpath.dirname(info.filename), [])
        lines.append(f"{posixpath.basename(info.filename)} {info.file_size} {info.CRC}")
    return {folder: "\n".join(sorted(lines)) for folder, lines in folders.items()}


AUTHORS = {
    "KatorLegaz": "Andrew Kator & Jennifer Legaz",
    "Reallusion": "Reallusion",
    "Scopia": "Scopia Visual Interfaces Systems, s.l. and Emmanuel Puybaret / eTeks",
}


def properties(data: bytes) -> list[dict[str, str]]:
    """The rows of a catalogue: `name#3=Armchair` is entry `name` of row 3."""
    rows: dict[int, dict[str, str]] = {}
    for line in data.decode("latin-1").splitlines():
        match = re.match(r"\s*([A-Za-z]+)#(\d+)\s*=(.*)$", line)
        if match:
            text = re.sub(r"\\u([0-9a-fA-F]{4})", lambda m: chr(int(m[1], 16)), match[3])
            rows.setdefault(int(match[2]), {})[match[1]] = text.strip()
    return list(rows.values())


def slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _numbered(found: list[Piece]) -> list[Piece]:
    """`chair` becomes chair-1, chair-2, ... where a library has several, in the catalogue's order."""
    total, seen, out = Counter(piece.id for piece in found), Counter[str](), []
    for piece in found:
        seen[piece.id] += 1
        out.append(replace(piece, id=f"{piece.id}-{seen[piece.id]}") if total[piece.id] > 1 else piece)
    return out


NO_CLASS = (
    "rocking horse, fire hydrant, fireplace, indoor bike, skateboard, chest freezer, tablet, football table, "
    "pool table, dart game, high chair, table fan, shower door, tv stand, tv unit, toilet brush, "
    "toilet paper dispenser, shower curtain, bathmat, elevator door, door frame, stroller"
)
NO_PERSON = "bulldog, cat, chicken, dog, horse, rabbit, deer, cow, siamese cat, shoes, mannequin"
NO_VEHICLE = "slot, park, arrow, rail, cross, sidewalk, sign, biplane"
WORDS = {
    "person": "male, female, boy, girl, man, woman",
    "lamp": "lamp, lamppost, chandelier, light, lantern, spotlight, uplight",
    "window": "window",
    "door": "door, doors",
    "sofa": "sofa, couch, loveseat, futon",
    "bed": "bed, crib, bunk",
    "chair": "chair, stool, armchair, bench, seat",
    "table": "table, desk",
    "cabinet": "cabinet, wardrobe, cupboard, dresser, chest, bookcase, shelves, sideboard, vanity, drawers, locker, "
    "buffet",
    "bath": "toilet unit, toilets unit, washbasin, sink, bath, bathtub, urinal, bidet, shower, jacuzzi, basin",
    "plant": "plant, tree, palm, flower, flowers, bamboo, ficus, tulips, hedge, bush, cactus, yucca, orchids, pine, "
    "poplar, acacia, cypress, maple, beech, blossom, birch, oak tree, fir, willow",
    "appliance": "oven, cooker, fridge, refrigerator, dishwasher, washing machine, microwave, hood, cooktop, "
    "dryer machine, stove, clothes washer, radiator, water heater, boiler",
    "vessel": "cup, mug, glass, bottle, bowl, vase, jar, kettle, teapot, flacon, creamer, coffee press",
}


def _any_of(words: str) -> str:
    return r"\b(" + "|".join(re.escape(word) for word in words.split(", ")) + r")\b"


PATTERNS = {label: re.compile(_any_of(words)) for label, words in WORDS.items()}
PATTERNS["door"] = re.compile(_any_of(WORDS["door"]) + r"(?!\s+(cabinet|oven))")
LABELS = sorted([*WORDS, "vehicle"])


def class_of(name: str, category: str) -> str | None:
    """The class of a piece by its English name: the first rule whose words it has; None when it has none."""
    name = name.lower()
    if re.search(_any_of(NO_CLASS), name):
        return None
    person = category == "Characters" or PATTERNS["person"].search(name)
    if person and not re.search(_any_of(NO_PERSON), name):
        return "person"
    if category == "Vehicles" and not re.search(_any_of(NO_VEHICLE), name):
        return "vehicle"
    return next((label for label, pattern in PATTERNS.items() if label != "person" and pattern.search(name)), None)
