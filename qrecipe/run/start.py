"""The start of a run: new languages get their rows, datasets are encoded, losses are checked against the recordings."""

from __future__ import annotations

from qrecipe.model.forward import Tables
from qrecipe.model.languages import require_free
from qrecipe.model.weights import Delta
from qrecipe.model.working import WorkingWeights, with_languages
from qrecipe.phases import phase
from qrecipe.plan.complete import RunPlan
from qrecipe.qwen3 import PromptKind
from qrecipe.run.datasets import needed, prepare_all, read_judges, with_leads
from qrecipe.run.session import RunSession, Session, recipe_evaluators
from qrecipe.run.store import HEARD, RunStore
from qrecipe.run.synthetic import prepare_synthetic, spoken_judges
from qrecipe.train import selfcheck


def start_run(session: Session, plan: RunPlan, store: RunStore) -> RunSession:
    """Adds the languages and encodes the data. Raises `UserError`."""
    working = WorkingWeights(session.opened)
    start = _add_languages(session, plan, working)
    store.save_stage(plan.start, start, {"stage": None})
    session.events.emit("languages", rows={k: plan.rows[k] for k in plan.loaded.recipe.languages})
    data = prepare_all(plan, session, needed(plan))
    data.speech = with_leads(plan, session, data.speech)
    data.speech |= prepare_synthetic(plan, session, spoken_judges(plan)) | read_judges(plan, session)
    evaluators = recipe_evaluators(session, plan, store.folder / HEARD)
    return RunSession(**vars(session), plan=plan, store=store, working=working, start=start, data=data, evaluators=evaluators)


def _add_languages(session: Session, plan: RunPlan, working: WorkingWeights) -> Delta:
    """New rows at their init, and the languages in the config in memory, as the bundle's config will have them."""
    net, listed, languages = session.opened.net, session.base.languages, plan.loaded.recipe.languages
    for key, language in languages.items():
        require_free(net, plan.rows[key], listed, plan.loaded.node.at("languages", key).name_place, language.token_id == "auto")
    return with_languages(working, listed, {key: (plan.rows[key], language) for key, language in languages.items()})


@phase("self-check")
def check_alignment(session: RunSession) -> None:
    """Compares losses on recordings with those at shifted labels: a misaligned engine must not train. Raises `EngineError`."""
    speech, opened = session.data.speech, session.opened
    trained = [n for n in speech if n in session.recipe.trained_datasets()]
    usable = trained + session.recipe.spoken_judges()
    if not usable:
        session.events.emit("self_check", verdict="skipped", reason="the recipe trains on text alone", losses=[])
        return
    # a language that the base knows tells most; in a new one even aligned losses are high
    known = [n for n in usable if speech[n].language in session.base.languages] or usable
    data = speech[known[0]]
    row = opened.language_row(data.language)
    kind: PromptKind | None = None if data.reference_codes else "x_vector"
    examples = [data.example(r, row, "streaming", kind, opened.tokenizer) for r in data.rows[: selfcheck.ROWS]]
    losses = selfcheck.measure(opened, Tables(opened.talker), examples)
    verdict = next((v for v in ("failed", "skipped") if any(a.verdict == v for a in losses)), "passed")
    reason = "the base predicts these recordings too poorly to tell" if verdict == "skipped" else None
    session.events.emit("self_check", verdict=verdict, reason=reason, losses=[str(a) for a in losses])
    selfcheck.require(losses)
