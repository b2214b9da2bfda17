"""
Bytes by address: a path, or anything that fsspec knows. Whatever is read or written there goes through here.

A server that fails or does not answer is asked again, here and nowhere else: the clients' own retries are off. Two of
them, one inside the other, would wait for minutes, and a `create` that was tried again out of our sight could not tell
its own success from another's.
"""

import functools
import os
import random
import socket
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from components.errors import RayfieldError, UsageError
from components.runtime.crash_points import point

T = TypeVar("T")

FIRST = 5.0
"""seconds of waiting, in all, for a server that has not answered yet: its address may be wrong"""
PATIENCE = 120.0
"""seconds of waiting for one that has: it is restarting, or the network is"""
AGAIN = (408, 409, 429)
"""HTTP statuses below 500 that ask to try again; 409 is two conditional writes at once"""

_answered: set[str] = set()
sleep = time.sleep


class Unreachable(RayfieldError, ConnectionError):
    """A store's server does not answer, or fails again and again: what was done is safe, and the rest continues."""

    code = 5


@dataclass(frozen=True)
class Entry:
    """A file under a folder."""

    name: str
    """its path below the folder"""
    size: int
    when: float
    """seconds since the epoch; 0 if the place does not say"""


def is_remote(address: str) -> bool:
    return "://" in address and not address.startswith("file://")


def absolute(address: str) -> str:
    """The same place from whatever folder: workers of Ray Train and Tune have folders of their own."""
    if is_remote(address):
        return address
    path = _path(address)
    # through a link, `..` is another folder than its letters say
    return str(path.resolve() if ".." in path.parts else path.absolute())


PORTS = {"ftp": 21, "sftp": 22, "ssh": 22, "hdfs": 8020, "webhdfs": 50070, "smb": 445, "http": 80, "https": 443}
"""of servers whose clients wait for minutes, or for ever"""


def check(address: str) -> None:
    """Looks once at a place that is on no disk of ours: whatever is wrong with it is said in one line, in seconds."""
    if not is_remote(address):
        return
    if why := _silent(address):
        raise Unreachable(
            f"{_server(address)} must answer, but {why}. Run again when it does, or pass another --store."
        )
    try:
        names(address)
    except RayfieldError:
        raise
    except ImportError as error:
        raise UsageError(f"--store {address} needs a package that is not here: {_said(error)}.") from None
    except Exception as error:
        if type(error).__module__.startswith("botocore"):  # of keys: the command line knows what to do
            raise
        if is_transient(error):
            from components.runtime import reachability

            raise Unreachable(
                f"{_server(address)} must answer, but {reachability.words(error)}. Run again when it does."
            ) from error
        raise RayfieldError(
            f"{_server(address)} must open the store {address}, but says {type(error).__name__}: {_said(error)}. Check "
            "the address, and the credentials that its client reads."
        ) from error


def _silent(address: str) -> str:
    """Why no server answers at an address, where that can be asked without its client."""
    from components.runtime import reachability  # with ssl and http: a third of what a command with nothing to do takes

    protocol = address.partition("://")[0].rpartition("::")[2]
    if protocol in ("s3", "s3a"):
        endpoint = _endpoint()
        return reachability.silent_http(endpoint) if endpoint else ""
    parts = urlsplit(address.rpartition("::")[2])
    if protocol not in PORTS or not parts.hostname:
        return ""
    port = parts.port or PORTS[protocol]
    if protocol in ("http", "https"):
        return reachability.silent_http(address)
    if protocol == "webhdfs":
        return reachability.silent_http(f"http://{parts.hostname}:{port}/webhdfs/v1/?op=LISTSTATUS")
    return reachability.refused(parts.hostname, port)


def _endpoint() -> str:
    """The server of S3 that FSSPEC_S3 or AWS's variables name; empty for Amazon's own."""
    import fsspec

    said = fsspec.config.conf.get("s3", {})
    named = said.get("endpoint_url") or said.get("client_kwargs", {}).get("endpoint_url")
    return named or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""


def _server(address: str) -> str:
    return "/".join(address.split("/")[:3])


def _said(error: BaseException) -> str:
    return " ".join(str(error).split())[:200].rstrip(".")


def read(address: str) -> bytes | None:
    """The bytes at an address; None if there are none."""
    with suppress(FileNotFoundError, NotADirectoryError):
        if not is_remote(address):
            return _path(address).read_bytes()
        system, path = _system(address)
        return _patiently(address, lambda: bytes(system.cat_file(path)))
    return None


def look(address: str) -> Entry | None:
    """Stat an address without reading it; None if there is nothing."""
    name = address.rpartition("/")[2]
    with suppress(FileNotFoundError, NotADirectoryError):
        if not is_remote(address):
            said = _path(address).stat()
            return Entry(name, said.st_size, said.st_mtime)
        system, path = _system(address)
        found = _patiently(address, lambda: system.info(path))
        return Entry(name, int(found["size"] or 0), _when(found))
    return None


def touch(address: str, data: bytes) -> None:
    """Says of bytes that are there already that somebody needs them: they are as young as if just written."""
    if is_remote(address):
        return write(address, data)
    try:
        os.utime(_path(address))
    except (FileNotFoundError, PermissionError):  # removed in this moment, or another user's: ours takes its place
        write(address, data)


def write(address: str, data: bytes) -> None:
    """Puts bytes at an address, all of them or none, whatever was there."""
    if not is_remote(address):
        return write_atomically(_path(address), data)
    system, path = _system(address)
    return _patiently(address, lambda: system.pipe_file(path, data))


def create(address: str, data: bytes) -> bool:
    """Puts bytes where there are none. False, and nothing is changed, if there are some."""
    if not is_remote(address):
        return _create_local(_path(address), data)
    system, path = _system(address)
    unsure = False

    def attempt() -> bool:
        nonlocal unsure
        try:
            system.pipe_file(path, data, mode="create")
            return True
        except Exception as error:
            if _is_refusal(error):
                # a time-out may come after success: what is there is ours if it says what we say
                return unsure and any(bytes(system.cat_file(path)) == data for _ in range(3))
            unsure = unsure or is_transient(error)
            raise

    return _patiently(address, attempt)


def _create_local(path: Path, data: bytes) -> bool:
    temporary = path.with_name(f".part-{os.getpid()}-{uuid.uuid4().hex}")
    write_atomically(temporary, data)
    point("places: the bytes of a new name are beside it")
    try:
        os.link(temporary, path)  # a link fails if the name is taken, and shows all of the bytes or none
        point("places: a new name has its bytes, the part beside it remains")
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
    return True


def delete(address: str) -> None:
    """Removes what is at an address, if there is anything."""
    with suppress(FileNotFoundError):
        if not is_remote(address):
            _path(address).unlink()
        else:
            system, path = _system(address)
            _patiently(address, lambda: system.rm_file(path))


def delete_old(address: str, when: float) -> bool:
    """Removes what was not written or touched after a moment. Whether it did."""
    if is_remote(address):
        found = look(address)
        if found is None or found.when > when:
            return False
        delete(address)
        return True
    path = _path(address)
    aside = path.with_name(f".gone-{uuid.uuid4().hex}")
    try:
        path.rename(aside)  # from here on nobody can make it young again
    except FileNotFoundError:
        return False
    young = aside.stat().st_mtime > when
    if young:
        with suppress(FileExistsError):  # it was made anew in this moment
            os.link(aside, path)
    aside.unlink()
    return not young


def prune(folder: str) -> None:
    """Removes the empty folders under a folder of a disk; a bucket has none."""
    if is_remote(folder):
        return
    for inner, _, _ in os.walk(_path(folder), topdown=False):
        with suppress(OSError):  # it is not empty
            os.rmdir(inner)


def names(folder: str) -> list[str]:
    """The names directly under a folder; a bucket's listing may be older than its contents."""
    with suppress(FileNotFoundError, NotADirectoryError):
        if not is_remote(folder):
            return sorted(p.name for p in _path(folder).iterdir() if not p.name.startswith("."))
        system, path = _system(folder)
        found = _patiently(folder, lambda: system.ls(path, detail=False, refresh=True))
        return sorted(one.rstrip("/").rpartition("/")[2] for one in found if one.rstrip("/") != path.rstrip("/"))
    return []


def walk(folder: str) -> Iterator[Entry]:
    """Every file under a folder, however deep; unfinished writes (.part-) too."""
    if not is_remote(folder):
        for inner, _, files in os.walk(_path(folder)):
            for name in files:
                with suppress(FileNotFoundError):  # removed while we look
                    path = Path(inner) / name
                    said = path.stat()
                    yield Entry(str(path.relative_to(_path(folder))), said.st_size, said.st_mtime)
        return
    system, base = _system(folder)
    with suppress(FileNotFoundError):
        for path, said in _patiently(folder, lambda: system.find(base, detail=True)).items():
            yield Entry(path.removeprefix(base).lstrip("/"), int(said["size"] or 0), _when(said))


def _when(said: dict[str, Any]) -> float:
    moment = said.get("LastModified") or said.get("last_modified") or said.get("mtime") or said.get("created")
    return moment.timestamp() if isinstance(moment, datetime) else float(moment or 0)


@functools.cache
def creates_once(folder: str) -> bool:
    """True if a place refuses to create what exists: leases and manifests rest on it. A process asks once."""
    if not is_remote(folder):
        return True
    address = f"{folder}/probe/{uuid.uuid4().hex}"
    try:
        return create(address, b"the first") and not create(address, b"the second")
    except (TypeError, ValueError, NotImplementedError):  # a file system that knows no such mode
        return False
    finally:
        delete(address)


def write_atomically(path: Path, data: bytes) -> None:
    """All of the bytes or none: a reader never sees a part, and a crash leaves no part behind under that name."""
    handle, temporary = _part(path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        point("places: bytes are written, under no name")
        os.replace(temporary, path)
        point("places: bytes are under their name")
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _part(folder: Path) -> tuple[int, str]:
    """
    A new file in a folder, which `prune` may remove between its making and ours.

    Its mode follows the umask: `mkstemp` gives 0600, and a team could not read its own store.
    """
    for _ in range(5):
        folder.mkdir(parents=True, exist_ok=True)
        path = str(folder / f".part-{uuid.uuid4().hex}")
        with suppress(FileNotFoundError):
            return os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666), path
    raise FileNotFoundError(2, "No such file or directory", str(folder))


def _path(address: str) -> Path:
    return Path(address.removeprefix("file://"))


def _system(address: str) -> tuple[Any, str]:
    """The file system of an address, and the path in it."""
    import fsspec

    protocol, options = address.partition("://")[0], {}
    if protocol in ("s3", "s3a"):
        own = fsspec.config.conf.get("s3", {}).get("config_kwargs", {})
        once = {"retries": {"total_max_attempts": 1}, "connect_timeout": 3, "read_timeout": 60}
        # one connection a file: with several, s3fs asks for the size before it reads, and most files here are small
        options = {"config_kwargs": {**once, **own}, "max_concurrency": 1, "use_listings_cache": False}
    if protocol == "ftp":
        options = {"timeout": 8}  # its own 30 s are more than people wait for a word
    system, path = fsspec.core.url_to_fs(address, **options)
    if hasattr(system, "retries"):
        system.retries = 1
    return system, path


def _patiently(address: str, call: Callable[[], T]) -> T:
    """Calls until it works, while what goes wrong is the network's or the server's."""
    place, waited, pause = _server(address), 0.0, 0.1
    while True:
        began = time.monotonic()
        try:
            result = call()
            _answered.add(place)
            return result
        except Exception as error:
            if not is_transient(error):
                _answered.add(place)
                raise
            waited += time.monotonic() - began
            patience = PATIENCE if place in _answered else FIRST
            if waited >= patience:
                raise Unreachable(
                    f"{place} must answer, but after {waited:.0f} s: {_said(error)}. Run again when it does."
                ) from error
            if waited < 1 <= waited + pause:
                print(f"  {place} does not answer; it is asked again for {patience:.0f} s", file=sys.stderr)
            sleep(pause * random.uniform(0.5, 1))  # not all workers at one moment
            waited, pause = waited + pause, min(2 * pause, 8.0)


def is_transient(error: BaseException) -> bool:
    """True if the same call may work in a moment."""
    if isinstance(error, RayfieldError):
        return False
    if isinstance(error, (ConnectionError, TimeoutError, socket.gaierror, *_network_errors())):
        return True
    response = getattr(error.__cause__, "response", None) or {}
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return status >= 500 or status in AGAIN


def _network_errors() -> tuple[type[BaseException], ...]:
    """Errors by which botocore, requests and aiohttp tell of a broken connection. None is imported for it."""
    found: list[type[BaseException]] = []
    if botocore := sys.modules.get("botocore.exceptions"):
        found += [botocore.ConnectionError, botocore.HTTPClientError]
    if parsers := sys.modules.get("botocore.parsers"):
        found.append(parsers.ResponseParserError)
    if requests := sys.modules.get("requests.exceptions"):
        found += [requests.ConnectionError, requests.Timeout]
    if aiohttp := sys.modules.get("aiohttp"):
        found.append(aiohttp.ClientError)
    return tuple(found)


def _is_refusal(error: BaseException) -> bool:
    """True if a create was refused since the name is taken: S3 says 412, and s3fs makes EINVAL of it at times."""
    response = getattr(error.__cause__, "response", None) or {}
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return isinstance(error, FileExistsError) or status == 412
