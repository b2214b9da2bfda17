"""
Every reader against a slow twin: trimesh, and for OBJ a reader of twenty lines.
"""

import errno
import io
import json
import struct
import warnings

import numpy as np
import pytest
import trimesh
from PIL import Image

from components.errors import DataError
from components.formats.decode import READERS, _is_sound, decode
from components.formats.mesh import Mesh
from components.representations.views import albedo
from components.source import Unreadable
from components.sources.furniture import Furniture

TETRAHEDRON = b"v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 1 3 2\nf 1 2 4\nf 1 4 3\nf 2 3 4\n"


def read_slowly(text: str) -> tuple[np.ndarray, np.ndarray]:
    """The vertices and triangles of an OBJ, by splitting strings."""
    vertices, faces = [], []
    for line in text.splitlines():
        key, *words = line.split() or [""]
        if key == "v":
            vertices.append([float(word) for word in words[:3]])
        if key == "f":
            corners = [int(word.split("/")[0]) for word in words]
            corners = [c - 1 if c > 0 else len(vertices) + c for c in corners]
            faces += [[corners[0], corners[k], corners[k + 1]] for k in range(1, len(corners) - 1)]
    return np.float32(vertices), np.int32(faces)


def soup(mesh: Mesh | trimesh.Trimesh) -> np.ndarray:
    """The triangles of a mesh, whatever the order of its vertices, corners and faces."""
    corners = np.asarray(mesh.vertices, np.float32)[np.asarray(mesh.faces)]
    corners = np.array([sorted(map(tuple, triangle)) for triangle in corners])
    return corners[np.lexsort(corners.reshape(-1, 9).T)]


@pytest.fixture(scope="module")
def shape() -> trimesh.Trimesh:
    """A real chair, at its bundled size."""
    source = Furniture()
    mesh = source.open(next(a for a in source.rows() if a.id == "scopia/chair-3"))
    return trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)


@pytest.mark.parametrize("kind", ["obj", "ply", "off", "stl", "glb"])
def test_a_real_shape_has_the_triangles_that_trimesh_reads(shape, kind):
    data = shape.export(file_type=kind)
    data = data if isinstance(data, bytes) else data.encode()
    twin = trimesh.load(io.BytesIO(data), file_type=kind, process=False, force="mesh")

    np.testing.assert_array_equal(soup(decode(data, kind)), soup(twin))


@pytest.mark.parametrize("kind", ["ply_ascii", "stl_ascii"])
def test_a_text_file_has_the_same_triangles_as_the_binary_one(shape, kind):
    form = kind.split("_")[0]
    data = shape.export(file_type=kind) if form == "stl" else trimesh.exchange.ply.export_ply(shape, encoding="ascii")
    data = data.encode() if isinstance(data, str) else data
    twin = trimesh.load(io.BytesIO(data), file_type=form, process=False)

    np.testing.assert_array_equal(soup(decode(data, form)), soup(twin))


def test_an_obj_is_read_as_its_slow_twin_reads_it():
    text = (
        "# a comment\nv 1e-3 -2.5E+2 .5\r\nv 4. +5 -0\n\tv 7 8 9 # behind\nv 123456.789012345 0 1e10\nvt 0 1\n"
        "vn 0 0 1\n"
        "f 1 2 3\nf 1//1 2//1 3//1 4//1\nf -4/1/1 -3/1 -2 -1/1/1\ng x\nl 1 2\nf 2 3 \\\n 4\nf 1 2 3 4 2"
    )
    vertices, faces = read_slowly(text.replace("\\\n", ""))
    mesh = decode(text.encode(), "obj")

    np.testing.assert_array_equal(mesh.vertices, vertices)
    np.testing.assert_array_equal(mesh.faces, faces)


def test_random_numbers_come_out_as_python_reads_them():
    numbers = np.random.default_rng(0).standard_cauchy((300, 3)) * 10.0 ** np.arange(-15, 15).repeat(10)[:, None]
    text = "".join(f"v {x!r} {y:.6f} {z:e}\n" for x, y, z in numbers.tolist()) + "f 1 2 3\n"

    np.testing.assert_array_equal(decode(text.encode(), "obj").vertices, read_slowly(text)[0])


def test_materials_and_pictures_of_an_obj_reach_its_faces():
    stripes = io.BytesIO()
    Image.fromarray(np.uint8([[[255, 0, 0], [0, 255, 0]]])).save(stripes, "PNG")
    files = {
        "my materials.mtl": b"newmtl dark wood\nKd 0.2 0.4 1.0\nnewmtl paper\nKd 1 1 1\nmap_Kd -s 1 1 1 my paper.png\n",
        "my paper.png": stripes.getvalue(),
    }
    text = b"mtllib my materials.mtl\n" + TETRAHEDRON[:32] + b"vt 0 0\nvt 1 0\nvt 0 1\n"
    text += b"f 1 2 3\nusemtl dark wood\nf 1 2 4\nusemtl paper\nf 1/1 2/2 3/3\nusemtl unknown\n"
    mesh = decode(text, "obj", files.get)

    assert mesh.colors[mesh.materials].tolist() == [[178, 178, 178], [51, 102, 255], [255, 255, 255]]
    assert mesh.textures[0] is None and mesh.textures[2].tolist() == [[[255, 0, 0], [0, 255, 0]]]
    assert mesh.uv[2].tolist() == [[0, 0], [1, 0], [0, 1]]


def l_shape(first: int) -> np.ndarray:
    """A hexagon of area 3 that is not convex, from one of its corners on."""
    return np.roll([[0, 0], [2, 0], [2, 1], [1, 1], [1, 2], [0, 2]], -first, axis=0)


def as_file(kind: str, corners: list, *polygons: list) -> bytes:
    """The polygons of a file, each a list of rows of `corners`."""
    points = [" ".join(map(str, corner)) for corner in corners]
    rows = [f"{len(polygon)} {' '.join(map(str, polygon))}" for polygon in polygons]
    if kind == "obj":
        faces = ["f " + " ".join(f"{place + 1}/{place + 1}" for place in polygon) for polygon in polygons]
        lines = [f"v {point}" for point in points] + [f"vt {point}" for point in points] + faces
    elif kind == "off":
        lines = ["OFF", f"{len(points)} {len(rows)} 0", *points, *rows]
    else:
        axes = "property float x\nproperty float y\nproperty float z"
        lines = [f"ply\nformat ascii 1.0\nelement vertex {len(points)}\n{axes}\nelement face {len(rows)}"]
        lines += ["property list uchar int vertex_indices\nend_header", *points, *rows]
    return "\n".join([*lines, ""]).encode()


@pytest.mark.parametrize("first", range(6))
@pytest.mark.parametrize("kind", ["obj", "off", "ply"])
def test_a_polygon_that_is_not_convex_has_its_own_area_from_whichever_corner(kind, first):
    corners = [[x, y, 0] for x, y in l_shape(first).tolist()]
    mesh = decode(as_file(kind, corners, [0, 1, 2], [0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0]), kind)

    assert mesh.faces[0].tolist() == [0, 1, 2] and len(mesh.faces) == 9
    assert areas(mesh)[1:5].sum() == areas(mesh)[5:].sum() == 3


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_binary_ply_of_darts_has_their_areas(order):
    """A table of quadrilaterals: none of them is convex."""
    name = {"<": "little", ">": "big"}[order]
    head = f"ply\nformat binary_{name}_endian 1.0\nelement vertex 4\nproperty float x\nproperty float y\n"
    head += "property float z\nelement face 4\nproperty list uchar int vertex_indices\nend_header\n"
    body = np.array([[0, 0, 0], [2, -1, 0], [0.5, 0, 0], [2, 1, 0]], order + "f4").tobytes()
    for first in range(4):
        body += struct.pack(order + "B4i", 4, *np.roll(range(4), first))
    mesh = decode(head.encode() + body, "ply")

    assert areas(mesh).reshape(4, 2).sum(1).tolist() == [0.5] * 4


def test_the_coordinates_of_a_polygon_stay_with_its_corners():
    stream = io.BytesIO()
    Image.fromarray(np.uint8([[[1, 2, 3]]])).save(stream, "PNG")
    files = {"a.mtl": b"newmtl a\nmap_Kd a.png\n", "a.png": stream.getvalue()}
    corners = [[x, y, 0] for x, y in l_shape(1).tolist()]
    mesh = decode(b"mtllib a.mtl\nusemtl a\n" + as_file("obj", corners, [*range(6)]), "obj", files.get)

    assert mesh.faces.tolist() != [[0, k, k + 1] for k in range(1, 5)]
    np.testing.assert_array_equal(mesh.uv, mesh.vertices[mesh.faces][..., :2])


@pytest.mark.parametrize("gap", [b"\t", b" \t ", b"   "], ids=["tab", "both", "spaces"])
def test_the_words_of_a_library_may_have_any_gap_between_them(gap):
    stream = io.BytesIO()
    Image.fromarray(np.uint8([[[1, 2, 3]]])).save(stream, "PNG")
    library = b"newmtl r\n\tKd 1 0 0\nmap_Kd a b.png\n".replace(b"l r", b"l" + gap + b"r")
    library = library.replace(b"Kd 1", b"Kd" + gap + b"1").replace(b"Kd a", b"Kd" + gap + b"a")
    files = {"a.mtl": library, "a b.png": stream.getvalue()}
    mesh = decode(b"mtllib a.mtl\nusemtl r\n" + TETRAHEDRON, "obj", files.get)

    assert mesh.colors.tolist() == [[255, 0, 0]]
    assert mesh.textures[0].tolist() == [[[1, 2, 3]]]


def test_one_line_may_name_several_libraries_and_one_name_may_have_spaces():
    files = {
        "a.mtl": b"newmtl a\nKd 1 0 0\n",
        "b.mtl": b"newmtl b\nKd 0 1 0\n",
        "my c.mtl": b"newmtl c\nKd 0 0 1\n",
        "c.mtl": b"newmtl c\nKd 1 1 1\n",
    }
    text = b"mtllib a.mtl \\\nb.mtl\nmtllib my c.mtl\n" + TETRAHEDRON[:32]
    text += b"usemtl a\nf 1 2 3\nusemtl b\nf 1 2 4\nusemtl c\nf 1 3 4\n"
    mesh = decode(text, "obj", files.get)

    assert mesh.colors.tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]


@pytest.mark.parametrize("kind", ["obj", "off", "stl"])
def test_lines_may_end_as_on_an_old_mac(kind):
    solid = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], [[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
    data = solid.export(file_type="stl_ascii" if kind == "stl" else kind).encode()

    assert b"\n" in data
    np.testing.assert_array_equal(soup(decode(data.replace(b"\n", b"\r"), kind)), soup(solid))


@pytest.mark.parametrize("colour", ["", " 255 0 0", " 1 0 0 1"])
def test_the_vertices_of_an_off_may_have_colours_of_three_numbers_or_four(colour):
    head = "COFF\n" if colour else "OFF\n"
    vertices = "".join(f"{place}{colour}\n" for place in ("0 0 0", "1 0 0", "0 1 0"))
    mesh = decode(f"{head}3 1 0 # counts\n# vertices\n\n{vertices}3 0 1 2\n".encode(), "off")

    assert mesh.vertices.tolist() == [[0, 0, 0], [1, 0, 0], [0, 1, 0]]
    assert mesh.faces.tolist() == [[0, 1, 2]]


def test_colours_of_vertices_survive():
    text = b"v 0 0 0 1 0 0\nv 1 0 0 0 1 0\nv 0 1 0 0 0 1\nf 1 2 3\n"

    assert decode(text, "obj").vertex_colors.tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]


def test_a_ply_has_its_colours_and_its_polygons():
    head = b"ply\nformat ascii 1.0\nelement vertex 4\nproperty float x\nproperty float y\nproperty float z\n"
    head += b"property uchar red\nproperty uchar green\nproperty uchar blue\n"
    head += b"element face 2\nproperty list uchar int vertex_indices\nend_header\n"
    mesh = decode(head + b"0 0 0 1 2 3\n1 0 0 4 5 6\n1 1 0 7 8 9\n0 1 0 10 11 12\n4 0 1 2 3\n3 0 1 2\n", "ply")

    assert mesh.faces.tolist() == [[0, 1, 2], [0, 2, 3], [0, 1, 2]]
    assert mesh.vertex_colors[3].tolist() == [10, 11, 12]


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_binary_ply_may_mix_triangles_and_quads(order):
    name = {"<": b"binary_little_endian", ">": b"binary_big_endian"}[order]
    head = b"ply\nformat " + name + b" 1.0\nelement vertex 4\nproperty double x\nproperty double y\nproperty double z\n"
    head += b"element face 2\nproperty uchar red\nproperty list uchar int vertex_indices\nend_header\n"
    body = struct.pack(order + "12d", 0, 0, 0, 1, 0, 0, 1, 1, 0, 0, 1, 0)
    body += struct.pack(order + "BBiii", 9, 3, 0, 1, 2) + struct.pack(order + "BBiiii", 9, 4, 0, 1, 2, 3)
    mesh = decode(head + body, "ply")

    assert mesh.faces.tolist() == [[0, 1, 2], [0, 1, 2], [0, 2, 3]]


def test_nodes_move_and_mirror_the_triangles_of_a_glb(shape):
    scene = trimesh.Scene()
    turned = trimesh.transformations.rotation_matrix(0.7, [1, 2, 3], [4, 5, 6])
    scene.add_geometry(shape, transform=turned)
    scene.add_geometry(shape, transform=np.diag([-2.0, 1, 1, 1]))
    data = scene.export(file_type="glb")
    twin = trimesh.load(io.BytesIO(data), file_type="glb", process=False).to_geometry()
    mesh = decode(data, "glb")

    np.testing.assert_allclose(mesh.triangles.mean(axis=(0, 1)), twin.triangles.mean(axis=(0, 1)), rtol=1e-5)
    np.testing.assert_allclose(np.sort(areas(mesh)), np.sort(twin.area_faces), rtol=2e-3, atol=1e-3)


def test_a_mirrored_node_keeps_its_faces_outward():
    box = trimesh.creation.box((1, 2, 3))
    for scale, volume in ((1.0, 6), (-2.0, 12)):
        data = trimesh.Scene([box]).apply_transform(np.diag([scale, 1, 1, 1])).export(file_type="glb")
        a, b, c = decode(data, "glb").triangles.transpose(1, 0, 2)

        np.testing.assert_allclose(np.einsum("fi,fi->", a, np.cross(b, c)) / 6, volume, rtol=1e-6)


def areas(mesh: Mesh) -> np.ndarray:
    a, b, c = mesh.triangles.transpose(1, 0, 2)
    return np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2


def test_the_picture_of_a_glb_is_the_right_way_up():
    quad = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], [[0, 1, 2], [0, 2, 3]], process=False)
    picture = Image.fromarray(np.uint8([[[255, 0, 0]], [[0, 0, 255]]]))  # red above blue
    material = trimesh.visual.material.PBRMaterial(baseColorTexture=picture)
    quad.visual = trimesh.visual.TextureVisuals(uv=[[0, 0], [1, 0], [1, 1], [0, 1]], material=material)
    mesh = decode(quad.export(file_type="glb"), "glb")

    assert mesh.textures[0].tolist() == [[[255, 0, 0]], [[0, 0, 255]]]
    assert mesh.uv[0].tolist() == [[0, 0], [1, 0], [1, 1]]  # the lower left corner is the origin


def test_the_parts_of_a_glb_keep_their_colours_pictures_and_places():
    quad = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], np.float32)
    corners = [[0, 0], [1, 0], [1, 1], [0, 1]]
    pbr = trimesh.visual.material.PBRMaterial
    red = pbr(baseColorFactor=[255, 0, 0, 255])
    wood = pbr(baseColorTexture=Image.fromarray(np.uint8([[[1, 2, 3], [4, 5, 6]]])))
    scene = trimesh.Scene()
    for place, material in enumerate((red, wood, red)):
        part = trimesh.Trimesh(quad + [2 * place, 0, 0], [[0, 1, 2], [0, 2, 3]], process=False)
        part.visual = trimesh.visual.TextureVisuals(uv=corners, material=material)
        scene.add_geometry(part)
    mesh = decode(scene.export(file_type="glb"), "glb")

    assert mesh.triangles[:, :, 0].min(axis=1).tolist() == [0, 0, 2, 2, 4, 4]
    assert mesh.materials.tolist() == [0, 0, 1, 1, 0, 0]
    assert mesh.colors.tolist() == [[255, 0, 0], [255, 255, 255]]
    assert mesh.textures[0] is None and mesh.textures[1].tolist() == [[[1, 2, 3], [4, 5, 6]]]
    assert mesh.uv[2].tolist() == [[0, 0], [1, 0], [1, 1]] and not mesh.uv[0].any()


def glb(document: object, binary: bytes = b"") -> bytes:
    """A GLB of a scene and its bytes."""
    said = json.dumps(document).encode()
    chunks = b"".join(
        struct.pack("<II", len(chunk), kind) + chunk
        for chunk, kind in ((said + b" " * (-len(said) % 4), 0x4E4F534A), (binary + bytes(-len(binary) % 4), 0x4E4942))
    )
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


PLY = (
    b"ply\nformat ascii 1.0\nelement vertex %d\nproperty float x\nproperty float y\nproperty float z\n"
    b"element face 1\nproperty list uchar int vertex_indices\nproperty uchar red\nend_header\n"
)
CORNERS = {"POSITION": [[0, 0, 0], [1, 0, 0], [0, 1, 0]], "TEXCOORD_0": [[0, 0], [1, 0], [0, 1]]}


def triangles_glb(materials: list[dict], *primitives: dict, picture: list | None = None) -> bytes:
    """A GLB of one-triangle primitives: rows for each attribute, and a material; with one picture, [H, W, 3]."""
    views, accessors, parts, binary = [], [], [], b""
    for primitive in primitives:
        attributes = {}
        for name, rows in {**CORNERS, **primitive}.items():
            if name == "material":
                continue
            attributes[name] = len(accessors)
            data = np.array(rows, "<f4").tobytes()
            kind = f"VEC{len(rows[0])}"
            accessors.append({"bufferView": len(views), "componentType": 5126, "count": len(rows), "type": kind})
            views.append({"buffer": 0, "byteOffset": len(binary), "byteLength": len(data)})
            binary += data
        own = {"material": primitive["material"]} if "material" in primitive else {}
        parts.append({"attributes": attributes, **own})
    document = {"asset": {"version": "2.0"}, "nodes": [{"mesh": 0}], "meshes": [{"primitives": parts}]}
    document |= {"accessors": accessors, "materials": materials}
    if picture is not None:
        stream = io.BytesIO()
        Image.fromarray(np.uint8(picture)).save(stream, "PNG")
        views.append({"buffer": 0, "byteOffset": len(binary), "byteLength": len(stream.getvalue())})
        binary += stream.getvalue()
        document |= {"images": [{"bufferView": len(views) - 1}], "textures": [{"source": 0}]}
    return glb(document | {"bufferViews": views, "buffers": [{"byteLength": len(binary)}]}, binary)


def surface(texture: dict | None = None, factor: tuple[float, ...] = (1, 1, 1, 1)) -> dict:
    own = {} if texture is None else {"baseColorTexture": {"index": 0, **texture}}
    return {"pbrMetallicRoughness": {"baseColorFactor": list(factor), **own}}


def seen(mesh: Mesh, face: int = 0, weights: tuple[float, float] = (0.25, 0.25)) -> list[int]:
    """The colour at a point of a face."""
    return albedo(mesh, np.array([face], np.int32), np.array([weights]))[0].round().astype(int).tolist()


def test_glb_multiplies_the_picture_the_factor_and_the_colours_of_vertices():
    """As light: 188 in sRGB is half of it, 137 or, by way of bytes, 138 a quarter."""
    half = [[0.5, 1, 1]] * 3
    grey = [[[255, 255, 188]]]
    red, textured = surface({}, (1, 0, 0, 1)), surface({})

    def color(material: dict, picture: list | None = None, **attributes: list) -> list[int]:
        return seen(decode(triangles_glb([material], {"material": 0, **attributes}, picture=picture), "glb"))

    assert color(red, [[[255, 255, 255]]]) == [255, 0, 0]
    assert color(surface({}, (0.5, 0.5, 0.5, 1)), grey) == [188, 188, 137]
    assert color(textured, grey, COLOR_0=half) == [188, 255, 188]
    assert color(surface({}, (0.5, 1, 0, 1)), grey, COLOR_0=half) == [138, 255, 0]
    assert color(surface(None, (0.5, 1, 0, 1)), COLOR_0=half) == [137, 255, 0]
    assert color(textured, grey) == [255, 255, 188]


def test_colours_of_vertices_on_some_parts_of_a_glb_stay_on_these():
    materials = [surface(None, (0, 0, 1, 1)), surface({}, (1, 0, 0, 1))]
    coloured = {"COLOR_0": [[0, 1, 0]] * 3}
    parts = [coloured, {"material": 0}, {"material": 1}, {"material": 0, "COLOR_0": [[1, 1, 1]] * 3}, {}]
    mesh = decode(triangles_glb(materials, *parts, picture=[[[255, 255, 255]]]), "glb")

    colors = [seen(mesh, face) for face in range(5)]
    assert colors == [[0, 255, 0], [0, 0, 255], [255, 0, 0], [0, 0, 255], [178, 178, 178]]


@pytest.mark.parametrize(
    ("transform", "corners"),
    [
        ({"offset": [0.25, 0.5]}, [[0.25, 0.5], [1.25, 0.5], [0.25, 1.5]]),
        ({"scale": [2, 3]}, [[0, 0], [2, 0], [0, 3]]),
        ({"rotation": np.pi / 2}, [[0, 0], [0, -1], [1, 0]]),
        ({"offset": [1, 1], "rotation": np.pi / 2, "scale": [2, 3]}, [[1, 1], [1, -1], [4, 1]]),
        ({"texCoord": 1}, [[5, 5], [6, 5], [5, 6]]),
        ({}, [[0, 0], [1, 0], [0, 1]]),
    ],
    ids=["shifted", "scaled", "turned", "all three", "another set", "nothing"],
)
def test_a_texture_lies_where_khr_texture_transform_puts_it(transform, corners):
    """The picture turns clockwise as its coordinates turn counter-clockwise, v downward."""
    material = surface({"extensions": {"KHR_texture_transform": transform}})
    part = {"material": 0, "TEXCOORD_1": [[5, 5], [6, 5], [5, 6]]}
    mesh = decode(triangles_glb([material], part, picture=[[[255, 255, 255]]]), "glb")

    np.testing.assert_allclose(mesh.uv[0] * [1, -1] + [0, 1], corners, atol=1e-6)


def test_a_texture_names_the_set_of_coordinates_that_it_lies_by():
    part = {"material": 0, "TEXCOORD_1": [[5, 5], [6, 5], [5, 6]]}
    mesh = decode(triangles_glb([surface({"texCoord": 1})], part, picture=[[[255, 255, 255]]]), "glb")

    assert mesh.uv[0, :, 0].tolist() == [5, 6, 5]


BAD = {
    "a file with no bytes": (b"", "obj", "no bytes"),
    "an OBJ cut in a vertex": (TETRAHEDRON[:20], "obj", "line 3: a vertex has three numbers"),
    "an OBJ cut in a face": (TETRAHEDRON[:-4], "obj", "line 8: a face has three corners"),
    "an OBJ cut before its faces": (TETRAHEDRON[:32], "obj", "no faces"),
    "a face with a vertex that is not there": (TETRAHEDRON + b"f 1 2 9\n", "obj", "names vertex 8, counted from 0"),
    "a face with corner 0": (TETRAHEDRON + b"f 0 1 2\n", "obj", "line 9: a corner"),
    "vertices that are not numbers": (TETRAHEDRON.replace(b"v 1 0 0", b"v nan 0 0"), "obj", "1 of its 4 vertices"),
    "vertices without an end": (TETRAHEDRON.replace(b"v 1 0 0", b"v 1 -inf 0"), "obj", "not finite"),
    "an OBJ that is something else": (b"<html>nothing</html>\n", "obj", "no faces"),
    "a PLY without a header": (b"ply\nformat ascii 1.0\n", "ply", "end_header"),
    "an OFF that is something else": (b"solid\n", "off", "starts with 'OFF'"),
    "an OFF with fewer vertices than it says": (b"OFF\n3 1 0\n0 0 0\n1 0 0\n", "off", "cut short"),
    "an STL with fewer triangles than it says": (bytes(80) + struct.pack("<I", 9) + bytes(50), "stl", "cut short"),
    "an STL that is something else": (b"ply\nformat ascii 1.0\n" * 9, "stl", "begins with 'solid', but this does not"),
    "a GLB that is something else": (b"{}" + bytes(30), "glb", "starts with 'glTF'"),
    "a GLB whose scene is a list": (glb([1, 2]), "glb", "an object of names"),
    "a GLB with too few colours": (triangles_glb([], {"COLOR_0": [[1, 1, 1]]}), "glb", "3 vertices, but 1 colours"),
    "a GLB without a value": (glb({"asset": {}, "nodes": None}), "glb", "another kind than glTF has there"),
    "a format that nobody reads": (TETRAHEDRON, "fbx", "OBJ, PLY, OFF, STL or GLB file, but its name ends in .fbx"),
    "a name without an ending": (TETRAHEDRON, "", "OBJ, PLY, OFF, STL or GLB file, but its name has no ending"),
    "a PLY that names more than any memory holds": (PLY % 99999999999, "ply", "cut short"),
    "a PLY with a list of fewer than none": (PLY % 3 + b"0 0 0 1 0 0 0 1 0 -9 0 1 7", "ply", "cut short"),
    "a PLY with a list of no number": (PLY % 3 + b"0 0 0 1 0 0 0 1 0 nan 0 1 7", "ply", "it breaks the rules of PLY"),
}


@pytest.mark.parametrize("layout", ["x y z", "s x y z", "x s y t z", "z y x", "s z x y"])
@pytest.mark.parametrize("kind", ["<f4", ">f4", "<f8"])
def test_a_binary_ply_may_have_its_fields_in_any_order_and_width(layout, kind):
    """Adjacent floats are taken in one piece, and nothing else is taken for them."""
    vertices = np.arange(12).reshape(4, 3) ** 2 + 0.5
    rows = np.full(4, -7, [(name, kind) for name in layout.split()])
    for axis, name in enumerate("xyz"):
        rows[name] = vertices[:, axis]
    polygons = np.array([(3, [0, 1, 2]), (3, [0, 3, 1])], [("n", "u1"), ("corners", kind[0] + "i4", 3)])
    word = {"f4": "float", "f8": "double"}[kind[1:]]
    order = {"<": "little", ">": "big"}[kind[0]]
    header = [f"ply\nformat binary_{order}_endian 1.0\nelement vertex 4"]
    header += [f"property {word} {name}" for name in layout.split()]
    header += ["element face 2\nproperty list uchar int vertex_indices\nend_header\n"]
    mesh = decode("\n".join(header).encode() + rows.tobytes() + polygons.tobytes(), "ply")

    assert np.array_equal(mesh.vertices, np.float32(vertices))
    assert np.array_equal(mesh.faces, polygons["corners"])
    assert (mesh.vertices.dtype, mesh.faces.dtype) == (np.float32, np.int32)


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_read_says_why(case):
    data, kind, reason = BAD[case]

    with pytest.raises(Unreadable, match=reason):
        decode(data, kind)


def test_a_picture_that_is_none_is_named():
    files = {"a.mtl": b"newmtl a\nmap_Kd a.png\n", "a.png": b"no picture"}

    with pytest.raises(Unreadable, match="its picture a.png is damaged"):
        decode(b"mtllib a.mtl\nusemtl a\n" + TETRAHEDRON, "obj", files.get)


@pytest.mark.parametrize("error", [RecursionError("deep"), TypeError("no"), OSError("Pillow's own, without a number")])
def test_whatever_a_reader_stumbles_over_is_the_fault_of_the_file(monkeypatch, error):
    def stumble(*_: object) -> Mesh:
        raise error

    monkeypatch.setitem(READERS, "obj", stumble)

    with pytest.raises(Unreadable, match="it is damaged"):
        decode(TETRAHEDRON, "obj")


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.EMFILE, "Too many open files"), ImportError("torn")])
def test_what_the_machine_lacks_is_no_fault_of_the_file(monkeypatch, error):
    def stumble(*_: object) -> Mesh:
        raise error

    monkeypatch.setitem(READERS, "obj", stumble)

    with pytest.raises(type(error)):
        decode(TETRAHEDRON, "obj")
    monkeypatch.undo()
    monkeypatch.setattr(Image, "open", stumble)
    files = {"a.mtl": b"newmtl a\nmap_Kd a.png\n", "a.png": b"a picture"}
    with pytest.raises(type(error)):
        decode(b"mtllib a.mtl\nusemtl a\n" + TETRAHEDRON, "obj", files.get)


NAMES_A_BUFFER = {
    "asset": {"version": "2.0"},
    "nodes": [{"mesh": 0}],
    "meshes": [{"primitives": [{"attributes": {"POSITION": 0}}]}],
    "accessors": [{"componentType": 5126, "type": "VEC3", "count": 3, "bufferView": 0}],
    "bufferViews": [{"buffer": 0, "byteLength": 36}],
    "buffers": [{"uri": "a.bin", "byteLength": 36}],
}


@pytest.mark.parametrize("kind", ["obj", "glb"])
@pytest.mark.parametrize("error", [ConnectionResetError(), KeyError("a bug"), ValueError("a bug"), DataError("a bomb")])
def test_what_reading_another_file_raises_is_raised_whatever_a_reader_makes_of_it(kind, error):
    def broken(name: str) -> bytes:
        raise error

    named = {"obj": b"mtllib a.mtl\n" + TETRAHEDRON, "glb": glb(NAMES_A_BUFFER)}
    with pytest.raises(type(error)) as caught:
        decode(named[kind], kind, broken)

    assert caught.value is error


def test_a_number_too_great_is_refused_without_a_word_from_numpy():
    with warnings.catch_warnings(action="error"), pytest.raises(Unreadable, match="not finite"):
        decode(b"OFF\n3 1 0\n0 0 0\n1e99 0 0\n0 1 0\n3 0 1 2\n", "off")


def test_the_fast_look_at_a_mesh_passes_nothing_that_the_slow_one_does_not():
    """Planted in every place: what is not finite, a corner of no vertex, shapes without extent or without faces."""
    rng = np.random.default_rng(0)
    strange = np.array([np.nan, np.inf, -np.inf, -0.0, 1e-45, 3.4e38], np.float32)
    passed = 0
    for _ in range(2000):
        vertices = rng.choice([0.0, 1.0, 2.5], (rng.integers(1, 6), 3)).astype(np.float32)
        faces = rng.integers(0, len(vertices), (rng.integers(0, 5), 3)).astype(np.int32)
        if rng.random() < 0.3:
            vertices[:] = vertices[0]
        if rng.random() < 0.4:
            vertices.flat[rng.integers(vertices.size)] = rng.choice(strange)
        if rng.random() < 0.3 and faces.size:
            faces.flat[rng.integers(faces.size)] = rng.choice([-1, len(vertices), np.iinfo(np.int32).min])
        mesh = Mesh(vertices, faces)

        passed += _is_sound(mesh)
        assert not _is_sound(mesh) or mesh.problem() is None, (vertices, faces)
    assert passed > 100


def test_the_fast_look_passes_ordinary_shapes():
    source = Furniture()

    assert all(_is_sound(source.open(row)) for row in source.rows()[::40])


@pytest.mark.parametrize("kind", ["ply", "stl", "glb", "off"])
def test_a_file_cut_anywhere_is_unreadable(shape, kind):
    data = shape.export(file_type=kind)
    data = data if isinstance(data, bytes) else data.encode()

    for share in (0.01, 0.3, 0.6, 0.97):
        with pytest.raises(Unreadable):
            decode(data[: int(share * len(data))], kind)
