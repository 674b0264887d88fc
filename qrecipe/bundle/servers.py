"""Which servers take a bundle as a Base and honour its languages, said without running them.

The facts were read from each server's code at the version that is named here. A later version may do otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Literal

from qrecipe.recipe.language import is_ascii_key, survives_title_case

Support = Literal["yes", "with care", "no"]
_WORST: tuple[Support, ...] = ("yes", "with care", "no")


@dataclass(frozen=True)
class Served:
    """All of a bundle that decides whether a server takes it."""

    folder: PurePath
    """Where it lies: some servers go by the name."""
    languages: Mapping[str, int]
    """Row of every language that was added, by its key."""


@dataclass(frozen=True)
class Finding:
    """One thing that a server does with a bundle."""

    answer: Support
    reason: str
    remedy: str | None = None


@dataclass(frozen=True)
class Server:
    """A program that speaks with Qwen3-TTS."""

    name: str
    version: str
    """Version whose code was read."""
    reads: str
    """Form in which it takes a model."""
    findings: Callable[[Served], Iterator[Finding]]


@dataclass(frozen=True)
class Check:
    """A server's answer to a bundle."""

    server: Server
    findings: tuple[Finding, ...]

    @property
    def answer(self) -> Support:
        """The worst of the findings."""
        return max((f.answer for f in self.findings), key=_WORST.index, default="yes")

    def as_json(self) -> dict[str, Any]:
        """The object of the command line's JSON output."""
        findings = [{"answer": f.answer, "reason": f.reason, "remedy": f.remedy} for f in self.findings]
        server = self.server
        return {"server": server.name, "version": server.version, "reads": server.reads, "takes": self.answer, "findings": findings}


def check_servers(served: Served, names: list[str]) -> list[Check]:
    """The answers of servers, in the order of `SERVERS`."""
    return [Check(s, tuple(s.findings(served))) for name, s in SERVERS.items() if name in names]


RENAME = "rename the language in the recipe, in lower-case ASCII letters, and raise `version`"


def _as_stock(served: Served) -> Iterator[Finding]:
    yield from ()


def _own_environment(served: Served) -> Iterator[Finding]:
    yield Finding("yes", "it has the import name of `qwen-tts`", "install it into an environment of its own")


def _compat(served: Served) -> Iterator[Finding]:
    yield from _own_environment(served)
    reason = "its code predictor says other codes at every call, greedy or not, with any Base (transformers 5.6 and 5.16)"
    yield Finding("with care", reason, "serve with qwen-tts-hf")


def _vllm(served: Served) -> Iterator[Finding]:
    for key in served.languages:
        if not survives_title_case(key):
            lowered = key.title().lower()
            yield Finding("no", f"it title-cases language names and lowers them: `{key}` becomes `{lowered}`, which is not listed", RENAME)
    yield Finding("with care", "a Base needs the text of the reference", "send `ref_text`, or ask for x-vector only")


def _sglang(served: Served) -> Iterator[Finding]:
    name = served.folder.name.lower()
    if "qwen3-tts" not in name or not name.endswith("base"):
        remedy = f"serve a copy or a link of the folder that is called `qwen3-tts-{served.folder.name}-base`"
        yield Finding("no", "it knows a Base by its path, which must name `qwen3-tts` and end in `base`", remedy)


def _faster(served: Served) -> Iterator[Finding]:
    remedy = "use its torch backend where `non_streaming_mode` matters, as for long texts"
    yield Finding("with care", "its GGML backend ignores the layout that is asked for", remedy)


def _mlx(served: Served) -> Iterator[Finding]:
    spelled = " or ".join(f"`{k}`" for k in served.languages)
    yield Finding(
        "with care", "a language that it does not know is spoken without any, and nothing says so", f"ask for {spelled}, so spelled"
    )


def _gguf(served: Served) -> Iterator[Finding]:
    for key in served.languages:
        if not is_ascii_key(key):
            yield Finding("with care", f"it lowers ASCII letters alone, and `{key}` has others", "ask for it in lower case, or " + RENAME)


def _by_number(served: Served) -> Iterator[Finding]:
    rows = ", ".join(f"{row} for `{key}`" for key, row in served.languages.items())
    yield Finding("with care", "its names of languages are fixed in its code, but it takes a number", f"ask for {rows}")


def _fixed(served: Served) -> Iterator[Finding]:
    yield Finding("no", "its languages are fixed in its code, so a new one cannot be asked for", "serve with another engine")


_FOLDER, _GGUF, _OWN = "the folder", "GGUF by its converter", "its own export"

SERVERS: dict[str, Server] = {
    s.name: s
    for s in (
        Server("qwen-tts", "0.1.1", _FOLDER, _as_stock),
        Server("qwen-tts-hf", "0.1.1.post1, transformers 5.15.1", _FOLDER, _own_environment),
        Server("qwen-tts-compat", "0.1.1.post1, transformers 5.6", _FOLDER, _compat),
        Server("vllm-omni", "0.30", _FOLDER, _vllm),
        Server("sglang-omni", "0.1.9", _FOLDER, _sglang),
        Server("faster-qwen3-tts", "0.5.4", _FOLDER, _faster),
        Server("mlx-audio", "0.6.2", _FOLDER, _mlx),
        Server("qwentts.cpp", "of November 2026", _GGUF, _gguf),
        Server("audio.cpp", "of November 2026", _GGUF, _gguf),
        Server("haujetzhao-gguf", "of November 2026", _OWN, _by_number),
        Server("gabriele-c", "of November 2026", _OWN, _fixed),
        Server("tensorrt-edge-llm", "of November 2026", _OWN, _fixed),
    )
}
"""By the name that `--for` takes."""
