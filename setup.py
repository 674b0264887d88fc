"""Copies into the package what lies elsewhere in a checkout and is needed without one. All else is in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SHIPPED = ["recipes/templates/*.yaml", "docs/problems.md"]


class BuildWithShipped(build_py):
    """Puts them into `qrecipe/shipped`, where `qrecipe.shipped` looks for them."""

    def run(self) -> None:
        """Builds the package and adds the copies."""
        super().run()
        if self.editable_mode:
            return
        for pattern in SHIPPED:
            for file in sorted(Path(__file__).parent.glob(pattern)):
                target = Path(self.build_lib) / "qrecipe" / "shipped" / file.parent.name / file.name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target)


setup(cmdclass={"build_py": BuildWithShipped})
