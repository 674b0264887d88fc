"""How a run and its stages went: values, and the record that a run's folder holds. Never imports torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import PlainSerializer

from qrecipe.errors import Place, Problem, UserError
from qrecipe.files import read_json, write_json
from qrecipe.inputs.documents.bundle import BundleStage
from qrecipe.inputs.documents.verdicts import Verdict
from qrecipe.plan.complete import RunPlan
from qrecipe.recipe.model import Settings

RECORD = "run.json"

Status = Literal["kept", "reverted", "failed", "skipped"]
RunStatus = Literal["accepted", "rejected", "stopped", "until"]
Rounded = Annotated[list[Verdict], PlainSerializer(lambda verdicts: [v.as_json() for v in verdicts])]
"""Verdicts whose numbers are written as verdicts.json has them."""


class StageOutcome(Settings):
    """How a stage went."""

    id: str
    status: Status
    fingerprint: str | None = None
    """None if it was skipped."""
    parameters: int | None = None
    verdicts: Rounded = []
    survives: float | None = None
    """Share of what changed that survives rounding to the base's number format."""

    def as_json(self) -> dict[str, Any]:
        """For the last line of the command line's output."""
        return self.model_dump(mode="json", include={"id", "status", "verdicts"})

    def for_bundle(self) -> BundleStage:
        """For the bundle's manifest."""
        return BundleStage(id=self.id, status=self.status, fingerprint=self.fingerprint, parameters=self.parameters)


@dataclass
class Outcome:
    """How a run went."""

    status: RunStatus
    """`until`: the run ended after the stage that `--until` names, before `accept`."""
    bundle: Path | None
    stages: list[StageOutcome]
    accept: list[Verdict]
    seconds: dict[str, float] = field(default_factory=dict)
    """Where the time went, by phase."""

    @property
    def exit_code(self) -> int:
        """0 for an accepted bundle or a run that ended where it was told to, 3 where a gate did not pass."""
        return 0 if self.status in ("accepted", "until") else 3

    def as_json(self) -> dict[str, Any]:
        """The last line of the command line's output."""
        return {
            "status": self.status,
            "bundle": str(self.bundle) if self.bundle else None,
            "stages": [s.as_json() for s in self.stages],
            "accept": [v.as_json() for v in self.accept],
            "seconds": self.seconds,
        }


class RecordedBase(Settings):
    """The base of a run, as the recipe names it."""

    model: str
    revision: str | None
    folder: str


class RunRecord(Settings):
    """run.json: how far the last run of a folder came. Read by `runs/NAME@STAGE`, `bundle build`, `gc` and completion."""

    recipe: str
    status: RunStatus | Literal["running"]
    file: str
    """The recipe's file."""
    sets: list[str]
    """Values that `--set` changed."""
    start: str
    """Fingerprint of the base with the new rows at their init."""
    training: str | None = None
    """Fingerprint of the stage that is being trained."""
    plan: str
    """Hash of the plan."""
    base: RecordedBase
    languages: dict[str, int]
    """Row of every language that the recipe adds."""
    tags: dict[str, str] = {}
    """Their BCP 47 tags."""
    stages: list[StageOutcome]
    """Stages that are over, in order."""
    accept: Rounded

    @property
    def results(self) -> dict[str, str]:
        """Fingerprints of the stages that have a result, by name, in order."""
        return {s.id: s.fingerprint for s in self.stages if s.fingerprint is not None}

    @property
    def kept(self) -> list[str]:
        """Names of the stages whose result went into the bundle, or would."""
        return [s.id for s in self.stages if s.id in self.results and s.status == "kept"]

    def write(self, folder: Path) -> None:
        """Replaces the record of a run's folder."""
        write_json(folder / RECORD, self.model_dump(mode="json"))


def record_of(
    plan: RunPlan, stages: list[StageOutcome], status: RunStatus | Literal["running"], accept: list[Verdict], training: str | None
) -> RunRecord:
    """The record of a run that came so far."""
    base = plan.loaded.recipe.base
    return RunRecord(
        recipe=plan.plan.recipe,
        status=status,
        file=str(plan.loaded.file),
        sets=list(plan.loaded.sets),
        start=plan.start,
        training=training,
        plan=plan.plan.hash,
        base=RecordedBase(model=base.model, revision=base.revision, folder=str(plan.base.folder)),
        languages=plan.rows,
        tags={k: v.bcp47 for k, v in plan.plan.languages.items()},
        stages=stages,
        accept=accept,
    )


def read_record(folder: Path) -> RunRecord | None:
    """The record of a run's folder; None if there is none that this version can read."""
    try:
        return RunRecord.model_validate(read_json(folder / RECORD), strict=False)  # JSON has no tuples
    except (OSError, ValueError):  # a `ValidationError` is a `ValueError`
        return None


def require_record(folder: Path) -> RunRecord:
    """Like `read_record`. Raises `UserError` where there is none."""
    record = read_record(folder)
    if record is None:
        help_ = None
        if (folder / RECORD).is_file():
            help_ = f"{RECORD} is damaged or of another version: run the recipe again; what has not changed is reused"
        raise UserError(Problem("QR070", "this folder holds no run", Place(str(folder)), help_))
    return record
