"""Building a bundle: a folder that stock qwen_tts loads as a Base model, complete or absent.

It holds no clock, host, path or duration: the same run gives the same bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qrecipe import __version__
from qrecipe.bundle.card import model_card, packs_card
from qrecipe.bundle.export import holds_weights, write_model
from qrecipe.bundle.merge import MERGING
from qrecipe.bundle.pack import DOCUMENTS as PACK_DOCUMENTS
from qrecipe.bundle.pack import Pack
from qrecipe.bundle.verify import CARD, LOCK, MANIFEST, VERDICTS, read_manifest, verify
from qrecipe.errors import BundleError, Place, Problem
from qrecipe.files import NOT_UTF8, digest, json_text, new_folder, write_json, write_text
from qrecipe.hashes import sha256_while_synced
from qrecipe.inputs.bases import LocalBase
from qrecipe.inputs.documents.bundle import BundleLanguage, BundleManifest, BundleStage
from qrecipe.inputs.documents.lock import Lock
from qrecipe.inputs.documents.verdicts import Verdict
from qrecipe.inputs.replacements import Replacements
from qrecipe.model.weights import Delta
from qrecipe.plan.values import Plan
from qrecipe.recipe.language import TAGS
from qrecipe.source.writer import write_yaml


@dataclass(frozen=True)
class BundleContent:
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


def refuse_other(plan: Plan, bundles: Path) -> None:
    """Raises `BundleError` if a bundle of this name and version was made from another plan."""
    target = bundles / plan.bundle
    if not target.exists():
        return
    existing = read_manifest(target)
    if existing.plan != plan.hash:
        raise _taken(plan.version, target)


def _taken(version: str, target: Path) -> BundleError:
    message = f"{target.name} exists and holds something else"
    return BundleError(Problem("QR061", message, Place(str(target)), f"raise `version` (it is {version})"))


def build(content: BundleContent, bundles: Path) -> Path:
    """Writes a bundle and returns its folder; one that is there already is compared and stays. Raises `BundleError` for another one."""
    plan = content.plan
    target = bundles / plan.bundle
    rows = {k: v.token_id for k, v in plan.languages.items() if v.token_id is not None}
    documents = _documents(content)
    if target.exists():
        # compared piece by piece: a second copy of the base would need as much of the disk as the first
        verify(target).errors.raise_any(BundleError)
        standing = read_manifest(target)
        hashes = {name: hashlib.sha256(text.encode("utf-8", NOT_UTF8)).hexdigest() for name, text in documents.items()}
        same = standing == _manifest(content, rows, standing.files | hashes)
        if not same or not holds_weights(content.base, target, content.delta):
            raise _taken(plan.version, target)
    else:
        with new_folder(target) as folder:
            write_model(content.base, folder, content.delta, rows)
            for name, text in documents.items():
                write_text(folder / name, text)
            _seal(folder, target, _manifest(content, rows, _hashes(folder)))
        verify(target).errors.raise_any(BundleError)
    return target


def _earlier_tags(base: LocalBase) -> dict[str, str]:
    """Tags that a base which is a bundle states itself: who opens the new one does not have it."""
    return {name: tag for name, tag in sorted(base.tags.items()) if TAGS.get(name) != tag}


def _documents(content: BundleContent) -> dict[str, str]:
    """Text of everything that is written beside the model."""
    return {
        "recipe.yaml": write_yaml(content.recipe),
        LOCK: json_text(content.lock.model_dump(mode="json")),
        VERDICTS: _verdicts_text(content.verdicts, content.survival),
        CARD: model_card(content.plan, content.stages, content.verdicts, content.replacements),
    }


def _manifest(content: BundleContent, rows: dict[str, int], files: dict[str, str]) -> BundleManifest:
    plan = content.plan
    return BundleManifest(
        bundle=1,
        name=plan.recipe,
        version=plan.version,
        plan=plan.hash,
        base=content.lock.base,
        languages={
            k: BundleLanguage(bcp47=v.bcp47, token_id=rows[k], replace=content.replacements.get(k, Replacements()).table, lead=v.lead)
            for k, v in plan.languages.items()
        },
        base_tags=_earlier_tags(content.base),
        stages=content.stages,
        accepted=content.accepted,
        qrecipe=__version__,
        files=files,
    )


def _verdicts_text(verdicts: dict[str, list[Verdict]], survival: dict[str, float]) -> str:
    judged = {where: [v.as_json() for v in vs] for where, vs in verdicts.items()}
    rounded = {k: round(v, 6) for k, v in survival.items()}
    return json_text({"verdicts": judged, "survives_rounding": rounded})


def _hashes(folder: Path) -> dict[str, str]:
    """Hashes of files that were just written, by their names in the folder; afterwards they are durable."""
    files = [f for f in sorted(folder.rglob("*")) if f.is_file()]
    with ThreadPoolExecutor() as pool:
        return dict(zip([str(f.relative_to(folder)) for f in files], pool.map(sha256_while_synced, files), strict=True))


def _seal(folder: Path, target: Path, manifest: BundleManifest) -> None:
    """Writes the manifest, last. Raises `BundleError` if `target` is another bundle."""
    write_json(folder / MANIFEST, manifest.model_dump(mode="json", exclude=set() if manifest.base_tags else {"base_tags"}))
    if target.exists() and read_manifest(target) != manifest:
        raise _taken(manifest.version, target)


@dataclass(frozen=True)
class Composition:
    """Several packs on one base."""

    name: str
    version: str
    base: LocalBase
    packs: tuple[Pack, ...]
    rows: dict[str, int]
    """Row of every language."""
    delta: Delta
    """The change of all packs, merged."""
    rule: str
    """How weights that several packs changed were merged."""

    @property
    def hash(self) -> str:
        """Everything that the weights depend on, as one hash."""
        packs = [p.id.model_dump(mode="json") for p in self.packs]
        return digest([self.base.identity, packs, self.rows, self.rule, MERGING])

    def target(self, bundles: Path) -> Path:
        """Where its bundle goes. Raises `BundleError` if another bundle stands there."""
        target = bundles / f"{self.name}-{self.version}"
        if target.exists() and read_manifest(target).plan != self.hash:
            raise _taken(self.version, target)
        return target


def build_packs(composition: Composition, verdicts: dict[str, list[Verdict]], bundles: Path) -> Path:
    """Writes the bundle of a composition that passed, with the documents of every pack below `packs/`."""
    target = composition.target(bundles)
    manifests = [p.manifest for p in composition.packs]
    with new_folder(target) as folder:
        write_model(composition.base, folder, composition.delta, composition.rows)
        for pack in composition.packs:
            for name in PACK_DOCUMENTS:
                path = folder / "packs" / pack.manifest.name / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(pack.files[name])
        write_text(folder / VERDICTS, _verdicts_text(verdicts, {}))
        packed = {k: language for m in manifests for k, language in m.languages.items()}
        languages = {k: packed[k].model_copy(update={"token_id": row}) for k, row in composition.rows.items()}
        manifest = BundleManifest(
            bundle=1,
            name=composition.name,
            version=composition.version,
            plan=composition.hash,
            base=manifests[0].base,
            languages=languages,
            base_tags=_earlier_tags(composition.base),
            stages=[],
            packs=[p.id for p in composition.packs],
            accepted=True,
            qrecipe=__version__,
            files={},
        )
        write_text(folder / CARD, packs_card(manifest, composition.rule, verdicts))
        _seal(folder, target, manifest.model_copy(update={"files": _hashes(folder)}))
    verify(target).errors.raise_any(BundleError)
    return target
