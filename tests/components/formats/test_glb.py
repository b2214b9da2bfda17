"""
Each feature of glTF that changes a shape, against corners worked out by hand; and against trimesh where it has it.
"""

import base64
import io
import json
import struct

import numpy as np
import pytest
import trimesh
from PIL import Image
from scipy.spatial.transform import Rotation

from components.formats.decode import decode
from components.source import Unreadable

CORNERS = [[0, 0, 0], [1, 0, 0], [0, 1, 0]]
CODES = {"i1": 5120, "u1": 5121, "i2": 5122, "u2": 5123, "u4": 5125, "f4": 5126}
QUARTER = [0, 0, np.sqrt(0.5), np.sqrt(0.5)]  # of a turn about z: x becomes y


class File:
    """A GLB in the making: accessors are added, and the rest of its document is set by name."""

    def __init__(self, **document: object) -> None:
        self.binary, self.views, self.accessors = b"", [], []
        self.document = {"asset": {"version": "2.0"}, "nodes": [{"mesh": 0}]} | document

    def view(self, data: bytes, **more: object) -> int:
        """The number of a new buffer view."""
        self.views.append({"buffer": 0, "byteOffset": len(self.binary), "byteLength": len(data)} | more)
        self.binary += data + bytes(-len(data) % 4)
        return len(self.views) - 1

    def add(self, rows: object, kind: str = "f4", **more: object) -> int:
        """The number of a new accessor of these rows."""
        rows = np.asarray(rows, "<" + kind)
        name = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4", 16: "MAT4"}[rows[0].size]
        own = {"bufferView": self.view(rows.tobytes()), "componentType": CODES[kind], "count": len(rows), "type": name}
        self.accessors.append(own | more)
        return len(self.accessors) - 1

    def mesh(self, mode: int = 4, **attributes: int) -> dict:
        """A mesh of one primitive."""
        return {"primitives": [{"attributes": {"POSITION": self.add(CORNERS)} | attributes, "mode": mode}]}

    def data(self, **more: object) -> bytes:
        own = {"buffers": [{"byteLength": len(self.binary)}], "bufferViews": self.views, "accessors": self.accessors}
        text = json.dumps(self.document | own | more).encode()
        text += b" " * (-len(text) % 4)
        chunks = struct.pack("<II", len(text), 0x4E4F534A) + text
        chunks += struct.pack("<II", len(self.binary), 0x4E4942) + self.binary
        return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks

    def corners(self, **more: object) -> list:
        """The corners of the triangles that it decodes to, [F, 3, 3]."""
        return decode(self.data(**more), "glb").triangles.round(6).tolist()


def affine(rotation: Rotation, shift: object = (0, 0, 0), scale: float = 1.0) -> np.ndarray:
    out = np.eye(4)
    out[:3, :3], out[:3, 3] = rotation.as_matrix() * scale, shift
    return out


def test_a_skin_stands_as_its_joints_do_and_not_as_its_node():
    """A joint moves its vertices by what it has moved since they were bound to it: here up by 2, and a quarter turn."""
    file = File()
    joints = file.add([[0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0]], "u1")
    weights = file.add([[1, 0, 0, 0], [1, 0, 0, 0], [0.25, 0.75, 0, 0]])
    inverse = file.add([np.eye(4).ravel(), affine(Rotation.identity(), [-1, 0, 0]).T.ravel()])
    nodes = [
        {"mesh": 0, "skin": 0, "translation": [99, 99, 99], "scale": [-7, 7, 7]},
        {"translation": [0, 2, 0], "children": [2]},
        {"translation": [1, 0, 0], "rotation": QUARTER},
    ]
    skins = [{"joints": [1, 2], "inverseBindMatrices": inverse}]
    meshes = [file.mesh(JOINTS_0=joints, WEIGHTS_0=weights)]
    # Corner 2 is at (0, 1, 0). Its first joint takes it up to (0, 3, 0). From its second, at (1, 0, 0), it lies at
    # (-1, 1, 0), which turns to (-1, -1, 0), and goes up to (0, 1, 0). The mean, one to three, is (0, 1.5, 0).
    corners = file.corners(nodes=nodes, meshes=meshes, skins=skins, scenes=[{"nodes": [0, 1]}])

    assert corners == [[[0, 2, 0], [1, 2, 0], [0, 1.5, 0]]]


def skinned_slowly(vertices, joints, weights, matrices):
    """Each vertex by itself: the mean, by weight, of where its joints put it."""
    out = []
    for vertex, own, shares in zip(vertices, joints, weights, strict=True):
        places = [share * (matrices[j] @ [*vertex, 1])[:3] for j, share in zip(own, shares, strict=True)]
        out.append(np.sum(places, axis=0) / np.sum(shares))
    return np.array(out)


@pytest.mark.parametrize("kind", ["f4", "u1", "u2"])
def test_skins_of_eight_joints_a_vertex_are_as_their_slow_twin_has_them(kind):
    rng = np.random.default_rng(0)
    vertices, joints = rng.normal(size=(30, 3)).astype(np.float32), rng.integers(0, 5, (30, 8))
    weights = rng.integers(1, 100, (30, 8)) if kind != "f4" else rng.uniform(0.1, 1, (30, 8)).astype(np.float32)
    worlds = [affine(Rotation.random(rng=i), rng.normal(size=3), 1 + i) for i in range(5)]
    inverse = [np.linalg.inv(affine(Rotation.random(rng=9 + i), rng.normal(size=3))) for i in range(5)]
    file = File()
    flag = {} if kind == "f4" else {"normalized": True}
    attributes = {
        f"{name}_{n}": file.add(rows[:, 4 * n : 4 * n + 4], form, **more)
        for name, rows, form, more in (("JOINTS", joints, "u2", {}), ("WEIGHTS", weights, kind, flag))
        for n in (0, 1)
    }
    meshes = [{"primitives": [{"attributes": {"POSITION": file.add(vertices)} | attributes}]}]
    skins = [{"joints": [1, 2, 3, 4, 5], "inverseBindMatrices": file.add([m.T.ravel() for m in inverse])}]
    nodes = [{"mesh": 0, "skin": 0}, *({"matrix": world.T.ravel().tolist()} for world in worlds)]
    mesh = decode(file.data(nodes=nodes, meshes=meshes, skins=skins), "glb")
    matrices = [world @ np.float32(own) for world, own in zip(worlds, inverse, strict=True)]

    np.testing.assert_allclose(mesh.vertices, skinned_slowly(vertices, joints, weights, matrices), rtol=2e-5, atol=2e-5)


def test_a_skin_whose_joints_mirror_it_keeps_its_faces_outward():
    file = File()
    hangs = {"JOINTS_0": file.add([[0, 0, 0, 0]] * 3, "u1"), "WEIGHTS_0": file.add([[1, 0, 0, 0]] * 3)}
    nodes = [{"mesh": 0, "skin": 0}, {"scale": [-1, 1, 1]}]

    assert file.corners(nodes=nodes, meshes=[file.mesh(**hangs)], skins=[{"joints": [1]}]) == [
        [[0, 1, 0], [-1, 0, 0], [0, 0, 0]]
    ]


@pytest.mark.parametrize("place", ["mesh", "node", "both"])
def test_morph_targets_count_by_the_weights_of_the_node_or_else_of_the_mesh(place):
    file = File()
    mesh = file.mesh()
    mesh["primitives"][0]["targets"] = [
        {"POSITION": file.add([[0, 0, 2], [0, 0, 0], [0, 0, 4]])},
        {"POSITION": file.add([[8, 0, 0]] * 3)},
        {"POSITION": file.add([[0, 1, 0]] * 3)},
    ]
    mesh |= {"weights": [0.5, 0, 1] if place == "mesh" else [1, 1, 1]} if place != "node" else {}
    node = {"mesh": 0} | ({} if place == "mesh" else {"weights": [0.5, 0, 1]})

    assert file.corners(nodes=[node], meshes=[mesh]) == [[[0, 1, 1], [1, 1, 0], [0, 2, 2]]]


def test_morph_targets_without_weights_change_nothing():
    file = File()
    mesh = file.mesh()
    mesh["primitives"][0]["targets"] = [{"POSITION": file.add([[8, 8, 8]] * 3)}]

    assert file.corners(meshes=[mesh]) == [CORNERS]


def test_morph_targets_change_the_colours_of_vertices_too():
    file = File()
    mesh = file.mesh(COLOR_0=file.add([[0, 1, 0]] * 3)) | {"weights": [0.5]}
    mesh["primitives"][0]["targets"] = [{"COLOR_0": file.add([[2, 0, 0]] * 3)}]

    assert decode(file.data(meshes=[mesh]), "glb").vertex_colors.tolist() == [[255, 255, 0]] * 3


def test_each_instance_stands_where_its_attributes_put_it_below_the_node():
    file = File(extensionsRequired=["EXT_mesh_gpu_instancing"])
    quarter = (np.array(QUARTER) * 32767).round()  # as shorts: not quite of length 1
    attributes = {
        "TRANSLATION": file.add([[0, 0, 0], [0, 0, 5], [4, 0, 0]]),
        "ROTATION": file.add([[0, 0, 0, 32767], quarter, [0, 0, 0, 32767]], "i2", normalized=True),
        "SCALE": file.add([[1, 1, 1], [2, 2, 2], [1, -1, 1]]),
    }
    node = {"mesh": 0, "translation": [10, 0, 0], "extensions": {"EXT_mesh_gpu_instancing": {"attributes": attributes}}}

    assert file.corners(nodes=[node], meshes=[file.mesh()]) == [
        [[10, 0, 0], [11, 0, 0], [10, 1, 0]],
        [[10, 0, 5], [10, 2, 5], [8, 0, 5]],
        [[14, -1, 0], [15, 0, 0], [14, 0, 0]],  # mirrored, so turned around
    ]


def test_instances_may_have_attributes_of_another_kind_alone():
    file = File()
    node = {"mesh": 0, "extensions": {"EXT_mesh_gpu_instancing": {"attributes": {"_ID": file.add([[1], [2]], "f4")}}}}

    assert file.corners(nodes=[node], meshes=[file.mesh()]) == [CORNERS, CORNERS]


@pytest.mark.parametrize("kind", ["u1", "u2", "u4"])
@pytest.mark.parametrize("base", ["rows", "nothing"])
def test_a_sparse_accessor_has_its_own_rows_over_others_or_over_zeros(base, kind):
    file = File()
    places, rows = file.view(np.array([2, 1], "<" + kind).tobytes()), np.array([[0, 3, 0], [5, 0, 0]], "<f4")
    sparse = {
        "count": 2,
        "indices": {"bufferView": places, "componentType": CODES[kind]},
        "values": {"bufferView": file.view(bytes(8) + rows.tobytes()), "byteOffset": 8},
    }
    mesh = file.mesh()
    accessor = file.accessors[0]
    accessor["sparse"] = sparse
    if base == "nothing":
        del accessor["bufferView"]
    else:
        file.binary = file.binary.replace(np.float32(CORNERS).tobytes(), np.float32(np.add(CORNERS, 1)).tobytes())
    first = [0, 0, 0] if base == "nothing" else [1, 1, 1]

    assert file.corners(meshes=[mesh]) == [[first, [5, 0, 0], [0, 3, 0]]]


FIVE = [[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 2, 0]]
MODES = {
    "a list": (4, [0, 1, 2, 2, 1, 3], [[0, 1, 2], [2, 1, 3]]),
    "a strip": (5, [0, 1, 2, 3, 4], [[0, 1, 2], [3, 2, 1], [2, 3, 4]]),
    "a fan": (6, [0, 1, 3, 4], [[0, 1, 3], [0, 3, 4]]),
}


@pytest.mark.parametrize("kind", ["u1", "u2", "u4"])
@pytest.mark.parametrize("case", MODES)
def test_strips_and_fans_are_triangles_that_face_one_way(case, kind):
    mode, indices, faces = MODES[case]
    file = File()
    primitive = {"attributes": {"POSITION": file.add(FIVE)}, "mode": mode}
    primitive["indices"] = file.add(np.array(indices)[:, None], kind)
    mesh = decode(file.data(meshes=[{"primitives": [primitive]}]), "glb")
    a, b, c = mesh.triangles.transpose(1, 0, 2)

    assert mesh.faces.tolist() == faces
    assert (np.cross(b - a, c - a)[:, 2] > 0).all()


def test_points_and_lines_are_passed_over_and_a_mode_that_glTF_has_not_is_named():
    file = File()
    parts = [file.mesh(mode)["primitives"][0] for mode in (0, 1, 2, 3, 4)]

    assert file.corners(meshes=[{"primitives": parts}]) == [CORNERS]
    with pytest.raises(Unreadable, match="its scene has no triangles"):
        file.corners(meshes=[{"primitives": parts[:4]}])
    with pytest.raises(Unreadable, match="mode 0 to 6, but one of this file's has 7"):
        file.corners(meshes=[file.mesh(7)])


@pytest.mark.parametrize("mode", [4, 5, 6])
def test_a_primitive_of_two_vertices_has_no_triangle(mode):
    file = File()
    part = {"attributes": {"POSITION": file.add(CORNERS[:2])}, "mode": mode}

    assert file.corners(meshes=[{"primitives": [part, file.mesh()["primitives"][0]]}]) == [CORNERS]


def test_the_default_scene_is_shown_and_no_other():
    file = File(meshes=[{}, {}], nodes=[{"mesh": 0}, {"mesh": 1}, {"children": [0]}])
    meshes = [file.mesh(), file.mesh()]
    file.binary = file.binary[:-36] + np.float32(np.add(CORNERS, 5)).tobytes()
    scenes = [{"nodes": [2]}, {"nodes": [1]}]

    assert file.corners(meshes=meshes, scenes=scenes, scene=1) == [np.add(CORNERS, 5).tolist()]
    assert file.corners(meshes=meshes, scenes=scenes) == [CORNERS]
    assert len(file.corners(meshes=meshes)) == 2


def test_nodes_are_moved_turned_and_scaled_as_trimesh_has_it():
    rng = np.random.default_rng(1)
    file = File()
    moves = [
        {"translation": [1, 2, 3], "rotation": Rotation.random(rng=1).as_quat().tolist(), "scale": [1, 2, 3]},
        {"matrix": affine(Rotation.random(rng=2), rng.normal(size=3), -2).T.ravel().tolist()},
        {"rotation": Rotation.random(rng=3).as_quat().tolist(), "scale": [1, -1, 1]},
    ]
    nodes = [{"mesh": 0, "children": [i + 1], **move} for i, move in enumerate(moves)] + [{"mesh": 0}]
    data = file.data(meshes=[file.mesh()], nodes=nodes, scenes=[{"nodes": [0]}], scene=0)
    twin = trimesh.load(io.BytesIO(data), file_type="glb", process=False).to_geometry()

    np.testing.assert_allclose(in_order(decode(data, "glb").triangles), in_order(twin.triangles), atol=1e-5)


def in_order(triangles):
    """Sorted, each from its lowest corner on, so that only which way it goes round is left to differ."""
    turned = [np.roll(t, -min(range(3), key=lambda i: tuple(t[i].round(3))), axis=0) for t in np.asarray(triangles)]
    return np.array(sorted(turned, key=lambda t: tuple(t.round(3).ravel())))


def test_a_hidden_node_is_not_shown_and_neither_is_what_hangs_on_it():
    hidden = {"extensions": {"KHR_node_visibility": {"visible": False}}, "children": [1]}
    file = File(nodes=[hidden, {"mesh": 0}, {"mesh": 0, "translation": [0, 0, 1]}])

    assert file.corners(meshes=[file.mesh()]) == [np.add(CORNERS, [0, 0, 1]).tolist()]


@pytest.mark.parametrize(("kind", "most"), [("u1", 255), ("u2", 65535), ("f4", 1)])
@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize("alpha", [True, False])
def test_the_colours_of_vertices_are_light_by_the_range_of_their_type(kind, most, normalized, alpha):
    """A fifth of the light is 124 in sRGB. Integers stand for fractions even where a file leaves the flag out."""
    file = File()
    row = [most, most / 5, 0, *([most] if alpha else [])]
    rows = np.array([row] * 3, "<" + kind)
    padded = np.zeros((3, -(-rows[0].nbytes // 4) * 4), np.uint8)
    padded[:, : rows[0].nbytes] = rows.view(np.uint8).reshape(3, -1)
    view = file.view(padded.tobytes(), byteStride=padded.shape[1])
    flag = {"normalized": True} if normalized and kind != "f4" else {}
    color = {"bufferView": view, "componentType": CODES[kind], "count": 3, "type": f"VEC{len(row)}"} | flag
    file.accessors.append(color)
    mesh = decode(file.data(meshes=[file.mesh(COLOR_0=0)]), "glb")

    assert mesh.vertex_colors.tolist() == [[255, 124, 0]] * 3


@pytest.mark.parametrize(("kind", "most"), [("i1", 127), ("i2", 32767), ("u1", 255), ("u2", 65535)])
def test_normalized_positions_are_fractions_and_the_least_integer_is_minus_one(kind, most):
    least = -most - 1 if kind[0] == "i" else 0
    file = File(extensionsRequired=["KHR_mesh_quantization"])
    rows = np.array([[0, 0, least, 0], [most, 0, least, 0], [0, most, least, 0]], "<" + kind)
    stride = 4 * rows.itemsize
    accessor = {"componentType": CODES[kind], "count": 3, "type": "VEC3", "normalized": True}
    file.accessors.append({"bufferView": file.view(rows.tobytes(), byteStride=stride)} | accessor)
    z = -1 if kind[0] == "i" else 0

    assert file.corners(meshes=[{"primitives": [{"attributes": {"POSITION": 0}}]}]) == [
        [[0, 0, z], [1, 0, z], [0, 1, z]]
    ]


def test_plain_integers_are_lengths():
    file = File(extensionsRequired=["KHR_mesh_quantization"])
    part = {"attributes": {"POSITION": file.add([[0, 0, 0, 0], [200, 0, 0, 0], [0, 7, 0, 0]], "u1")}}
    file.accessors[0]["type"] = "VEC3"
    file.views[0]["byteStride"] = 4

    assert file.corners(meshes=[{"primitives": [part]}]) == [[[0, 0, 0], [200, 0, 0], [0, 7, 0]]]


def test_a_data_address_is_read_with_and_without_base64():
    file = File()
    meshes = [file.mesh()]
    plain = "data:application/octet-stream," + "".join(f"%{byte:02X}" for byte in file.binary)
    coded = "data:application/octet-stream;base64," + base64.b64encode(file.binary).decode()
    for uri in (plain, coded):
        assert file.corners(meshes=meshes, buffers=[{"byteLength": 36, "uri": uri}]) == [CORNERS]


def test_a_picture_may_be_webp_and_one_that_is_not_read_is_named():
    stream = io.BytesIO()
    Image.new("RGB", (1, 1), (255, 0, 0)).save(stream, "WEBP", lossless=True)
    file = File(materials=[{"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}}])
    mesh = file.mesh(TEXCOORD_0=file.add([[0, 0], [1, 0], [0, 1]]))
    mesh["primitives"][0]["material"] = 0
    document = {"meshes": [mesh], "images": [{"bufferView": file.view(stream.getvalue())}]}
    webp = {"extensions": {"EXT_texture_webp": {"source": 0}}}
    data = file.data(**document, textures=[webp], extensionsRequired=["EXT_texture_webp"])

    assert decode(data, "glb").textures[0].tolist() == [[[255, 0, 0]]]
    with pytest.raises(Unreadable, match="the glTF extension KHR_texture_basisu, which is not read"):
        decode(file.data(**document, textures=[{"extensions": {"KHR_texture_basisu": {"source": 0}}}]), "glb")


def refused(file: File, case: str) -> dict:
    """The document of a file that is understood in part, by what is not understood."""
    mesh, hangs = file.mesh(), {"JOINTS_0": file.add([[0] * 4] * 3, "u1"), "WEIGHTS_0": file.add([[0] * 4] * 3)}
    part = mesh["primitives"][0]
    node: dict = {"mesh": 0}
    more: dict = {}
    match case:
        case "an extension that it requires":
            more = {"extensionsRequired": ["KHR_draco_mesh_compression"]}
        case "vertices that Draco packed":
            part["extensions"] = {"KHR_draco_mesh_compression": {"bufferView": 0}}
            del file.accessors[part["attributes"]["POSITION"]]["bufferView"]
        case "vertices that meshopt packed":
            file.views[0] |= {"buffer": 1, "extensions": {"EXT_meshopt_compression": {"buffer": 0}}}
            more = {"buffers": [{"byteLength": len(file.binary)}, {"byteLength": 36}]}
        case "a buffer with no bytes":
            file.views[0] |= {"buffer": 1, "byteOffset": 0}
            more = {"buffers": [{"byteLength": len(file.binary)}, {"byteLength": 36}]}
        case "a skin with instances":
            node |= {"skin": 0, "extensions": {"EXT_mesh_gpu_instancing": {"attributes": {}}}}
        case "instances of several counts":
            attributes = {"SCALE": 0, "TRANSLATION": file.add([[0, 0, 0]])}
            node["extensions"] = {"EXT_mesh_gpu_instancing": {"attributes": attributes}}
        case "a vertex on no joint":
            node["skin"], more = 0, {"skins": [{"joints": [0]}]}
            part["attributes"] |= hangs
        case "a joint outside of the scene":
            node["skin"], more = 0, {"skins": [{"joints": [1]}], "scenes": [{"nodes": [0]}], "nodes": [node, {}]}
            part["attributes"] |= hangs
        case "a skin without joints":
            node["skin"], more = 0, {"skins": [{"joints": [0]}]}
        case "a morph target of another length":
            part["targets"], mesh["weights"] = [{"POSITION": file.add([[0, 0, 1]])}], [1]
        case "a node that is its own parent":
            node["children"], more = [0], {"scenes": [{"nodes": [0]}]}
        case "a rotation of no length":
            node["rotation"] = [0, 0, 0, 0]
        case "a mesh counted from the end":
            node["mesh"] = -1
    return {"meshes": [mesh], "nodes": [node]} | more


REFUSED = {
    "an extension that it requires": "the glTF extension KHR_draco_mesh_compression, which is not read",
    "vertices that Draco packed": "the glTF extension KHR_draco_mesh_compression, which is not read",
    "vertices that meshopt packed": "the glTF extension EXT_meshopt_compression, which is not read",
    "a buffer with no bytes": "buffer 1 is shorter than its views",
    "a skin with instances": "a skin with EXT_mesh_gpu_instancing",
    "instances of several counts": r"have one count, but these have \[1, 3\]",
    "a vertex on no joint": "hangs on none",
    "a joint outside of the scene": "names what the file has not: 1",
    "a skin without joints": "names what the file has not: 'JOINTS_0'",
    "a morph target of another length": "a row for each of 3, but one has 1",
    "a node that is its own parent": "node 0 of its scene has several",
    "a rotation of no length": "one of this file's has length 0",
    "a mesh counted from the end": "names what the file has not: meshes -1",
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_glb_that_is_understood_in_part_is_refused_by_name(case):
    file = File()

    with pytest.raises(Unreadable, match=REFUSED[case]):
        file.corners(**refused(file, case))


def test_what_is_packed_is_read_where_the_file_has_it_plain_as_well():
    file = File()
    mesh = file.mesh()
    mesh["primitives"][0]["extensions"] = {"KHR_draco_mesh_compression": {"bufferView": 0}}
    file.views[0]["extensions"] = {"EXT_meshopt_compression": {"buffer": 1}}

    assert file.corners(meshes=[mesh], extensionsUsed=["KHR_draco_mesh_compression"]) == [CORNERS]
