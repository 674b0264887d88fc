"""Plans that can be carried out: the base is on this machine and its content known, and no problem is left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from qrecipe.files import digest
from qrecipe.hashes import FileHashes
from qrecipe.inputs.bases import LocalBase, folder_identity
from qrecipe.inputs.fetch import resolve
from qrecipe.plan.plan import make_plan
from qrecipe.plan.planned import Planned, require_complete, require_data
from qrecipe.recipe import LoadedRecipe
from qrecipe.recipe.synthetic import voices


@dataclass
class RunPlan(Planned):
    """A complete plan: what `run`, `prepare` and `bundle build` carry out. They never plan themselves."""

    base: LocalBase
    hashes: FileHashes = field(default_factory=FileHashes)
    """File hashes that the plan was made with."""

    @property
    def start(self) -> str:
        """Fingerprint of the base with the new rows at their init."""
        return digest(self.plan.start)

    @property
    def rows(self) -> dict[str, int]:
        """Row of every language that the recipe adds."""
        return {k: v.token_id for k, v in self.plan.languages.items() if v.token_id is not None}

    @property
    def voices(self) -> list[Path]:
        """Recordings in whose voices sentences without recordings are spoken."""
        return [self.loaded.path(text) for text in voices(self.loaded.recipe)]

    def fingerprint(self, stage: int, before: str) -> str:
        """Fingerprint of a stage that starts from `before`, which differs from the planned state after a stage was reverted."""
        return digest(self.plan.stages[stage].inputs._replace(before=before))


def complete_plan(loaded: LoadedRecipe, tell: Callable[[str], None] | None = None) -> RunPlan:
    """Plans a recipe so that it can be carried out. Raises `UserError`.

    The base is fetched if need be, but not for a recipe with other problems. `tell` hears of it before, since that may
    take minutes.
    """
    hashes = FileHashes()
    planned = make_plan(loaded, hashes)
    require_data(planned)
    if tell is not None and planned.plan.base.identity is None:
        tell(f"getting and reading the base {planned.plan.base.model}")
    base = resolve(loaded.recipe.base, loaded.root, loaded.node.at("base", "model").place, hashes)
    if planned.plan.base.identity != base.identity:  # was not known before the base was here
        planned = make_plan(loaded, hashes)
    require_complete(planned)
    return RunPlan(**{**vars(planned), "base": base, "hashes": hashes})


def as_complete(planned: Planned) -> RunPlan | None:
    """The plan as one that can be carried out; None while the base or some data is not on this machine."""
    if not planned.plan.complete or not isinstance(planned.base, LocalBase):
        return None
    return RunPlan(**vars(planned))


def with_identity(planned: Planned, hashes: FileHashes, strict: bool = False) -> Planned:
    """The plan that knows its base's content if that is in a folder here, however much there is to read: locks hold it."""
    if planned.base.identity is not None or planned.base.folder is None:
        return planned
    folder_identity(planned.base.folder, hashes)  # remembered, so that the next plan knows it
    return make_plan(planned.loaded, hashes, strict)
