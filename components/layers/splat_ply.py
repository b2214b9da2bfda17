"""
Gaussians as the binary PLY file that viewers read.

The order and the meaning of its columns are those of the 3DGS authors' program: `f_rest` runs over the 15 coefficients
of red, then of green, then of blue; opacity is a logit, scale a logarithm, rot a quaternion (w, x, y, z) of any length.
"""

# N Gaussians

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from components.errors import DataError

Floats = NDArray[np.float32]

REST = 45
COLUMNS = (
    *("x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"),
    *(f"f_rest_{n}" for n in range(REST)),
    *("opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"),
)
LAYOUT = np.dtype([(name, "<f4") for name in COLUMNS])  # 62 numbers, 248 bytes
END = b"end_header\n"


def write(
    means: Floats, log_scales: Floats, quaternions: Floats, logits: Floats, constant: Floats, rest: Floats
) -> bytes:
    """
    The file of N Gaussians: [N, 3], [N, 3], [N, 4], [N], the constant harmonic [N, 1, 3] and the others [N, K, 3].

    Harmonics that are absent (K below 15) are written as 0.
    """
    filled = np.zeros((len(means), 15, 3), np.float32)
    filled[:, : rest.shape[1]] = rest
    flat = filled.transpose(0, 2, 1).reshape(len(means), REST)
    body = [means, np.zeros_like(means), constant[:, 0], flat, logits[:, None], log_scales, quaternions]
    properties = "".join(f"property float {name}\n" for name in COLUMNS)
    header = f"ply\nformat binary_little_endian 1.0\nelement vertex {len(means)}\n{properties}"
    return header.encode() + END + np.concatenate(body, axis=1).astype("<f4").tobytes()


def read(data: bytes) -> Mapping[str, Floats]:
    """Read the arguments that `write` was given, by the names of its parameters."""
    head, found, body = data.partition(END)
    lines = head.decode("ascii", errors="replace").splitlines()
    columns = tuple(line.split()[-1] for line in lines if line.startswith("property"))
    if not found or "format binary_little_endian 1.0" not in lines or columns != COLUMNS:
        raise DataError(
            f"A file of Gaussians must be binary little-endian PLY with the {len(COLUMNS)} columns of 3DGS in their "
            f"order, but this one has {len(columns)}. Export it from its program as a standard 3DGS PLY."
        )
    count = next(int(line.split()[2]) for line in lines if line.startswith("element vertex"))
    if len(body) != count * LAYOUT.itemsize:
        raise DataError(f"A PLY of {count} Gaussians holds {count * LAYOUT.itemsize} bytes, but this one {len(body)}.")
    table = np.frombuffer(body, "<f4").reshape(count, len(COLUMNS)).astype(np.float32)
    return {
        "means": table[:, :3],
        "log_scales": table[:, 55:58],
        "quaternions": table[:, 58:62],
        "logits": table[:, 54],
        "constant": table[:, 6:9].reshape(count, 1, 3),
        "rest": table[:, 9:54].reshape(count, 3, 15).transpose(0, 2, 1),
    }
