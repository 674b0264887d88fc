"""How a run and its stages went, as values. Never imports torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from qrecipe.plan.documents import Verdict

Status = Literal["kept", "reverted", "failed", "skipped"]
RunStatus = Literal["accepted", "rejected", "stopped", "until"]


@dataclass
class StageOutcome:
    """How a stage went."""

    id: str
    status: Status
    verdicts: list[Verdict] = field(default_factory=list)
    fingerprint: str | None = None
    parameters: int | None = None
    survives: float | None = None

    def as_json(self) -> dict[str, Any]:
        """For the last line of the command line's output."""
        return {"id": self.id, "status": self.status, "verdicts": [v.as_json() for v in self.verdicts]}

    def for_bundle(self) -> dict[str, Any]:
        """For the bundle's manifest."""
        return {"id": self.id, "status": self.status, "fingerprint": self.fingerprint, "parameters": self.parameters}


@dataclass
class Outcome:
    """How a run went."""

    status: RunStatus
    """`until`: the run ended after the stage that `--until` names, before `accept`."""
    bundle: Path | None
    stages: list[StageOutcome]
    accept: list[Verdict]

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
        }
