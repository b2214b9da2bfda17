"""
`rayfield predict`: one file, one registered model, an answer and a picture.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from components.decode import beside, decode
from components.errors import DataError, UsageError
from components.mesh import Mesh
from components.representations.views import Views
from components.source import Unreadable
from components.steps.answering import answer
from components.steps.registry import registered


def ask(uri: str, file: Path, picture: Path, up: str = "y") -> dict[str, Any]:
    """What a registered classifier says of a mesh: labels with their shares, best first."""
    if not file.is_file():
        raise UsageError(f"No file {file}.")
    mesh = replace(_mesh(file), up=up)
    family, (representation, net), _ = registered(uri)
    rows = list(representation.rows(mesh, representation.generator(0, file.name)))
    question = {name: np.stack([row[name] for row in rows]) for name in representation.columns()}
    answered = answer(family, net, question)
    if "probabilities" not in answered:
        raise UsageError(f"{uri} is a {family.name}, which classifies nothing: load it with mlflow.pyfunc instead.")
    shares = answered["probabilities"].mean(0)
    order = np.argsort(-shares)
    answers = [(family.labels[place], float(shares[place])) for place in order]
    _draw(mesh, answers, picture)
    return {"model": uri, "file": str(file), "answers": answers, "picture": str(picture)}


def _mesh(file: Path) -> Mesh:
    try:
        mesh = decode(file.read_bytes(), file.suffix.lstrip(".").lower(), beside(file))
    except Unreadable as error:
        raise DataError(f"{file} cannot be read: {error}.") from error
    if problem := mesh.problem():
        raise DataError(f"{file} cannot be used: {problem}.")
    return mesh


def _draw(mesh: Mesh, answers: list[tuple[str, float]], picture: Path) -> None:
    from components.figures import figure

    views = Views(count=8, size=256)
    pictures = [row["color"] for row in views.rows(mesh, views.generator(0, "picture"))]
    made, axes = figure(10, 3.4, ncols=3, width_ratios=[1, 1, 1.1])
    for place, shown in zip(axes[:2], pictures[:2], strict=True):
        place.imshow(shown)
        place.set_axis_off()
    bars = answers[:5][::-1]
    axes[2].barh([label for label, _ in bars], [share for _, share in bars], color="#9db8d9")
    axes[2].set(xlim=(0, 1), title=f"{answers[0][0]}: {answers[0][1]:.0%}")
    for side in ("top", "right"):
        axes[2].spines[side].set_visible(False)
    picture.parent.mkdir(parents=True, exist_ok=True)
    made.savefig(picture, dpi=110)
