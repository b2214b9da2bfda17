"""
Lays the wheel out as a clone is, in a folder of its own that a .pth file puts on the path.

Keys, plans and `submit` take what lies below the project's root for the project's: in site-packages itself that would
be every package. constraints.txt goes along, for it is in keys, and results/, which `rayfield families` shows.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

FOLDER = "rayfield_project"
ALONG = ("constraints.txt", ".gitignore", *sorted(map(str, Path("results").glob("*.json"))))


class Project(build_py):
    """The packages below FOLDER; an editable installation is the clone itself."""

    def run(self) -> None:
        if self.editable_mode:
            return super().run()
        lib = Path(self.build_lib)
        shutil.rmtree(lib, ignore_errors=True)  # of another build: what was deleted since would go along
        super().run()
        built = list(lib.iterdir())
        (lib / FOLDER / "results").mkdir(parents=True)
        for path in built:
            path.rename(lib / FOLDER / path.name)
        for name in ALONG:
            shutil.copy(name, lib / FOLDER / name)
        (lib / f"{FOLDER}.pth").write_text(f"{FOLDER}\n", encoding="utf-8")


setup(cmdclass={"build_py": Project})
