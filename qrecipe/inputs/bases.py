"""Bases: names, shapes, config and tokenizer files of one. Reads headers only, never weights.

A base that is not on this machine is described from the shipped catalogue if its hub id is known there.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from qrecipe.builtin import mini
from qrecipe.errors import BaseModelError, Place, Problem, Problems, suggest
from qrecipe.files import digest, read_json
from qrecipe.hashes import FileHashes
from qrecipe.inputs import parts
from qrecipe.inputs.snapshots import REQUIRED_FILES, cached_snapshot, names_folder, stored
from qrecipe.inputs.tokenizer import TextTokenizer
from qrecipe.inputs.trust import folder_problem, unsafe_weights
from qrecipe.inputs.weight_files import MALFORMED, read_headers, weight_files
from qrecipe.recipe.base import Base
from qrecipe.recipe.language import TAGS
from qrecipe.source import paths

BUILTIN = "builtin:"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*\Z")
DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
"""Number formats of weights, as safetensors and as torch name them."""
BUNDLE = "bundle.json"
OWN_FILES = {BUNDLE, "verdicts.json", mini.MANIFEST}
"""Files that this program adds to a folder."""
HASH_NOW = 64 << 20
"""Bytes up to which a plan hashes a folder's files at once; larger ones are hashed by `run`."""


@dataclass(frozen=True)
class BaseInfo:
    """A base as far as it is known without opening it."""

    model: str
    """As the recipe names it; a folder by its own name only."""
    revision: str | None
    folder: Path | None
    """Where it lies; None if it is not on this machine."""
    identity: str | None
    """Content: equal means the same weights and files. None if not known yet."""
    dtype: str
    config: dict[str, Any] | None
    tensors: dict[str, tuple[int, ...]] | None
    """Every tensor of the weights with its shape."""
    tokenizer: TextTokenizer | None
    warnings: Problems = field(default_factory=Problems)
    tags: dict[str, str] = field(default_factory=lambda: dict(TAGS))
    """BCP 47 tags of languages by name: those of the published bases, and those that a bundle's manifest states."""

    @property
    def talker(self) -> dict[str, Any]:
        """The config's `talker_config`, empty if the config is not known."""
        return dict((self.config or {}).get("talker_config", {}))

    @property
    def languages(self) -> dict[str, int]:
        """Languages that the base lists, with their rows."""
        return dict(self.talker.get("codec_language_id", {}))

    def local(self, model: str, identity: str) -> LocalBase:
        """This base, which has a folder, with its name and its content."""
        return LocalBase(**{**vars(self), "model": model, "identity": identity})

    def listed_rows(self) -> set[int]:
        """Rows of the codec embedding that some map of the config names."""
        speakers = self.talker.get("spk_id", {}) or {}
        taken: set[int] = set(self.languages.values())
        for value in speakers.values():
            taken.update(value if isinstance(value, list) else [value])
        controls = {v for k, v in self.talker.items() if k.startswith("codec_") and k.endswith("_id") and isinstance(v, int)}
        return taken | controls


@dataclass(frozen=True)
class LocalBase(BaseInfo):
    """A base that is on this machine and whose content is known: what a run, a bundle and every opened model need."""

    folder: Path
    identity: str
    config: dict[str, Any]
    tensors: dict[str, tuple[int, ...]]
    tokenizer: TextTokenizer


@lru_cache(maxsize=8)
def catalogue(name: str) -> dict[str, Any] | None:
    """The shipped catalogue of a base by hub id or `builtin:` name."""
    slug = name.removeprefix(BUILTIN) if name.startswith(BUILTIN) else name.split("/")[-1].lower()
    file = resources.files("qrecipe.plan") / "catalogues" / f"{slug}.json"
    if len(slug) > 200 or not file.is_file():
        return None
    loaded: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return loaded if loaded["model"] == name else None


def locate(base: Base, root: Path, place: Place, hashes: FileHashes) -> BaseInfo:
    """Describes the base that a recipe names. Raises `BaseModelError` for what can never be a base.

    `root` is the folder that relative paths start from; `place` is where the recipe names the base.
    """
    if base.model.startswith(BUILTIN):
        return _builtin(base, place)
    is_folder = names_folder(base, root)
    if not is_folder and not _HUB_ID.match(base.model):
        help_ = "`builtin:mini`, a hub id such as `Qwen/Qwen3-TTS-12Hz-1.7B-Base`, or a folder that starts with `.` or `/`"
        if "\\" in base.model or "://" in base.model:
            help_ = paths.hint(base.model, root) or help_
        raise BaseModelError(Problem("QR050", f"`{base.model}` is no base", place, help_))
    folder, why = stored(base, root)
    if folder is not None:
        return describe_folder(folder, base, place, hashes)
    begun = not is_folder and cached_snapshot(base) is not None
    fetch = "`qrecipe run` fetches the rest where there is a network" if begun else "`qrecipe doctor --base MODEL` says how to get it"
    return _absent(base, place, why, (paths.hint(base.model, root) if is_folder else None) or fetch)


def require_builtin(base: Base, place: Place) -> None:
    """Raises `BaseModelError` for a name that no embedded base has."""
    if base.model != mini.NAME:
        help_ = suggest(base.model, [mini.NAME])
        raise BaseModelError(Problem("QR050", f"`{base.model}` is not an embedded base", place, help_))


def _builtin(base: Base, place: Place) -> LocalBase:
    require_builtin(base, place)
    shipped = catalogue(base.model)
    assert shipped is not None
    return LocalBase(
        model=base.model,
        revision=None,
        folder=mini.folder(),
        identity=f"{mini.NAME}@{mini.digest()}",
        dtype=shipped["dtype"],
        config=shipped["config"],
        tensors=_shapes(shipped),
        tokenizer=_mini_tokenizer(),
    )


@lru_cache(maxsize=1)
def _mini_tokenizer() -> TextTokenizer:
    return TextTokenizer.of_folder(mini.folder())


def _absent(base: Base, place: Place, why: str, help_: str) -> BaseInfo:
    known = catalogue(base.model) or {}
    figures = "figures come from the shipped catalogue" if known else "figures that need it are unknown"
    return BaseInfo(
        model=base.model,
        revision=base.revision or known.get("revision"),
        folder=None,
        identity=None,
        dtype=known.get("dtype", "bfloat16"),
        config=known.get("config"),
        tensors=_shapes(known) if known else None,
        tokenizer=None,
        warnings=Problems([Problem("QR052", f"{why}; {figures}", place, help_)]),
    )


def _shapes(catalogue: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(shape) for name, shape in catalogue["tensors"].items()}


def describe_folder(folder: Path, base: Base, place: Place, hashes: FileHashes) -> BaseInfo:
    """Describes a base folder from its config and the headers of its safetensors files."""

    def wrong(message: str, help_: str | None = None) -> BaseModelError:
        return BaseModelError(Problem("QR051", f"{folder.name}: {message}", place.start, help_))

    # Nothing of a folder is read before it is known that nothing in it runs code.
    missing = [f for f in REQUIRED_FILES if not (folder / f).is_file()]
    if missing:
        raise wrong("missing " + ", ".join(missing), "a complete Base folder of Qwen3-TTS, as downloaded from the hub")
    if (why := folder_problem(folder)) is not None:
        raise wrong(why)
    config = read_json(folder / "config.json")
    if config.get("model_type") != "qwen3_tts":
        raise wrong("config.json is not of a Qwen3-TTS model")
    if (kind := config.get("tts_model_type")) != "base":
        message = f"this is a `{kind}` model; languages are taught to a Base model"
        raise wrong(message, "use the checkpoint whose name ends in `-Base`")
    if (why := _talker_problem(config)) is not None:
        raise wrong(f"config.json: {why}")
    for where in (folder, folder / "speech_tokenizer"):
        if (why := _weights_problem(where, "the speech tokenizer: " if where != folder else "")) is not None:
            raise wrong(why)

    # Only the talker's shapes are wanted. A part that is not there or cannot be read is an error here, not in the middle of a run.
    tokenizer_parts = {name.split(".")[0] for name in read_headers(weight_files(folder / "speech_tokenizer"), place)}
    for part in parts.TOKENIZER_PARTS:
        if part not in tokenizer_parts:
            raise wrong(f"the speech tokenizer has no {part}", parts.BASE_HELP)
    entries = read_headers(weight_files(folder), place)
    dtypes = Counter(entry["dtype"] for entry in entries.values())
    main = dtypes.most_common(1)[0][0] if dtypes else "no numbers"
    if main not in DTYPES:
        raise wrong(f"weights of {main}; " + " or ".join(DTYPES) + " are trained")
    whole = catalogue(mini.NAME)
    assert whole is not None
    if (missing_part := parts.missing_part(config, entries, whole["tensors"])) is not None:
        raise wrong(*missing_part)

    # A folder is named by its own name alone, so that plans of two machines are equal.
    revision = folder.name if base.revision is not None and re.fullmatch(r"[0-9a-f]{40}", folder.name) else base.revision
    name = folder.name if base.model.startswith((".", "/", "~")) else base.model
    described = BaseInfo(
        model=name,
        revision=revision,
        folder=folder,
        identity=None,
        dtype=DTYPES[main],
        config=config,
        tensors={n: tuple(entry["shape"]) for n, entry in entries.items()},
        tokenizer=TextTokenizer.of_folder(folder),
        tags=known_tags(folder),
    )
    identity = quick_identity(folder, hashes)
    return described if identity is None else described.local(name, identity)


def known_tags(folder: Path) -> dict[str, str]:
    """BCP 47 tags of the languages of published bases, and of those that the manifest of a bundle states, by name.

    `bundle verify` says what else is wrong with a bundle.
    """
    try:
        manifest = read_json(folder / BUNDLE)
        tags = {**manifest.get("base_tags", {}), **{name: language.get("bcp47") for name, language in manifest["languages"].items()}}
    except MALFORMED:
        return dict(TAGS)
    return {**TAGS, **{str(name): tag for name, tag in tags.items() if isinstance(tag, str)}}


def _weights_problem(folder: Path, label: str) -> str | None:
    """Why the safetensors files of a part cannot be used, or None."""
    try:
        weights = weight_files(folder)
    except MALFORMED as e:
        return f"model.safetensors.index.json cannot be used: {e}"
    if not weights:
        unsafe = unsafe_weights(folder)
        why = f"weights are in {unsafe}, which may run code when it is read" if unsafe else "no weights"
        return f"{label}{why}; only safetensors are read"
    absent = [f.name for f in weights if not f.is_file()]
    return "missing " + ", ".join(absent) if absent else None


def _talker_problem(config: dict[str, Any]) -> str | None:
    """Why the maps of a config that the plan reads cannot be used, or None."""
    talker = config.get("talker_config")
    if not isinstance(talker, dict):
        return "no `talker_config`"
    rows = talker.get("vocab_size")
    languages, speakers = talker.get("codec_language_id", {}), talker.get("spk_id") or {}
    if not isinstance(rows, int) or not isinstance(languages, dict) or not isinstance(speakers, dict):
        return "`vocab_size`, `codec_language_id` or `spk_id` of another type"
    flat = [*languages.values(), *(i for v in speakers.values() for i in (v if isinstance(v, list) else [v]))]
    if any(not isinstance(i, int) or isinstance(i, bool) or not 0 <= i < rows for i in flat):
        return "a language or speaker row that the codec embedding does not have"
    return None


def base_files(folder: Path) -> list[Path]:
    """Files of a base folder that a bundle carries on: configs, tokenizer, weights, speech tokenizer, licences."""
    files = []
    for file in sorted(folder.rglob("*")):
        relative = file.relative_to(folder)
        hidden = any(p.startswith(".") for p in relative.parts)
        if hidden or not file.is_file() or (len(relative.parts) > 1 and relative.parts[0] != "speech_tokenizer"):
            continue
        licence = relative.name.upper().startswith(("LICENSE", "LICENCE", "NOTICE"))
        if (licence or file.suffix in {".json", ".txt", ".safetensors"}) and file.name not in OWN_FILES:
            files.append(file)
    return files


def quick_identity(folder: Path, hashes: FileHashes) -> str | None:
    """Like `folder_identity`; None if more than `HASH_NOW` bytes would have to be read that were not hashed before."""
    unread = sum(f.stat().st_size for f in base_files(folder) if hashes.known(f) is None)
    return folder_identity(folder, hashes) if unread <= HASH_NOW else None


def folder_identity(folder: Path, hashes: FileHashes) -> str:
    """Content of a base folder as one hash."""
    content = {str(f.relative_to(folder)): hashes.sha256(f) for f in base_files(folder)}
    return f"sha256:{digest(content)}"
