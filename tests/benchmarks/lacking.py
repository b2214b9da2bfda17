"""
What the peers of the benchmarks lack on this machine: system libraries, by the packages that Debian has them in.

`make bench` asks first, for a benchmark that ends in the middle with a loader's traceback helps nobody.

    python -m tests.benchmarks.lacking
"""

import importlib
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path

PEERS = ("open3d", "point_cloud_utils", "embreex", "trimesh")
DEBIAN = {
    "libusb-1.0.so.0": "libusb-1.0-0",
    "libgomp.so.1": "libgomp1",
    "libGL.so.1": "libgl1",
    "libEGL.so.1": "libegl1",
    "libX11.so.6": "libx11-6",
    "libudev.so.1": "libudev1",
    "libtbb.so.12": "libtbb12",
    "libc++.so.1": "libc++1",
    "libc++abi.so.1": "libc++abi1",
}
SHARED = re.compile(r"(lib[\w.+-]+\.so[\w.]*): cannot open shared object file")


def lacking(peers: Iterable[str] = PEERS) -> dict[str, list[str]]:
    """Peer -> the system libraries that it cannot be loaded without; those that load are left out."""
    return {peer: sorted(found) for peer in peers if (found := _missing(peer))}


def _missing(peer: str) -> set[str]:
    try:
        importlib.import_module(peer)
    except (ImportError, OSError) as error:
        named = SHARED.search(str(error))
        if named is None:
            raise
        return {named[1], *_unlinked(peer)}  # the loader names the first one alone
    return set()


def _unlinked(peer: str) -> set[str]:
    """All libraries that a package's own link to and that are nowhere to be found."""
    spec = find_spec(peer)
    folders = [Path(folder) for folder in (spec.submodule_search_locations if spec else None) or ()]
    found = set[str]()
    for library in (path for folder in folders for path in folder.rglob("*.so*") if path.is_file()):
        said = subprocess.run(["ldd", str(library)], capture_output=True, encoding="utf-8").stdout
        found |= set(re.findall(r"^\s*(\S+) => not found", said, re.MULTILINE))
    return found


def remedy(found: Mapping[str, Iterable[str]]) -> str:
    """What to install, in a line that can be typed, and what has no name here."""
    libraries = sorted({name for names in found.values() for name in names})
    packages = [DEBIAN[name] for name in libraries if name in DEBIAN]
    others = [name for name in libraries if name not in DEBIAN]
    peers = f"{', '.join(found)} cannot be loaded without {', '.join(libraries)}."
    install = f" On Debian: apt-get install {' '.join(packages)}" if packages else ""
    return peers + install + (f" and what has {', '.join(others)}" if others else "")


def main() -> int:
    found = lacking()
    if found:
        print(f"make bench: {remedy(found)}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
