"""Shapes whose areas, volumes and distances are known, as triangles [F, 3, 3] in double precision."""

import numpy as np
import trimesh


def sphere(radius=1.0, subdivisions=3):
    return np.array(trimesh.creation.icosphere(subdivisions, radius).triangles)


def torus(major=1.0, minor=0.4):
    return np.array(trimesh.creation.torus(major, minor, major_sections=96, minor_sections=64).triangles)


def box(sides):
    return np.array(trimesh.creation.box(sides).triangles)


def soup(generator, count, scale=1.0, edge=0.3):
    """Small triangles anywhere in a cube of side `scale` round 0."""
    return scale * (generator.uniform(-0.5, 0.5, (count, 1, 3)) + edge * generator.normal(size=(count, 3, 3)))
