"""Where a package's published files lie and what they are called."""

from __future__ import annotations

import dataclasses
import os
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGES = ("gcs", "objectstore", "scheduler", "client", "rl")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """One package's sources, sdist and wheel."""

    folder: Path
    project: dict[str, Any]
    wheels: Path

    @property
    def distribution(self) -> str:
        """The name that pip knows."""
        return str(self.project["name"])

    @property
    def import_name(self) -> str:
        """The name that Python knows."""
        return self.distribution.replace("-", "_")

    @property
    def version(self) -> str:
        """The version in pyproject.toml."""
        return str(self.project["version"])

    @property
    def extras(self) -> list[str]:
        """The names of the optional dependency lists."""
        return list(self.project.get("optional-dependencies", {}))

    @property
    def source(self) -> Path:
        """The folder that holds the import package."""
        return self.folder / "src"

    @property
    def sdist(self) -> Path:
        """The only sdist."""
        return self._only(f"{self.import_name}-{self.version}.tar.gz")

    @property
    def wheel(self) -> Path:
        """The only wheel."""
        return self._only(f"{self.import_name}-{self.version}-*.whl")

    def _only(self, pattern: str) -> Path:
        (path,) = self.wheels.glob(pattern)
        return path


def artifact(package: str) -> Artifact:
    """The files of packages/<package>, as `tox -e artifacts` built them."""
    folder = ROOT / "packages" / package
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    return Artifact(folder=folder, project=project, wheels=Path(os.environ["ROSTRAL_WHEELS"]))
