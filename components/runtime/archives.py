"""
Archives that strangers made: read with limits, into memory, and never unpacked by their own names.

A member whose name climbs out of its folder, or that is a link, is refused, and so is what would unpack to more than
it may.
"""

import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import PurePosixPath

from components.errors import DataError

MOST = 1 << 30  # bytes that one archive, or one member of a zip, may unpack to
HEADER = 60  # bytes before each member of an ar archive


def member_of_ar(data: bytes, prefix: str) -> bytes:
    """The first member of an `ar` archive, such as a .deb, whose name begins so."""
    at = 8
    while data[:at].startswith(b"!<arch>\n") and at + HEADER <= len(data):
        name, told = data[at : at + 16].decode("latin-1").strip(), data[at + 48 : at + 58].strip()
        size, begin = int(told) if told.isdigit() else -1, at + HEADER
        if size < 0 or begin + size > len(data):
            raise DataError(f"An archive's members lie inside it, but {name} says that it has {told!r} bytes.")
        if name.startswith(prefix):
            return data[begin : begin + size]
        at = begin + size + size % 2
    raise DataError(f"The archive must have a member {prefix}, but has none: it is cut short, or another file.")


def unxz(data: bytes, most: int | None = None) -> bytes:
    """Decompress .xz; refuse more than the limit, which is never decompressed."""
    most = MOST if most is None else most
    try:
        stream = lzma.LZMADecompressor(memlimit=1 << 30)
        found = stream.decompress(data, most + 1)
    except lzma.LZMAError as error:
        raise DataError(f"The archive must be xz, but it is not, or it is damaged: {error}.") from None
    if len(found) > most:
        raise DataError(_too_much("The archive", most))
    if not stream.eof:
        raise DataError("The archive is cut short. Get it again.")
    return found


def tar_members(data: bytes, suffix: str) -> Iterator[tuple[str, bytes]]:
    """Name, without its folders, and bytes of each file in a tar whose name ends so."""
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            for member in archive:
                if member.name.endswith(suffix):
                    yield _plain(member), _content(archive, member)
    except tarfile.TarError as error:
        raise DataError(f"The archive must be a tar, but it is not, or it is damaged: {error}.") from None


def _plain(member: tarfile.TarInfo) -> str:
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts:
        raise DataError(f"An archive's names stay in its folder, but {member.name!r} leads out of it.")
    if not member.isfile():
        raise DataError(f"The archive's {member.name!r} must be a file, but it is a link or a device.")
    return path.name


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = archive.extractfile(member)
    assert stream is not None  # `_plain` has seen that it is a file
    return stream.read()


def read_member(archive: zipfile.ZipFile, name: str, most: int | None = None) -> bytes:
    """The bytes of a zip's member, if they are no more than they may be; reading stops at the size that it says."""
    most = MOST if most is None else most
    try:
        if archive.getinfo(name).file_size > most:
            raise DataError(_too_much(name, most))
        return archive.read(name)
    except KeyError:
        raise DataError(f"{archive.filename} has no {name}: it is cut short, or another file.") from None
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise DataError(f"{archive.filename} is damaged at {name}: {error}. Get it again.") from None


def _too_much(what: str, most: int) -> str:
    return f"{what} unpacks to more than {most >> 20} MiB, which nothing here needs: it is refused."
