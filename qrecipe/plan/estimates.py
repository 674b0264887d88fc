"""What every stage of a plan computes and about what it costs. Shown beside a plan, never part of it."""

from __future__ import annotations

from qrecipe.builtin import mini
from qrecipe.files import FileHashes
from qrecipe.plan.bases import BUILTIN, weight_files
from qrecipe.plan.compute import Compute, Volume, compute
from qrecipe.plan.durations import FRAMES_PER_SECOND, seconds
from qrecipe.plan.manifest import Manifest
from qrecipe.plan.plan import Planned
from qrecipe.plan.tokenizer import TextTokenizer
from qrecipe.recipe.stage import Stage

SPEECH_TOKENIZER = 682_293_092
"""Bytes of the published bases' speech tokenizer, where the base is not on this machine."""


def estimates(planned: Planned, hashes: FileHashes) -> dict[str, Compute]:
    """By stage; empty while the base's shapes are not known."""
    base = planned.base
    if base.tensors is None:
        return {}
    folder = mini.folder() if base.model.startswith(BUILTIN) else base.folder
    tokenizer = SPEECH_TOKENIZER
    if folder is not None:
        tokenizer = sum(f.stat().st_size for f in weight_files(folder / "speech_tokenizer"))
    found = {}
    for stage in planned.loaded.recipe.stages:
        trainable = planned.trainables[stage.id]
        found[stage.id] = compute(stage, trainable, base.tensors, _volume(stage, planned, hashes), tokenizer)
    return found


def _volume(stage: Stage, planned: Planned, hashes: FileHashes) -> Volume | None:
    """One epoch of a stage: its own rows, and as much of the others as their shares ask for."""
    own = [u for u in stage.uses if u.share is None]
    if planned.base.tokenizer is None or any(u.use not in planned.manifests for u in own):
        return None
    parts = [_read(planned.manifests[u.use], planned.base.tokenizer, hashes, stage.objective == "text_lm") for u in own]
    known = [p for p in parts if p is not None]
    rest = 1.0 - sum(u.share for u in stage.uses if u.share is not None)
    if len(known) < len(parts) or rest <= 0:
        return None
    rows, frames, tokens = (sum(getattr(v, k) for v in known) / rest for k in ("rows", "frames", "tokens"))
    return Volume(round(rows), frames, tokens)


def _read(manifest: Manifest, tokenizer: TextTokenizer, hashes: FileHashes, text: bool) -> Volume | None:
    tokens = sum(len(tokenizer.assistant(r.text)[1]) for r in manifest.rows)
    if text:
        return Volume(len(manifest.rows), tokens, tokens)
    lengths = [seconds(r, hashes) for r in manifest.rows]
    known = [n for n in lengths if n is not None]
    return Volume(len(known), sum(known) * FRAMES_PER_SECOND, tokens) if len(known) == len(lengths) else None
