"""Reads thousands of mutated files and says what became of them; exit code 1 at the first that ends in any other way.

    python -m tests.fuzz --scale 1 --seed 1

`make fuzz` calls this: recordings, manifests, safetensors headers, configs, bundle manifests, packs, ballots, locks, recipes, and requests of pages.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from qrecipe.errors import Place
from qrecipe.hashes import FileHashes
from qrecipe.inputs.fetch import resolve
from qrecipe.recipe.base import Base
from tests.support import fuzz, recipes
from tests.support.running import run_recipe


def main() -> int:
    """Prints one line a kind."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--scale", type=float, default=1.0)
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    warnings.filterwarnings("ignore")
    with tempfile.TemporaryDirectory(prefix="qrecipe-fuzz-") as name:
        folder = Path(name)
        mini = resolve(Base(model="builtin:mini"), folder, Place("fuzz"), FileHashes())
        weights = mini.folder
        (folder / "run").mkdir()
        recipe = recipes.write(folder / "run", recipes.recipe(stages=[recipes.stage(steps=1)]))
        outcome = run_recipe(recipe, folder)
        assert outcome.bundle is not None
        bundle = outcome.bundle
        kinds: dict[str, tuple[int, Callable[[Path], fuzz.Target]]] = {
            "recordings": (2400, fuzz.audio_files),
            "manifests": (1500, fuzz.manifests),
            "safetensors headers": (1500, fuzz.headers),
            "configs and tokenizers": (600, lambda f: fuzz.configs(f, weights)),
            "bundle manifests": (500, lambda f: fuzz.bundles(f, bundle)),
            "packs": (4000, fuzz.packs),
            "ballots": (3000, fuzz.ballots),
            "locks": (500, lambda f: fuzz.locks(f, recipe.with_suffix(".lock"))),
            "recipes": (500, fuzz.recipe_files),
        }
        files = 0
        for kind, (count, make) in kinds.items():
            place = folder / kind.replace(" ", "-")
            place.mkdir()
            began = time.monotonic()
            tally = make(place).run(round(count * given.scale), given.seed)
            files += tally.ends.total()
            print(f"{kind}: {tally}; {time.monotonic() - began:.0f} s", flush=True)
        (folder / "requests").mkdir()
        with fuzz.requests(folder / "requests") as target:
            tally = target.run(round(3000 * given.scale), given.seed)
            files += tally.ends.total()
            print(f"requests of pages: {tally}", flush=True)
        print(f"{files} files")
    return 0


if __name__ == "__main__":
    sys.exit(main())
