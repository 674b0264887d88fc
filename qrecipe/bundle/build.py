"""Building a bundle: a folder that stock qwen_tts loads as a Base model, complete or absent.

It holds no clock, host, path or duration: the same run gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qrecipe import __version__
from qrecipe.bundle.card import model_card
from qrecipe.bundle.export import write_model
from qrecipe.bundle.verify import LOCK, MANIFEST, read_manifest, verify
from qrecipe.errors import BundleError, Place, Problem
from qrecipe.files import new_folder, sha256, write_json, write_text
from qrecipe.inputs.bases import LocalBase
from qrecipe.inputs.documents import BundleLanguage, BundleManifest, BundleStage, Lock, Verdict
from qrecipe.inputs.replacements import Replacements
from qrecipe.model.weights import Delta
from qrecipe.plan.values import Plan
from qrecipe.source.writer import write_yaml


@dataclass(frozen=True)
class Content:
    """Everything that a bundle is made of."""

    plan: Plan
    base: LocalBase
    delta: Delta
    """Rows at their init and every kept stage, merged."""
    lock: Lock
    recipe: dict[str, Any]
    """The resolved recipe as plain data."""
    stages: list[BundleStage]
    """Every stage of the plan, in order."""
    verdicts: dict[str, list[Verdict]]
    """By stage, and `accept`."""
    survival: dict[str, float]
    """Share of a stage's trained elements that rounding keeps."""
    accepted: bool
    replacements: Mapping[str, Replacements] = field(default_factory=dict)
    """Of the languages that were added."""


def target_of(plan: Plan, bundles: Path) -> Path:
    """Where a plan's bundle goes."""
    return bundles / f"{plan.recipe}-{plan.version}"


def refuse_other(plan: Plan, bundles: Path) -> None:
    """Raises `BundleError` if a bundle of this name and version was made from another plan."""
    target = target_of(plan, bundles)
    if not target.exists():
        return
    existing = read_manifest(target)
    if existing.plan != plan.hash:
        raise _taken(plan, target)


def _taken(plan: Plan, target: Path) -> BundleError:
    message = f"{target.name} exists and holds something else"
    return BundleError(Problem("QR061", message, Place(str(target)), f"raise `version` in the recipe (it is {plan.version})"))


def build(content: Content, bundles: Path) -> Path:
    """Writes a bundle and returns its folder. Raises `BundleError` if another one stands there."""
    plan = content.plan
    target = target_of(plan, bundles)
    rows = {k: v.token_id for k, v in plan.languages.items() if v.token_id is not None}
    with new_folder(target) as folder:
        write_model(content.base, folder, content.delta, rows)
        write_text(folder / "recipe.yaml", write_yaml(content.recipe))
        write_json(folder / LOCK, content.lock.model_dump(mode="json"))
        verdicts = {where: [v.as_json() for v in vs] for where, vs in content.verdicts.items()}
        survival = {k: round(v, 6) for k, v in content.survival.items()}
        write_json(folder / "verdicts.json", {"verdicts": verdicts, "survives_rounding": survival})
        write_text(folder / "README.md", model_card(plan, content.stages, content.verdicts, content.replacements))
        manifest = BundleManifest(
            bundle=1,
            name=plan.recipe,
            version=plan.version,
            plan=plan.hash,
            base=content.lock.base,
            languages={
                k: BundleLanguage(bcp47=v.bcp47, token_id=rows[k], replace=content.replacements.get(k, Replacements()).table)
                for k, v in plan.languages.items()
            },
            stages=content.stages,
            accepted=content.accepted,
            qrecipe=__version__,
            files={str(f.relative_to(folder)): sha256(f) for f in sorted(folder.rglob("*")) if f.is_file()},
        )
        write_json(folder / MANIFEST, manifest.model_dump(mode="json"))
        if target.exists() and (read_manifest(target).files != manifest.files or read_manifest(target) != manifest):
            raise _taken(plan, target)
    verify(target).errors.raise_any(BundleError)
    return target
