"""
Makes the bundled furniture from the Debian package sweethome3d-furniture.

    dpkg-deb -x sweethome3d-furniture_1.8-1_all.deb D
    python -m infra.data.pack_furniture --root D/usr/share/sweethome3d/furniture

It writes components/sources/data: furniture.bin (446 shapes of about 2,000 faces, one colour for each face),
textured.bin (a few pieces with all of their faces and smaller pictures) and ATTRIBUTION.md.
"""

# V vertices, F faces, S samples, M materials

import argparse
import io
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import fast_simplification
import numpy as np
from numba import njit
from numpy.typing import NDArray
from PIL import Image
from scipy.cluster.vq import kmeans2
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from components.formats.mesh import Mesh
from components.kernels import sampling
from components.sources.sweethome3d import packed
from components.sources.sweethome3d.catalogue import Piece, open_piece, pieces

DATA = Path(__file__).parents[2] / "components" / "sources" / "data"
FACES = 2000
LEAST = 8  # the fewest faces that a component is reduced to
SMALL = 0.003  # of the whole area: a component that may be left out if others grow instead
GROWTH = 3  # at most, of the side of a component
PALETTE = 24
PICTURE = 512  # the longest side of a picture, in pixels
EXPECTED = {
    "appliance": 31, "bath": 20, "bed": 16, "cabinet": 38, "chair": 70, "door": 15, "lamp": 31, "person": 27,
    "plant": 42, "sofa": 24, "table": 50, "vehicle": 26, "vessel": 37, "window": 19,
}  # fmt: skip
TEXTURED = (
    "scopia/armchair-4",
    "scopia/bed",
    "scopia/bowl-with-fruits",
    "scopia/scooter-2",
    "blendswap-cc-0/little-plant",
    "reallusion/male-1",
)

Colors = NDArray[np.uint8]
Integers = NDArray[np.int64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--root", type=Path, required=True, help="the folder with the five .sh3f files")
    root = parser.parse_args().root
    found = pieces(root)
    counts = Counter(piece.label for piece in found)
    assert counts == EXPECTED, f"the rules must give {EXPECTED}, but gave {dict(counts)}"
    DATA.mkdir(parents=True, exist_ok=True)
    rows = packed.write(DATA / "furniture.bin", small_shapes(root, found))
    whole = packed.write(DATA / "textured.bin", textured_shapes(root, [p for p in found if p.id in TEXTURED]))
    (DATA / "ATTRIBUTION.md").write_text(attribution(rows, whole), encoding="utf-8")
    for name, listed in (("furniture.bin", rows), ("textured.bin", whole)):
        faces, size = sum(r["faces"] for r in listed), (DATA / name).stat().st_size
        print(f"{name}: {len(listed)} shapes, {faces} faces, {size} bytes")


def small_shapes(root: Path, found: list[Piece]) -> Iterator[tuple[packed.Row, Mesh, list[bytes]]]:
    for piece in found:
        mesh = open_piece(root, piece)
        small = smaller(mesh)
        yield row(piece, before=len(mesh.faces), after=len(small.faces)), small, []


def textured_shapes(root: Path, found: list[Piece]) -> Iterator[tuple[packed.Row, Mesh, list[bytes]]]:
    for piece in found:
        mesh = open_piece(root, piece)
        whole = in_order(mesh.vertices, mesh.faces, mesh.materials, mesh.colors, uv=mesh.uv)
        pictures = [b"" if picture is None else encoded(picture) for picture in mesh.textures]
        yield row(piece, before=len(mesh.faces), after=len(whole.faces)), whole, pictures


def row(piece: Piece, *, before: int, after: int) -> packed.Row:
    """What the index says of a piece."""
    return {
        "id": piece.id,
        "name": piece.name,
        "label": piece.label,
        "author": piece.author,
        "licence": piece.licence,
        "library": piece.library,
        "size": list(piece.size),
        "faces_before": before,
        "faces": after,
    }


LICENCE_PAGES = {
    "CC0-1.0": "https://creativecommons.org/publicdomain/zero/1.0/",
    "CC-BY-3.0": "https://creativecommons.org/licenses/by/3.0/",
    "CC-BY-3.0-US": "https://creativecommons.org/licenses/by/3.0/us/",
}
LIBRARY_NOTES = {
    "BlendSwap-CC-0": "Blend Swap models, converted to OBJ by Emmanuel Puybaret / eTeks; credit is not asked for",
    "BlendSwap-CC-BY": "Blend Swap models by the authors below, converted to OBJ by Emmanuel Puybaret / eTeks",
    "KatorLegaz": "(C) 2003-2008 Andrew Kator & Jennifer Legaz",
    "Reallusion": "(C) 2008-2016 Reallusion, http://www.reallusion.com",
    "Scopia": "(C) Emmanuel Puybaret / eTeks <info@eteks.com> and Scopia Visual Interfaces Systems, s.l., http://www.scopia.es",
}
CHANGES = f"""\
# Whose work the bundled furniture is

The shapes in furniture.bin and textured.bin come from the furniture libraries of Sweet Home 3D
(http://www.sweethome3d.com), as packaged in Debian's sweethome3d-furniture 1.8-1. Their authors do not endorse this
project or its use of their work. The licences disclaim all warranties.

Changed, by infra/data/pack_furniture.py, in both files: each shape was turned upright and scaled to the size of its
catalogue, and its vertices were rounded to 16 bits. In furniture.bin: faces were merged until about {FACES} were left,
small parts such as leaves were left out where there were too many and the others enlarged, and pictures were replaced
by one colour for each face. In textured.bin: pictures were reduced to at most {PICTURE} pixels a side.

Marks of makers on some shapes belong to their owners.
"""


def attribution(rows: list[packed.Row], whole: list[packed.Row]) -> str:
    """Markdown: for each library its licence and each author's shapes."""
    textured = {r["id"] for r in whole}
    parts = [CHANGES]
    for library, note in LIBRARY_NOTES.items():
        own = [r for r in rows if r["library"] == library]
        licence = own[0]["licence"]
        parts.append(f"## {library}\n\n{note}. Licence: [{licence}]({LICENCE_PAGES[licence]}).\n")
        for author in sorted({r["author"] for r in own}, key=str.lower):
            names = [
                r["name"] + f" (`{r['id']}`{', also textured' if r['id'] in textured else ''})"
                for r in own
                if r["author"] == author
            ]
            parts.append(f"- **{author}**: {', '.join(names)}")
        parts.append("")
    return "\n".join(parts)


def encoded(picture: Colors) -> bytes:
    image = Image.fromarray(picture)
    image.thumbnail((PICTURE, PICTURE), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=88)
    return out.getvalue()


def smaller(mesh: Mesh) -> Mesh:
    """About FACES faces, each with the colour that most of the surface near it has."""
    colors, palette = face_colors(mesh)
    vertices, corners = welded(mesh.vertices, mesh.faces)
    faces, kept = different_faces(corners)
    colors = colors[kept]
    if len(faces) <= FACES:
        return in_order(vertices, faces, colors, palette)
    triangles = decimated(vertices, faces)
    points, less = welded(triangles.reshape(-1, 3), np.arange(3 * len(triangles), dtype=np.int32).reshape(-1, 3))
    return in_order(points, less, voted(Mesh(vertices, faces), colors, triangles), palette)


def decimated(vertices: NDArray[np.float32], faces: NDArray[np.int32]) -> NDArray[np.float32]:
    """
    About FACES triangles [F, 3, 3], component by component.

    Quadric decimation of a whole tree would eat the trunk, because it cannot shrink its thousands of leaves: so each
    component gets a budget by its area and its faces, and where the small ones are still too many, a random part of
    them stays, each as much bigger as the sum of their areas needs.
    """
    pieces = components(faces)
    areas = np.array([sampling.areas(vertices[piece].astype(np.float64)).sum() for piece in pieces])
    counts = np.array([len(piece) for piece in pieces])
    share = areas / max(areas.sum(), 1e-12) / 2 + counts / counts.sum() / 2
    budgets = np.maximum(share * FACES, LEAST).astype(int)
    done = [simplified(vertices[piece], budget) for piece, budget in zip(pieces, budgets, strict=True)]
    is_small = (areas < SMALL * areas.sum()) & (counts < counts.sum() / 10)
    big = [piece for piece, small in zip(done, is_small, strict=True) if not small]
    few = [piece for piece, small in zip(done, is_small, strict=True) if small]
    return np.concatenate([*big, *thinned(few, max(FACES - sum(map(len, big)), FACES // 2))])


def components(faces: NDArray[np.int32]) -> list[NDArray[np.int32]]:
    """The faces of each part that hangs together by edges: leaves that meet in a point are several."""
    across = neighbours(faces)
    from_face, edge = np.nonzero(across >= 0)
    pairs = (np.ones(len(from_face), np.int8), (from_face, across[from_face, edge] // 3))
    part = connected_components(coo_array(pairs, shape=(len(faces),) * 2), directed=False)[1]
    order = np.argsort(part, kind="stable")
    return np.split(faces[order], np.flatnonzero(np.diff(part[order])) + 1)


def simplified(triangles: NDArray[np.float32], target: int) -> NDArray[np.float32]:
    """Quadric decimation to `target` triangles, or to the first of its doubles that keeps the area."""
    area = sampling.areas(triangles.astype(np.float64)).sum()
    low, size = triangles.min(axis=(0, 1)), np.ptp(triangles.reshape(-1, 3), axis=0).max()
    points, faces = welded(
        (triangles.reshape(-1, 3) - low) / size, np.arange(3 * len(triangles), dtype=np.int32).reshape(-1, 3)
    )
    while target < len(triangles):
        fewer, less = fast_simplification.simplify(points, faces, target_count=target)
        out = fewer[less] * size + low
        if sampling.areas(out.astype(np.float64)).sum() > 0.8 * area:
            return out.astype(np.float32)
        target *= 2
    return triangles


def thinned(parts: list[NDArray[np.float32]], room: int) -> list[NDArray[np.float32]]:
    """A random part of `parts` with about `room` triangles, grown about their middles to the area of all."""
    if sum(map(len, parts)) <= 1.1 * room:
        return parts
    order = np.random.default_rng(0).permutation(len(parts))
    until = int(np.searchsorted(np.cumsum([len(parts[k]) for k in order]), room)) + 1
    until = max(until, int(len(parts) / GROWTH**2))
    kept = [parts[k] for k in sorted(order[:until])]
    area = [sum(sampling.areas(part.astype(np.float64)).sum() for part in some) for some in (parts, kept)]
    growth = np.sqrt(area[0] / area[1])
    return [
        ((part - middle) * growth + middle).astype(np.float32) for part in kept for middle in [part.mean(axis=(0, 1))]
    ]


def face_colors(mesh: Mesh) -> tuple[Integers, Colors]:
    """The row of a palette for each face: its material's colour, or the mean of its picture there."""
    colors = mesh.colors[mesh.materials].astype(np.float64)
    for material, picture in enumerate(mesh.textures):
        chosen = np.flatnonzero(mesh.materials == material)
        if picture is not None and mesh.uv is not None and len(chosen):
            colors[chosen] = mean_texels(picture, mesh.uv[chosen])
    weights = sampling.areas(mesh.triangles)
    return palette_of(colors.round(), weights)


def mean_texels(picture: Colors, uv: NDArray[np.float32]) -> NDArray[np.float64]:
    """The mean of 16 texels spread over each triangle, [F, 3]."""
    height, width = picture.shape[:2]
    total = np.zeros((len(uv), 3))
    for one, two in np.sort(np.random.default_rng(0).random((16, 2)), axis=1) @ [[1, -1], [0, 1]]:
        place = uv[:, 0] * (1 - one - two) + uv[:, 1] * one + uv[:, 2] * two
        x = np.floor(place[:, 0] % 1 * width).astype(int).clip(0, width - 1)
        y = np.floor((1 - place[:, 1] % 1) * height).astype(int).clip(0, height - 1)
        total += picture[y, x]
    return total / 16


def palette_of(colors: NDArray[np.float64], weights: NDArray[np.float64]) -> tuple[Integers, Colors]:
    """At most PALETTE colours, and the nearest of them for each face; a bigger face counts for more."""
    different, index = np.unique(colors, axis=0, return_inverse=True)
    index = index.reshape(-1)
    if len(different) > PALETTE:
        generator = np.random.default_rng(0)
        share = weights / weights.sum() if weights.sum() > 0 else None
        drawn = colors[generator.choice(len(colors), 20_000, p=share)] + generator.normal(0, 0.5, (20_000, 3))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # an empty cluster is one colour less
            centres = kmeans2(drawn, PALETTE, minit="++", seed=0, iter=20)[0].clip(0, 255)
        index = cKDTree(centres).query(different)[1][index]
        different = centres
    used, index = np.unique(index, return_inverse=True)
    return index.reshape(-1), different[used].round().astype(np.uint8)


def welded(vertices: NDArray[np.float32], faces: NDArray[np.int32]) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Vertices at one place become one, so that decimation sees the surface as connected."""
    different, index = np.unique(vertices, axis=0, return_inverse=True)
    return different, index.reshape(-1)[faces].astype(np.int32)


def different_faces(faces: NDArray[np.int32]) -> tuple[NDArray[np.int32], Integers]:
    """Without slivers and without the second of two faces on the same corners: a back stops decimation from working."""
    faces, kept = without_slivers(faces)
    _, first = np.unique(np.sort(faces, axis=1), axis=0, return_index=True)
    first.sort()
    return faces[first], kept[first]


def without_slivers(faces: NDArray[np.int32]) -> tuple[NDArray[np.int32], Integers]:
    """The faces with three different corners, and which these are."""
    a, b, c = faces.T
    kept = np.flatnonzero((a != b) & (b != c) & (c != a))
    return faces[kept], kept


def voted(mesh: Mesh, colors: Integers, triangles: NDArray[np.float32]) -> Integers:
    """For each of `triangles`, the colour that most of the samples of `mesh` nearest to four of its points have."""
    samples, origin, _ = sampling.sample(mesh.triangles, 60_000, np.random.default_rng(0))
    middle = triangles.mean(axis=1, keepdims=True)
    points = np.concatenate([middle, 0.5 * triangles + 0.5 * middle], axis=1)  # [F, 4, 3]
    near = cKDTree(samples).query(points.reshape(-1, 3))[1].reshape(-1, 4)
    votes = colors[origin[near]]  # [F, 4]
    counts = (votes[:, :, None] == votes[:, None, :]).sum(axis=2)
    return votes[np.arange(len(votes)), counts.argmax(axis=1)]


def in_order(
    vertices: NDArray[np.float32],
    faces: NDArray[np.int32],
    materials: NDArray[np.int32] | Integers,
    colors: Colors,
    *,
    uv: NDArray[np.float32] | None = None,
) -> Mesh:
    """On the grid of the packed file, merged there, in the order in which a walk over the surface meets the faces."""
    low, step, places = packed.grid(vertices)
    different, index = np.unique(places, axis=0, return_inverse=True)
    faces, kept = without_slivers(index.reshape(-1)[faces].astype(np.int32))
    order, turns = walk(faces, neighbours(faces))
    corner = (np.arange(3) + turns[:, None]) % 3
    faces = np.take_along_axis(faces[order], corner, axis=1)
    used, first, inverse = np.unique(faces.reshape(-1), return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))
    ordered = used[np.argsort(first)]
    if uv is not None:
        uv = np.take_along_axis(uv[kept][order], corner[:, :, None], axis=1)
    return Mesh(
        (different[ordered] * step + low).astype(np.float32),
        rank[inverse].reshape(-1, 3).astype(np.int32),
        np.asarray(materials)[kept][order].astype(np.int32),
        colors,
        uv=uv,
    )


def neighbours(faces: NDArray[np.int32]) -> Integers:
    """Across each edge of each face, another face times 3 plus its edge, [F, 3]; -1 where there is none."""
    ends = np.sort(np.stack([faces, np.roll(faces, -1, axis=1)], axis=-1).reshape(-1, 2), axis=1).astype(np.int64)
    key = ends[:, 0] << 32 | ends[:, 1]
    order = np.argsort(key, kind="stable")
    same = np.flatnonzero(key[order][1:] == key[order][:-1])
    out = np.full(len(key), -1, np.int64)
    out[order[same]] = order[same + 1]
    out[order[same + 1]] = order[same]
    return out.reshape(-1, 3)


@njit(cache=True)
def walk(faces: NDArray[np.int32], across: Integers) -> tuple[Integers, Integers]:
    """An order of the faces in which each borders on a recent one, and the edge by which it was entered."""
    order, turns = np.empty(len(faces), np.int64), np.empty(len(faces), np.int64)
    seen = np.zeros(len(faces), np.bool_)
    stack = np.empty(3 * len(faces) + 1, np.int64)
    done = 0
    for seed in range(len(faces)):
        stack[0], height = 3 * seed, 1
        while height:
            height -= 1
            face, edge = stack[height] // 3, stack[height] % 3
            if seen[face]:
                continue
            seen[face] = True
            order[done], turns[done] = face, edge
            done += 1
            for step in (2, 1):
                other = across[face, (edge + step) % 3]
                if other >= 0 and not seen[other // 3]:
                    stack[height] = other
                    height += 1
    return order, turns


if __name__ == "__main__":
    main()
