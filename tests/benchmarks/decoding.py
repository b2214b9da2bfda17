"""
How fast meshes are decoded, next to trimesh: python -m tests.benchmarks.decoding [--root DIR] [--shapes N]

Files of the bundled shapes as OBJ, PLY and GLB, or with --root the OBJ files of the whole furniture package. Both
read from memory, in turns, in one process; times are the processor's, medians of forty rounds, and so is the ratio.
"""

import argparse
import io
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import trimesh

from components.formats.decode import decode
from components.sources.furniture import Furniture, library
from components.sources.sweethome3d import catalogue

ROUNDS = 40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--root", default="", help="the Debian package or the folder of its .sh3f files")
    parser.add_argument("--shapes", type=int, default=60)
    given = parser.parse_args()
    print(f"{'files':<22}{'count':>6}{'MB':>8}{'faces':>10}{'trimesh s':>11}{'ours s':>9}{'ratio':>8}{'MB/s':>8}")
    for name, kind, files in cases(given.root, given.shapes):
        report(name, kind, files)


def cases(root: str, shapes: int) -> list[tuple[str, str, list[bytes]]]:
    source = Furniture()
    rows = source.rows()[:: max(1, 446 // shapes)]
    meshes = [trimesh.Trimesh(m.vertices, m.faces, process=False) for m in map(source.open, rows)]
    out = [
        (f"bundled, {kind}", kind, [_bytes(m.export(file_type=kind)) for m in meshes]) for kind in ("obj", "ply", "glb")
    ]
    text = [_bytes(trimesh.exchange.ply.export_ply(m, encoding="ascii")) for m in meshes]
    out.append(("bundled, ply as text", "ply", text))
    if root:
        out.append(("the package's obj", "obj", _package(library(root), shapes)))
    return out


def _package(folder: Path, shapes: int) -> list[bytes]:
    pieces = catalogue.pieces(folder)[:: max(1, 446 // shapes)]
    out = []
    for piece in pieces:
        with zipfile.ZipFile(folder / f"{piece.library}.sh3f") as archive:
            out.append(archive.read(piece.model))
    return out


def report(name: str, kind: str, files: list[bytes]) -> None:
    decode(files[0], kind)  # compile
    rounds = [
        (
            seconds(lambda: [_by_trimesh(data, kind) for data in files]),
            seconds(lambda: [decode(d, kind) for d in files]),
        )
        for _ in range(ROUNDS)
    ]
    slow, fast = np.median(rounds, axis=0)
    ratio = np.median([theirs / ours for theirs, ours in rounds])
    size, faces = sum(map(len, files)) / 1e6, sum(len(decode(data, kind).faces) for data in files)
    times = f"{slow:>11.3f}{fast:>9.3f}{ratio:>8.1f}{size / fast:>8.0f}"
    print(f"{name:<22}{len(files):>6}{size:>8.1f}{faces:>10}{times}")


def _by_trimesh(data: bytes, kind: str) -> object:
    return trimesh.load(io.BytesIO(data), file_type=kind, process=False)


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def _bytes(data: bytes | str) -> bytes:
    return data.encode() if isinstance(data, str) else data


if __name__ == "__main__":
    main()
