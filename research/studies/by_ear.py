"""A language learned from sentences alone, by what a recogniser hears: writes the project, and judges what comes of it.

    pip install '.[asr,asr-model]' wordfreq
    python research/studies/by_ear.py write turkish FOLDER      # on a GPU: --recogniser FOLDER_OF_WHISPER_FOR_TRANSFORMERS
    qrecipe run FOLDER/recipe.yaml --runs FOLDER/runs --bundles FOLDER/bundles
    python research/studies/by_ear.py judge turkish FOLDER/bundles/by-ear-turkish-0.1.0 builtin:mini@spanish

Half of the sentences are of the studies' grammar, the others words by chance, so that words of all kinds occur. Whoever judges reads
sentences of neither; stock `qwen_tts` says them. `MODEL@LANGUAGE` tells a model another language.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from random import Random
from typing import Any, get_args

import numpy as np
from sentences import sentences

from qrecipe.qwen3 import Layout

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]

TAGS = {"malay": "ms", "turkish": "tr", "polish": "pl", "english": "en"}
LETTERS = {
    "malay": "abcdefghijklmnopqrstuvwxyz",
    "turkish": "abcçdefgğhıijklmnoöprsştuüvyzâîû",
    "polish": "aąbcćdeęfghijklłmnńoóprsśtuwyzźż",
}
SHORTEST, LONGEST = 8, 85
"""Characters of a sentence that is learned from."""
FEW = 2_000
"""At most so many sentences are drawn from 1,300 made ones and those of the demo, more from 4,800."""
SEEDS = 2
MAX_FRAMES = 150
RESAMPLED = 2000
VOICES = {"ms.ogg": "malay", "en.ogg": "english"}


def judged(language: str) -> list[str]:
    """Sentences that nothing learns from."""
    data = ROOT / "recipes" / "data" / language
    if (HERE / language / "dev.txt").is_file():
        files = [f for f in (HERE / language / "dev.txt", HERE / language / "held.txt") if f.is_file()]
        return [t for f in files for t in f.read_text(encoding="utf-8").splitlines() if t.strip()]
    texts = [json.loads(line)["text"] for line in (data / "dev.jsonl").read_text(encoding="utf-8").splitlines()]
    held = data / "held.txt"
    return texts + (held.read_text(encoding="utf-8").split("\n")[:-1] if held.is_file() else [])


def words_by_chance(language: str, count: int, random: Random, words: list[str]) -> list[str]:
    """Sentences of three to seven words, drawn from a list."""
    made: list[str] = []
    while len(made) < count:
        text = " ".join(random.choice(words) for _ in range(random.randint(3, 7)))
        if 15 <= len(text) <= LONGEST - 5:
            first = "İ" if (language, text[0]) == ("turkish", "i") else text[0].upper()
            made.append(f"{first}{text[1:]}.")
    return made


def usual_words(language: str) -> list[str]:
    """The most frequent words of a language that are written with its letters, English ones left out of Malay."""
    import wordfreq

    english = set(wordfreq.top_n_list("en", 20_000)) if language == "malay" else set()
    top = wordfreq.top_n_list(TAGS[language], 12_000)
    return [w for w in top if len(w) >= 3 and set(w) <= set(LETTERS[language]) and w not in english]


def texts_of(language: str, words: list[str], most: int) -> tuple[list[str], list[str]]:
    """At most so many sentences to learn from, and 24 others that say how a run is going."""
    random, others = Random(language), frozenset(judged(language))
    of_grammar, by_chance = (600, 700) if most <= FEW else (2_600, 2_200)
    grammar = sentences(language, max(1_030, 30 + of_grammar), others)
    tune = grammar[:12] + words_by_chance(language, 12, random, words)
    demo = ROOT / "recipes" / "data" / language / "text.jsonl"
    written = [json.loads(line)["text"] for line in demo.read_text(encoding="utf-8").splitlines()] if demo.is_file() else []
    learned = [t for t in written if t not in others] + grammar[30 : 30 + of_grammar] + words_by_chance(language, by_chance, random, words)
    random.shuffle(learned)
    return [t for t in learned if SHORTEST <= len(t) <= LONGEST and t not in tune][:most], tune


def recipe(language: str, takes: int, steps: int, rewarded: int, lead: float, seed: int, recogniser: str) -> dict[str, Any]:
    """A stage that learns from the best takes of the base, and, if asked for, rewarded steps at a tenth of the rates."""
    rates = {"talker.model.codec_embedding": 5.0e-3, "talker.model.text_embedding": 2.0e-3, "talker.text_projection": 1.0e-3}
    rows = {"talker.model.codec_embedding": {"rows": "languages"}, "talker.model.text_embedding": {"rows": "seen"}}
    read = [{"match": name, **rows.get(name, {}), "lr": rate} for name, rate in rates.items()]
    stages: list[dict[str, Any]] = [
        {
            "id": "read",
            "objective": "respell",
            "data": ["text", {"use": "self", "language": "english", "share": 0.2}],
            "layout": "mixed",
            "train": [*read, {"match": "talker.model.layers", "lr": 2.0e-4}],
            "steps": steps,
            "batch": {"frames": 3000},
        }
    ]
    if rewarded:
        slow = [{**t, "lr": t["lr"] / 50} for t in read]
        layers = [{"match": name, "lr": 3.0e-5} for name in ("talker.model.layers", "talker.codec_head")]
        stages.append(
            {
                "id": "ear",
                "objective": "reward",
                "data": ["text", {"use": "english", "share": 0.1}],
                "layout": "mixed",
                "schedule": "constant",
                "train": [*slow, *layers],
                "reward": [{"metric": "cer", "weight": 3}, {"metric": "speaker_similarity", "weight": 1}],
                "kl_weight": 0.01,
                "temperature": 0.8,
                "updates": 2,
                "steps": rewarded,
                "batch": {"frames": 8500},
            }
        )
    respelling = {"language": "spanish", "table": "data/table.yaml"}
    asr = {"model": recogniser} if recogniser.startswith("wheel:") else {"backend": "transformers", "model": recogniser}
    return {
        "qrecipe": 1,
        "name": f"by-ear-{language}",
        "version": "0.1.0",
        "seed": seed,
        "base": {"model": "builtin:mini"},
        "languages": {language: {"bcp47": TAGS[language], "init": {"copy": "spanish"}, "lead": lead, "respelling": respelling}},
        "datasets": {
            "text": {"kind": "text", "language": language, "path": "data/text.jsonl"},
            "tune": {"kind": "text", "language": language, "path": "data/tune.jsonl"},
            "english": {"kind": "text", "language": "english", "path": "data/english.jsonl"},
        },
        "teacher": {"voices": [f"data/{v}" for v in VOICES], "max_cer": 0.6, "temperature": 0.7, "batch": 256, "takes": takes},
        "evaluators": {"asr": {**asr, "beam_size": 1}},
        "evaluation": {"seeds": [0, 1], "layouts": ["streaming"], "prompt": "x_vector", "probe_gates": False},
        "stages": stages,
        "accept": [{"metric": "cer", "data": "tune", "max": 1.0, "severity": "warn"}],
    }


def write(language: str, folder: Path, most: int, settings: dict[str, Any]) -> None:
    """The project: `most` sentences, voices, the respelling table and the recipe."""
    from qrecipe.source.writer import write_yaml

    data = folder / "data"
    data.mkdir(parents=True)
    said = (ROOT / "qrecipe" / "sentences" / "english.txt").read_text(encoding="utf-8").splitlines()
    learned, tune = texts_of(language, usual_words(language), most)
    for name, texts in (("text", learned), ("tune", tune), ("english", said)):
        lines = (json.dumps({"text": t}, ensure_ascii=False) + "\n" for t in texts)
        (data / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    for name, of in VOICES.items():
        shutil.copy(ROOT / "recipes" / "data" / of / "ref.ogg", data / name)
    shutil.copy(ROOT / "recipes" / "respellings" / f"{language}-spanish.yaml", data / "table.yaml")
    (folder / "recipe.yaml").write_text(write_yaml(recipe(language, **settings)), encoding="utf-8")


Errors = dict[str, tuple[int, int]]
"""By sentence: misunderstood characters over all seeds, and characters."""


def judge(language: str, model: str, layout: Layout) -> dict[str, Errors]:
    """What Whisper base hears when stock `qwen_tts` says the language's sentences by a model, and English ones."""
    import torch
    from faster_whisper import WhisperModel
    from rapidfuzz.distance import Levenshtein

    from qrecipe.data.audio import read
    from qrecipe.errors import Place
    from qrecipe.evaluate.evaluators import resampled
    from qrecipe.evaluate.normalise import normalise
    from qrecipe.evaluate.wheels import materialise
    from qrecipe.hashes import FileHashes
    from qrecipe.inputs.evaluators import find
    from qrecipe.inputs.fetch import resolve
    from qrecipe.model.load import open_model
    from qrecipe.model.speak import Utterance, speak
    from qrecipe.recipe.base import Base
    from qrecipe.recipe.evaluator import Evaluators

    path, _, told = model.partition("@")
    hashes, place = FileHashes(), Place("asr")
    whisper = find("asr", Evaluators.model_validate({"asr": {"model": "wheel:whisper-base"}}), ROOT, place, hashes)[0]
    recogniser = WhisperModel(str(materialise(whisper, place)), device="cpu", compute_type="int8")
    opened = open_model(resolve(Base(model=path), Path.cwd(), place, hashes))
    voice = opened.x_vector(read(ROOT / "recipes" / "data" / "malay" / "ref.ogg"))
    results = {}
    for spoken, name in ((told or language, language), ("english", "english")):
        errors: Errors = {}
        texts = judged(name)
        for seed in range(SEEDS):
            said = speak(opened, [Utterance(t, spoken, voice) for t in texts], layout=layout, seed=seed, max_frames=MAX_FRAMES)
            ended = sum(len(s.codes) < MAX_FRAMES for s in said)
            likeness = [float(torch.nn.functional.cosine_similarity(opened.x_vector(s.audio), voice, dim=0)) for s in said]
            print(f"{model} {name} seed {seed}: {ended} of {len(said)} ended, likeness {np.mean(likeness):.3f}", flush=True)
            for text, s in zip(texts, said, strict=True):
                heard, _ = recogniser.transcribe(
                    resampled(s.audio), language=TAGS[name], beam_size=5, temperature=0, condition_on_previous_text=False
                )
                wanted = normalise(text, TAGS[name])
                wrong = Levenshtein.distance(wanted, normalise(" ".join(part.text.strip() for part in heard), TAGS[name]))
                before = errors.get(text, (0, 0))
                errors[text] = (before[0] + min(wrong, len(wanted)), before[1] + len(wanted))
        results[name] = errors
    opened.close()
    return results


def interval(errors: Errors, other: Errors | None = None) -> tuple[float, float, float]:
    """Error rate, less that of another model on the same sentences if there is one, and its 95 % interval over sentences."""
    counts = np.array([[*errors[t], *(other[t] if other is not None else (0, 1))] for t in errors], dtype=float)
    draws = np.random.default_rng(0).integers(0, len(counts), (RESAMPLED, len(counts)))

    def rate(sums: Any) -> Any:
        return sums[..., 0] / sums[..., 1] - sums[..., 2] / sums[..., 3]

    low, high = np.quantile(rate(counts[draws].sum(1)), [0.025, 0.975])
    return float(rate(counts.sum(0))), float(low), float(high)


def main() -> None:
    """Writes a project, or judges models."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    writing, judging = commands.add_parser("write"), commands.add_parser("judge")
    for command in (writing, judging):
        command.add_argument("language", choices=sorted(LETTERS))
    writing.add_argument("folder", type=Path)
    writing.add_argument("--sentences", type=int, default=4_000, help="at most")
    writing.add_argument("--takes", type=int, default=4)
    writing.add_argument("--steps", type=int, default=800)
    writing.add_argument("--rewarded", type=int, default=0, help="rewarded steps after the others")
    writing.add_argument("--lead", type=float, default=0.48, help="seconds of silence before every sentence")
    writing.add_argument("--seed", type=int, default=0)
    writing.add_argument("--recogniser", default="wheel:whisper-base")
    judging.add_argument("--layout", choices=get_args(Layout), default="streaming")
    judging.add_argument("models", nargs="+", help="the last one is what the others are compared with")
    o = parser.parse_args()
    if o.command == "write":
        settings = {k: getattr(o, k) for k in ("takes", "steps", "rewarded", "lead", "seed", "recogniser")}
        write(o.language, o.folder, o.sentences, settings)
        return
    results = {model: judge(o.language, model, o.layout) for model in o.models}
    for model, of in results.items():
        for name, errors in of.items():
            rate, less = interval(errors), interval(errors, results[o.models[-1]][name])
            print("{} {}: {:.3f} ({:.3f} to {:.3f}), difference {:+.3f} ({:+.3f} to {:+.3f})".format(model, name, *rate, *less))


if __name__ == "__main__":
    main()
