"""Computation and estimated cost of every stage of a plan. Shown beside a plan, never part of it."""

from __future__ import annotations

from dataclasses import replace

from qrecipe.hashes import FileHashes
from qrecipe.inputs.durations import lengths
from qrecipe.inputs.manifest import Manifest
from qrecipe.inputs.weight_files import weight_files
from qrecipe.plan.compute import Compute, Volume, compute
from qrecipe.plan.planned import Planned
from qrecipe.plan.synthetic import frames_of_text
from qrecipe.plan.values import PlannedStage
from qrecipe.qwen3 import FRAMES_PER_SECOND
from qrecipe.recipe.stage import RewardStage, Stage

SPEECH_TOKENIZER = 682_293_092
"""Bytes of the published bases' speech tokenizer, where the base is not on this machine."""


def estimates(planned: Planned, hashes: FileHashes) -> dict[str, Compute]:
    """By stage, without those that do not run the talker; empty while the base's shapes are not known."""
    base = planned.base
    if base.tensors is None:
        return {}
    tokenizer = SPEECH_TOKENIZER
    if base.folder is not None:
        tokenizer = sum(f.stat().st_size for f in weight_files(base.folder / "speech_tokenizer"))
    computed = {}
    for stage, resolved in zip(planned.loaded.recipe.stages, planned.plan.stages, strict=True):
        volume = _volume(stage, resolved, planned, hashes)
        computed[stage.id] = compute(stage, planned.trainables[stage.id], base.tensors, volume, tokenizer)
    return {stage: c for stage, c in computed.items() if c is not None}


def _volume(stage: Stage, resolved: PlannedStage, planned: Planned, hashes: FileHashes) -> Volume | None:
    """One epoch of a stage: its own rows, and as much of the others as their shares ask for."""
    own = [u for u in stage.uses if u.share is None]
    rest = 1.0 - sum(u.share for u in stage.uses if u.share is not None)
    if rest <= 0 or any(u.dataset not in planned.manifests for u in own):
        return None
    synthetic: dict[str, float] = {t.dataset: t.frames for t in resolved.taught}
    samples = 1
    if isinstance(stage, RewardStage):  # what it learns from is spoken, every sentence several times
        samples, texts = stage.samples, {u.dataset: planned.manifests[u.dataset].rows for u in own}
        synthetic = {name: sum(frames_of_text(r.text) for r in rows) for name, rows in texts.items()}
    text, recipe = stage.objective == "text_lm", planned.loaded.recipe
    parts = [_read(planned.manifests[u.dataset], hashes, text, synthetic.get(u.dataset)) for u in own]
    leads = [0 if text else recipe.lead(recipe.datasets[u.dataset].language) for u in own]
    known = [replace(p, frames=p.frames + lead * p.rows) for p, lead in zip(parts, leads, strict=True) if p is not None]
    if len(known) < len(parts):
        return None
    rows, frames, tokens = (samples * sum(getattr(v, k) for v in known) / rest for k in ("rows", "frames", "tokens"))
    return Volume(round(rows), frames, tokens)


def _read(manifest: Manifest, hashes: FileHashes, text: bool, synthetic: float | None) -> Volume | None:
    """`synthetic` are the frames that the base is expected to make of the texts."""
    if manifest.token_counts is None:
        return None
    tokens = sum(manifest.token_counts)
    if text or synthetic is not None:
        return Volume(len(manifest.rows), tokens if synthetic is None else synthetic, tokens)
    seconds = list(lengths(manifest.rows, hashes))
    known = [n for n in seconds if n is not None]
    return Volume(len(known), sum(known) * FRAMES_PER_SECOND, tokens) if len(known) == len(seconds) else None
