"""`bundle build`: a bundle from stages that a run trained, without training."""

from __future__ import annotations

from pathlib import Path

from qrecipe.bundle.build import Content, build
from qrecipe.errors import BundleError, Place, Problem, suggest
from qrecipe.files import FileHashes
from qrecipe.plan.documents import Verdict
from qrecipe.plan.plan import make_plan, require_complete
from qrecipe.recipe import load
from qrecipe.run.locking import make_lock
from qrecipe.run.models import base_of_run, stages_delta
from qrecipe.run.store import RunStore


def rebuild(run_folder: Path, stages: list[str] | None, bundles: Path) -> Path:
    """Builds a bundle of some of a run's stages; default: those that it kept. Raises `UserError`."""
    store = RunStore(run_folder)
    place = Place(str(run_folder))
    hashes = FileHashes()
    base = base_of_run(store, place, hashes)
    latest = store.latest()
    assert latest is not None
    planned = make_plan(load(latest["file"], latest["sets"]), hashes)
    require_complete(planned)
    if planned.plan.hash != latest["plan"]:
        help_ = "run it again; what has not changed is reused"
        raise BundleError(Problem("QR060", "the recipe or its data changed since this run", Place(latest["file"]), help_))
    trained = {s["id"]: s for s in latest["stages"] if s["fingerprint"]}
    kept = [i for i, s in trained.items() if s["status"] == "kept"]
    wanted = kept if stages is None else stages
    for name in wanted:
        if name not in trained:
            raise BundleError(Problem("QR020", f"the run has no finished stage `{name}`", place, suggest(name, trained)))
    chosen = [s for s in latest["stages"] if s["id"] in wanted]
    accepted = latest["status"] == "accepted" and [s["id"] for s in chosen] == kept
    verdicts = {s["id"]: [Verdict.model_validate(v, strict=False) for v in s["verdicts"]] for s in chosen}
    if accepted:
        verdicts["accept"] = [Verdict.model_validate(v, strict=False) for v in latest["accept"]]
    content = Content(
        plan=planned.plan,
        base=base,
        delta=stages_delta(store, [latest["start"], *(s["fingerprint"] for s in chosen)], place),
        lock=make_lock(planned, base),
        recipe=planned.loaded.resolved(),
        stages=[
            {
                "id": s.id,
                "status": "kept" if s.id in wanted else trained[s.id]["status"] if s.id in trained and s.id not in kept else "skipped",
                "fingerprint": trained[s.id]["fingerprint"] if s.id in trained else None,
                "parameters": s.parameters if s.id in trained else None,
            }
            for s in planned.plan.stages
        ],
        verdicts=verdicts,
        survival={s["id"]: s["survives"] for s in chosen if s["survives"] is not None},
        accepted=accepted,
    )
    return build(content, bundles)
