"""
Numbers out of text: the byte-level readers of the text formats for shapes.

They read ASCII from a uint8 array, so a file is never split into Python strings. A number with up to 15 digits comes
out correctly rounded; a longer one is off by at most one unit in the last place of a double.
"""

# V vertices, T texture coordinates, F triangles, K marks

import numpy as np
from numpy.typing import NDArray

from components.kernels.compiled import kernel

Bytes = NDArray[np.uint8]

SPACE, TAB, RETURN, NEWLINE, HASH, SLASH = 32, 9, 13, 10, 35, 47
PLUS, MINUS, POINT, ZERO, NINE = 43, 45, 46, 48, 57
POWERS = 10.0 ** np.arange(23)  # the powers of ten that a double holds exactly

USEMTL, MTLLIB = 0, 1
FINE, SHORT_VERTEX, SHORT_FACE, BAD_CORNER, BAD_NUMBER = 0, 1, 2, 3, 4


@kernel(inline="always")
def _is_gap(byte: int) -> bool:
    return byte in (SPACE, TAB, RETURN)


@kernel(inline="always")
def _skip_gap(data: Bytes, at: int) -> int:
    while at < len(data) and _is_gap(data[at]):
        at += 1
    return at


@kernel(inline="always")
def _line_end(data: Bytes, at: int) -> int:
    while at < len(data) and data[at] != NEWLINE:
        at += 1
    return at


@kernel
def _word(data: Bytes, at: int) -> tuple[float, int]:
    """The value of a token that is not made of digits: inf, or not a number whatever else it is."""
    start = at
    while at < len(data) and not _is_gap(data[at]) and data[at] != NEWLINE:
        at += 1
    first = data[start]
    negative = first == MINUS
    if negative or first == PLUS:
        start += 1
    is_infinite = at - start >= 3 and (data[start] | 32) == 105 and (data[start + 2] | 32) == 102  # i.f
    if is_infinite:
        return (-np.inf if negative else np.inf), at
    return np.nan, at


@kernel
def _number(data: Bytes, at: int) -> tuple[float, int]:
    """The number that starts at `at`, and where it ends."""
    start, end = at, len(data)
    negative = data[at] == MINUS
    if negative or data[at] == PLUS:
        at += 1
    mantissa, exponent, digits, seen = 0, 0, 0, 0
    fraction = False
    while at < end:
        byte = data[at]
        if byte >= ZERO and byte <= NINE:
            seen += 1
            if digits < 18:
                mantissa = mantissa * 10 + (byte - ZERO)
                digits += mantissa > 0
                exponent -= fraction
            else:
                exponent += not fraction
        elif byte == POINT and not fraction:
            fraction = True
        else:
            break
        at += 1
    if seen == 0:
        return _word(data, start)
    if at < end and (data[at] | 32) == 101:  # e
        power, at = _whole(data, at + 1)
        exponent += power
    if at < end and not _is_gap(data[at]) and data[at] != NEWLINE:
        return _word(data, start)
    value = float(mantissa)
    if exponent < -22 or exponent > 22:
        value *= 10.0**exponent
    elif exponent < 0:
        value /= POWERS[-exponent]
    else:
        value *= POWERS[exponent]
    return (-value if negative else value), at


@kernel
def _whole(data: Bytes, at: int) -> tuple[int, int]:
    """The whole number that starts at `at`, and where it ends: at `at` itself where there is none."""
    start, end = at, len(data)
    negative = at < end and data[at] == MINUS
    if at < end and (negative or data[at] == PLUS):
        at += 1
    value, first = 0, at
    while at < end and data[at] >= ZERO and data[at] <= NINE:
        value = value * 10 + (data[at] - ZERO)
        at += 1
    if at == first:
        return 0, start
    return (-value if negative else value), at


@kernel
def numbers(data: Bytes, at: int, count: int) -> tuple[NDArray[np.float64], int]:
    """Up to `count` numbers from `at` on, whatever lines they stand in, and where the last ends; # starts a comment."""
    out = np.empty(count)
    found = 0
    while found < count:
        while at < len(data) and (_is_gap(data[at]) or data[at] == NEWLINE):
            at += 1
        if at >= len(data):
            break
        if data[at] == HASH:
            at = _line_end(data, at)
            continue
        out[found], at = _number(data, at)
        found += 1
    return out[:found], at


@kernel
def numbers_after(data: Bytes, word: Bytes, per_word: int) -> NDArray[np.float64]:
    """The `per_word` numbers behind each line that starts with `word`, as an ASCII STL has behind "vertex"."""
    out = np.empty((len(data) // (len(word) + 2 * per_word) + 1, per_word))
    found, at = 0, 0
    while at < len(data):
        at = _skip_gap(data, at)
        place = 0
        while place < len(word) and at + place < len(data) and (data[at + place] | 32) == word[place]:
            place += 1
        if place == len(word):
            at += place
            for column in range(per_word):
                at = _skip_gap(data, at)
                if at >= len(data) or data[at] == NEWLINE:
                    out[found, column] = np.nan
                else:
                    out[found, column], at = _number(data, at)
            found += 1
        at = _line_end(data, at) + 1
    return out[:found]


@kernel
def corners(flat: NDArray[np.int64], lists: int) -> tuple[NDArray[np.int32], NDArray[np.int32], int]:
    """
    Triangles [F, 3] of `lists` polygons written as (n, i1 ... in), each as a fan around its first corner.

    Also gives the polygon of each triangle [F], and how many numbers were read: -1 where they ran out.
    """
    at, total = 0, 0
    for _ in range(lists):
        if at >= len(flat) or flat[at] < 0 or at + flat[at] >= len(flat):
            return np.empty((0, 3), np.int32), np.empty(0, np.int32), -1
        total += max(flat[at] - 2, 0)
        at += flat[at] + 1
    out, origin = np.empty((total, 3), np.int32), np.empty(total, np.int32)
    at, face = 0, 0
    for polygon in range(lists):
        for corner in range(2, flat[at]):
            out[face, 0], out[face, 1], out[face, 2] = flat[at + 1], flat[at + corner], flat[at + corner + 1]
            origin[face] = polygon
            face += 1
        at += flat[at] + 1
    return out, origin, at


@kernel
def count_obj(data: Bytes) -> tuple[int, int, int, int]:
    """How many vertices, texture coordinates, triangles and marks (usemtl, mtllib) an OBJ file has."""
    vertices, coordinates, triangles, marks, at = 0, 0, 0, 0, 0
    end = len(data)
    while at < end:
        at = _skip_gap(data, at)
        if at + 1 >= end:
            break
        first, second = data[at], data[at + 1]
        if first == 118:  # v
            vertices += _is_gap(second)
            coordinates += second == 116
        elif first == 102 and _is_gap(second):  # f
            at, found = at + 1, 0
            while at < end and data[at] != NEWLINE:
                found += not _is_gap(data[at]) and _is_gap(data[at - 1])
                at += 1
            triangles += max(found - 2, 0)
        elif first == 117 or first == 109:  # usemtl, mtllib
            marks += 1
        at = _line_end(data, at) + 1
    return vertices, coordinates, triangles, marks


@kernel
def read_obj(
    data: Bytes,
    vertices: NDArray[np.float32],
    colors: NDArray[np.float32],
    coordinates: NDArray[np.float32],
    triangles: NDArray[np.int32],
    places: NDArray[np.int32],
    origin: NDArray[np.int32],
    marks: NDArray[np.int64],
) -> tuple[int, int, int, int]:
    """
    Fills vertices [V, 3], colors [V, 3], coordinates [T, 2], triangles [F, 3], places [F, 3], origin [F], marks [K, 4].

    A polygon is a fan around its first corner, and `origin` its number, at each triangle; `places` are rows of
    `coordinates`, -1 where a corner has none. A mark is what it is, where its name starts and ends, and the first
    triangle behind it. Gives how many triangles there are, how many vertices have a colour, the kind of the first
    fault, and its line, from 1.
    """
    v, t, f, k, colored, line, at, polygon = 0, 0, 0, 0, 0, 0, 0, 0
    end = len(data)
    while at < end:
        line += 1
        at = _skip_gap(data, at)
        if at + 1 >= end:
            break
        first, second = data[at], data[at + 1]
        if first == 118 and _is_gap(second):
            at, found = _read_vertex(data, at + 1, vertices[v], colors[v])
            if found < 3:
                return f, colored, SHORT_VERTEX, line
            colored += found >= 6
            v += 1
        elif first == 118 and second == 116:
            at = _read_coordinate(data, at + 2, coordinates[t])
            t += 1
        elif first == 102 and _is_gap(second):
            at, made, fault = _read_face(data, at + 1, v, t, triangles, places, f)
            if fault != FINE:
                return f, colored, fault, line
            for _ in range(made):
                origin[f] = polygon
                f += 1
            polygon += 1
        elif first == 117 or first == 109:
            stop = _line_end(data, at)
            marks[k, 0], marks[k, 1] = (USEMTL if first == 117 else MTLLIB), at
            marks[k, 2], marks[k, 3] = stop, f
            k += 1
        at = _line_end(data, at) + 1
    return f, colored, FINE, 0


@kernel(inline="always")
def _read_vertex(data: Bytes, at: int, vertex: NDArray[np.float32], color: NDArray[np.float32]) -> tuple[int, int]:
    found = 0
    at = _skip_gap(data, at)
    while at < len(data) and data[at] != NEWLINE and data[at] != HASH and found < 6:
        value, at = _number(data, at)
        if found < 3:
            vertex[found] = value
        else:
            color[found - 3] = value
        found += 1
        at = _skip_gap(data, at)
    return at, found


@kernel(inline="always")
def _read_coordinate(data: Bytes, at: int, coordinate: NDArray[np.float32]) -> int:
    coordinate[0], coordinate[1] = 0, 0
    found = 0
    at = _skip_gap(data, at)
    while at < len(data) and data[at] != NEWLINE and found < 2:
        value, at = _number(data, at)
        coordinate[found] = value
        found += 1
        at = _skip_gap(data, at)
    return at


@kernel(inline="always")
def _read_face(
    data: Bytes,
    at: int,
    vertices: int,
    coordinates: int,
    triangles: NDArray[np.int32],
    places: NDArray[np.int32],
    face: int,
) -> tuple[int, int, int]:
    first, first_place, last, last_place, found, made = 0, 0, 0, 0, 0, 0
    while True:
        at = _skip_gap(data, at)
        if at >= len(data) or data[at] == NEWLINE or data[at] == HASH:
            # Exporters write faces of one or two corners, which have no area; at the very end they mean a cut file.
            return at, made, (SHORT_FACE if found < 3 and at >= len(data) else FINE)
        index, after = _whole(data, at)
        if after == at or index == 0:
            return at, made, BAD_CORNER
        place, at = 0, after
        if at < len(data) and data[at] == SLASH:
            place, at = _whole(data, at + 1)
            if at < len(data) and data[at] == SLASH:
                _, at = _whole(data, at + 1)
        if at < len(data) and not _is_gap(data[at]) and data[at] != NEWLINE:
            return at, made, BAD_CORNER
        index = index - 1 if index > 0 else vertices + index
        place = place - 1 if place >= 0 else coordinates + place
        if found == 0:
            first, first_place = index, place
        elif found >= 2:
            triangles[face + made, 0], triangles[face + made, 1], triangles[face + made, 2] = first, last, index
            places[face + made, 0], places[face + made, 1], places[face + made, 2] = first_place, last_place, place
            made += 1
        last, last_place = index, place
        found += 1
