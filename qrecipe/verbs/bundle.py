"""`bundle build`: a bundle from stages that a run trained, without training."""

from __future__ import annotations

from pathlib import Path

from qrecipe.bundle.build import BundleContent, build
from qrecipe.errors import BundleError, Place, Problem, suggest
from qrecipe.inputs.documents.bundle import BundleStage
from qrecipe.plan.complete import RunPlan
from qrecipe.run.locking import make_lock
from qrecipe.run.models import stages_delta
from qrecipe.run.record import RunRecord
from qrecipe.run.store import RunStore


def rebuild(plan: RunPlan, run_folder: Path, record: RunRecord, stages: list[str] | None, bundles: Path) -> Path:
    """Builds a bundle of some of a run's stages; default: those that it kept. Raises `UserError`.

    `plan` is the plan of the recipe that `record`, the run's own, names.
    """
    place = Place(str(run_folder))
    if plan.plan.hash != record.plan:
        help_ = "run it again; what has not changed is reused"
        raise BundleError(Problem("QR060", "the recipe or its data changed since this run", Place(record.file), help_))
    wanted = record.kept if stages is None else stages
    for name in wanted:
        if name not in record.results:
            raise BundleError(Problem("QR020", f"the run has no finished stage `{name}`", place, suggest(name, record.results)))
    chosen = [s for s in record.stages if s.id in wanted]
    accepted = record.status == "accepted" and [s.id for s in chosen] == record.kept
    content = BundleContent(
        plan=plan.plan,
        base=plan.base,
        delta=stages_delta(RunStore(run_folder), [record.start, *(record.results[s.id] for s in chosen)], place),
        lock=make_lock(plan),
        recipe=plan.loaded.resolved(),
        stages=[_as_built(record, name.id, wanted) for name in plan.plan.stages],
        verdicts={s.id: s.verdicts for s in chosen} | ({"accept": record.accept} if accepted else {}),
        survival={s.id: s.survives for s in chosen if s.survives is not None},
        accepted=accepted,
        replacements=plan.replacements,
    )
    return build(content, bundles)


def _as_built(record: RunRecord, name: str, wanted: list[str]) -> BundleStage:
    """A stage as it is in the bundle that is built, not as it went in the run."""
    outcome = next((s for s in record.stages if s.id == name and s.fingerprint is not None), None)
    if outcome is None:
        return BundleStage(id=name, status="skipped", fingerprint=None, parameters=None)
    if name in wanted:
        status = "kept"
    elif outcome.status == "kept":
        status = "skipped"
    else:
        status = outcome.status
    return BundleStage(id=name, status=status, fingerprint=outcome.fingerprint, parameters=outcome.parameters)
