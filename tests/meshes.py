"""
Small made-up shapes in three classes that anything can tell apart: flat, long and round.
"""

from pathlib import Path

import numpy as np

from components.families.shapes.pointnet import PointNet
from components.families.shapes.voxnet import VoxNet

SIDES = {"flat": (1, 0.1, 1), "long": (0.15, 1, 0.15), "round": (1, 1, 1)}


def obj(vertices: np.ndarray, faces: np.ndarray) -> str:
    lines = [f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in vertices]
    return "\n".join(lines + [f"f {a + 1} {b + 1} {c + 1}" for a, b, c in faces]) + "\n"


def shape(label: str, number: int) -> str:
    """A box of the class's sides, each changed a little; an octahedron where the class is round."""
    random = np.random.default_rng([number, len(label)])
    sides = np.array(SIDES[label]) * random.uniform(0.8, 1.2, 3)
    if label == "round":
        corners = np.concatenate([np.eye(3), -np.eye(3)])
        faces = [(0, 1, 2), (1, 3, 2), (3, 4, 2), (4, 0, 2), (1, 0, 5), (3, 1, 5), (4, 3, 5), (0, 4, 5)]
        return obj(corners * sides, np.array(faces))
    corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)])
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    return obj(corners * sides, np.array([t for a, b, c, d in quads for t in ((a, b, c), (a, c, d))]))


def write_shapes(root: Path, *, each: int = 8, labels: tuple[str, ...] = tuple(SIDES)) -> Path:
    """A folder with `each` shapes of every class."""
    for label in labels:
        (root / label).mkdir(parents=True, exist_ok=True)
        for number in range(each):
            (root / label / f"{number}.obj").write_text(shape(label, number))
    return root


def small_pointnet(**changes: object) -> PointNet:
    """A PointNet that learns these shapes in a second or two."""
    own = {"stored": 64, "points": 32, "width": 0.0625, "transforms": "none", "batch": 8, "steps": 12, "dropout": 0.0}
    return PointNet(**{**own, "turn": 0.0, "lr": 5e-3, **changes})  # type: ignore[arg-type]


def small_voxnet(**changes: object) -> VoxNet:
    own = {"resolution": 16, "pad": 2, "filters": 4, "hidden": 8, "batch": 8, "steps": 6, "optimizer": "adamw"}
    return VoxNet(**{**own, "lr": 3e-3, **changes})  # type: ignore[arg-type]
