"""Files as a stranger might send them: mutations of good ones, and what must be true whatever they hold.

Every target reads a mutated file through the same function as the commands do. It may accept it or refuse it with an
error that has a code; anything else (another exception, a hang, gigabytes, a bundle that verifies and is not the one that was
written) is a failure.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import random
import re
import resource
import shutil
import signal
import socket
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qrecipe.errors import Place, UserError
from qrecipe.files import digest
from qrecipe.hashes import FileHashes
from tests.support import audio, recipes

SECONDS = 20
"""A single file that takes longer counts as a hang."""
MEBIBYTES = 1024
"""What a target may add to the process's largest size."""

VALUES: list[Any] = [
    None,
    True,
    -1,
    0,
    1,
    255,
    2**31,
    2**63,
    10**30,
    1e308,
    0.5,
    "",
    "x" * 5000,
    "../../etc/passwd",
    "/etc/passwd",
    "a\0b",
    "\ud800",
    "qwen3_tts",
    [],
    [[]],
    [0] * 5000,
    {},
    {"a": {"b": []}},
]
"""What a JSON mutation puts in a value's place."""
NUMBERS = [0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFF]


def mutate_bytes(content: bytes, drawn: random.Random) -> bytes:
    """One to four changes: bits, runs, numbers of a header, cuts, repetitions. The first bytes are hit more often."""
    data = bytearray(content)
    for _ in range(drawn.randint(1, 4)):
        if not data:
            return bytes(data)
        at = drawn.randrange(min(len(data), 96)) if drawn.random() < 0.5 else drawn.randrange(len(data))
        length = drawn.choice([1, 2, 4, 8, 64, 1024])
        kind = drawn.randrange(6)
        if kind == 0:
            data[at] ^= 1 << drawn.randrange(8)
        elif kind == 1:
            data[at : at + length] = drawn.randbytes(length)
        elif kind == 2:
            data = data[:at]
        elif kind == 3:
            data[at:at] = data[at : at + length] * drawn.randint(1, 3)
        elif kind == 4:
            del data[at : at + length]
        else:
            width, number = drawn.choice([1, 2, 4, 8]), drawn.choice(NUMBERS)
            data[at : at + width] = (number & ((1 << 8 * width) - 1)).to_bytes(width, drawn.choice(["little", "big"]))  # type: ignore[arg-type]
    return bytes(data)


def mutate_json(content: bytes, drawn: random.Random) -> bytes:
    """One to three values replaced, keys dropped, renamed or doubled; sometimes bytes instead."""
    if drawn.random() < 0.3:
        return mutate_bytes(content, drawn)
    value = json.loads(content)
    for _ in range(drawn.randint(1, 3)):
        places = list(_places(value))
        if not places:
            break
        holder, key = drawn.choice(places)
        kind = drawn.randrange(4)
        if kind == 0 and isinstance(holder, dict):
            del holder[key]
        elif kind == 1 and isinstance(holder, dict):
            holder[drawn.choice(["", "auto_map", "../x", "__proto__", str(key) + "x"])] = copy.deepcopy(holder[key])
        else:
            holder[key] = copy.deepcopy(drawn.choice(VALUES))
    return json.dumps(value).encode("utf-8", "surrogatepass")


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])


@dataclass
class Tally:
    """What became of a target's files."""

    ends: Counter[str] = field(default_factory=Counter)
    """`accepted`, or the code of the first problem."""
    mebibytes: float = 0.0

    def __str__(self) -> str:
        parts = ", ".join(f"{n} {k}" for k, n in self.ends.most_common())
        return f"{self.ends.total()} files: {parts}; at most {self.mebibytes:.0f} MiB more"


Read = Callable[[Path, bytes], str]
"""Reads the mutated file (path, the content before) and says how it ended."""


@dataclass(frozen=True)
class Target:
    """Files of one kind with the function that reads them."""

    files: list[Path]
    mutate: Callable[[bytes, random.Random], bytes]
    read: Read

    def run(self, count: int, seed: int) -> Tally:
        """Mutates `count` times, each file in turn, and puts it back. Raises whatever is not an end."""
        tally, before = Tally(), _peak()
        contents = {f: f.read_bytes() for f in self.files}
        for number in range(count):
            file = self.files[number % len(self.files)]
            drawn = random.Random(f"{seed}:{file.name}:{number}")
            content = self.mutate(contents[file], drawn)
            file.write_bytes(content)
            try:
                with _at_most(SECONDS):
                    tally.ends[self.read(file, contents[file])] += 1
            except BaseException as e:
                e.add_note(f"{file.name}, number {number} of seed {seed}; the file: {content[:200]!r}")
                raise
            finally:
                file.write_bytes(contents[file])
        tally.mebibytes = (_peak() - before) / 1024
        assert tally.mebibytes < MEBIBYTES, tally
        return tally


def _peak() -> int:
    """Largest size of this process so far, in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@contextlib.contextmanager
def _at_most(seconds: int) -> Iterator[None]:
    def hang(signum: int, frame: object) -> None:
        raise AssertionError(f"a file took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, hang)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _refused(error: UserError) -> str:
    assert all(p.code.startswith("QR") for p in error.problems)
    return error.problems[0].code


def audio_files(folder: Path) -> Target:
    """Recordings of six formats."""
    from qrecipe.data.audio import AudioProblem, load

    kinds: dict[str, dict[str, Any]] = {
        "a.wav": {"subtype": "PCM_16"},
        "b.wav": {"subtype": "FLOAT"},
        "c.flac": {},
        "d.ogg": {"format": "OGG", "subtype": "VORBIS"},
        "e.opus": {"format": "OGG", "subtype": "OPUS"},
        "f.mp3": {},
    }
    files = [audio.write(folder / name, audio.speech(5, 0.8), 24_000, **how) for name, how in kinds.items()]

    def read(file: Path, before: bytes) -> str:
        try:
            clip = load(file, 30.0)
        except AudioProblem:
            return "QR043"
        assert clip.samples.ndim == 1
        assert len(clip.samples) <= 30 * 24_000
        return "accepted"

    return Target(files, mutate_bytes, read)


def manifests(folder: Path) -> Target:
    """Manifests of speech and of text."""
    from qrecipe.inputs.manifest import read_manifest

    data = recipes.write_data(folder)
    files = [data / "train.jsonl", data / "text.jsonl"]

    def mutate(content: bytes, drawn: random.Random) -> bytes:
        lines = content.splitlines(keepends=True)
        at = drawn.randrange(len(lines))
        lines[at] = mutate_json(lines[at], drawn) + b"\n" if drawn.random() < 0.7 else lines[at]
        joined = b"".join(lines)
        return joined if drawn.random() < 0.7 else mutate_bytes(joined, drawn)

    def read(file: Path, before: bytes) -> str:
        found = read_manifest(file, "text" if file.name == "text.jsonl" else "speech", None)
        for row in found.rows:
            assert row.audio is None or row.audio.resolve().is_relative_to(data)
        return found.problems[0].code if found.problems else "accepted"

    return Target(files, mutate, read)


def headers(folder: Path) -> Target:
    """The weights of a base, their header hit more often than not. What is accepted is what safetensors itself reads."""
    from safetensors import safe_open

    from qrecipe.inputs.weight_files import header_shapes

    weights = folder / "model.safetensors"
    small = {"a": [2, 3], "b.weight": [4], "c": [3072, 2]}
    end, header = 0, {}
    for name, shape in small.items():
        start, end = end, end + 2 * (shape[0] * (shape[1] if len(shape) > 1 else 1))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    weights.write_bytes(struct.pack("<Q", len(text)) + text + bytes(end))

    def mutate(content: bytes, drawn: random.Random) -> bytes:
        if drawn.random() < 0.4:
            return mutate_bytes(content, drawn)
        changed = mutate_json(text, drawn)
        return struct.pack("<Q", len(changed)) + changed + content[8 + len(text) :]

    def read(file: Path, before: bytes) -> str:
        try:
            shapes = header_shapes([file], Place("fuzz"))
        except UserError as e:
            return _refused(e)
        try:
            with safe_open(str(file), framework="np") as f:
                found = {k: tuple(f.get_slice(k).get_shape()) for k in f.keys()}  # noqa: SIM118  # not a dict
        except Exception:  # refused when it is opened
            return "QR051 when opened"
        assert found == shapes
        return "accepted"

    return Target([weights], mutate, read)


def configs(folder: Path, mini: Path) -> Target:
    """The small files of a base. What is accepted fits the weights; the tokenizer reads texts or says why not."""
    from qrecipe.inputs.fetch import resolve
    from qrecipe.model.fits import require_fit
    from qrecipe.recipe.base import Base

    base = folder / "base"
    shutil.copytree(mini, base, copy_function=os.link)
    names = ["config.json", "speech_tokenizer/config.json", "tokenizer_config.json", "vocab.json", "merges.txt", "generation_config.json"]
    files = [base / n for n in names]
    for file in files:
        content = file.read_bytes()
        file.unlink()  # the copy is a link to the cache's own
        file.write_bytes(content)

    def mutate(content: bytes, drawn: random.Random) -> bytes:
        return mutate_json(content, drawn) if content.startswith(b"{") else mutate_bytes(content, drawn)

    def read(file: Path, before: bytes) -> str:
        try:
            info = resolve(Base(model="./base"), folder, Place("fuzz"), FileHashes(folder / "hashes.sqlite"))
            if file.name == "config.json":
                require_fit(info)
            elif file.name != "generation_config.json":
                why = info.tokenizer.text_problem("Selamat pagi.")
                return "accepted" if why is None else "QR042"
        except UserError as e:
            return _refused(e)
        return "accepted"

    return Target(files, mutate, read)


def bundles(folder: Path, bundle: Path) -> Target:
    """bundle.json and the lock of a bundle. One that verifies says what it said before."""
    from qrecipe.bundle.verify import verify

    mine = folder / "bundle"
    shutil.copytree(bundle, mine)

    def read(file: Path, before: bytes) -> str:
        try:
            problems = verify(mine)
        except UserError as e:
            return _refused(e)
        if problems:
            return problems[0].code
        said = json.loads(file.read_bytes())
        assert said["files"] == json.loads(before)["files"], "another bundle verifies"
        return "accepted"

    return Target([mine / "bundle.json"], mutate_json, read)


def packs(folder: Path) -> Target:
    """A language pack, hit in its header, its manifest and its bytes. One that is accepted says what it said before."""
    import torch
    from safetensors.torch import save

    from qrecipe.bundle.pack import DOCUMENTS, _hash, read_pack
    from qrecipe.qwen3 import CODEC_TABLE

    tensors = {
        "weight:layer": torch.ones(3, 2, dtype=torch.bfloat16),
        f"rows:{CODEC_TABLE}": torch.tensor([5, 2072]),
        f"values:{CODEC_TABLE}": torch.ones(2, 4, dtype=torch.bfloat16),
        **{f"file:{name}": torch.tensor([65, 66], dtype=torch.uint8) for name in (*DOCUMENTS, "data/a.jsonl")},
    }
    manifest = {
        "pack": 1,
        "name": "malay",
        "version": "0.1.0",
        "bundle": "0" * 64,
        "base": {"model": "builtin:mini", "revision": None, "identity": "x", "dtype": "bfloat16"},
        "languages": {"malay": {"bcp47": "ms", "token_id": 2072}},
        "accepted": True,
        "judging": {
            "accept": [{"metric": "talker_nll", "data": "a", "max": 1.0}],
            "datasets": {"a": "malay"},
            "settings": {"malay": {"bcp47": "ms", "init": {"copy": "english"}}},
            "evaluation": {"seeds": [0]},
            "evaluators": {},
        },
        "qrecipe": "0",
        "tensors": {name: _hash(t) for name, t in tensors.items()},
    }
    text = json.dumps(manifest)
    file = folder / "a.qpack"
    file.write_bytes(save(tensors, metadata={"qrecipe": text}))
    read_pack(file)

    def mutate(content: bytes, drawn: random.Random) -> bytes:
        kind, head = drawn.random(), int.from_bytes(content[:8], "little")
        if kind < 0.2:
            return mutate_bytes(content, drawn)
        header = json.loads(content[8 : 8 + head])
        if kind < 0.6:
            header["__metadata__"]["qrecipe"] = mutate_json(text.encode(), drawn).decode("utf-8", "replace")
            changed = json.dumps(header).encode()
        else:
            changed = mutate_json(json.dumps(header).encode(), drawn)
        return struct.pack("<Q", len(changed)) + changed + content[8 + head :]

    def read(path: Path, before: bytes) -> str:
        try:
            one = read_pack(path)
        except UserError as e:
            return _refused(e)
        assert one.manifest.tensors == manifest["tensors"], "other weights are accepted"
        return "accepted"

    return Target([file], mutate, read)


def ballots(folder: Path) -> Target:
    """A listener's ballot. One that is accepted says what it said before."""
    from qrecipe.inputs.ballots import read_ballots
    from tests.support.ballots import ballot, write

    answers = [(f"base{i}", f"model{i}", n) for i, n in enumerate((-2, 0, 2, 2))]
    file = write(folder, "a.json", ballot(answers=answers))

    def mutate(content: bytes, drawn: random.Random) -> bytes:
        """Whoever makes ballots up can seal them."""
        changed = mutate_json(content, drawn)
        try:
            value = json.loads(changed)
            rest = {k: v for k, v in value.items() if k != "sha256"}
            return json.dumps({**rest, "sha256": digest(rest)}).encode() if drawn.random() < 0.5 else changed
        except (ValueError, AttributeError):
            return changed

    def read(path: Path, before: bytes) -> str:
        accepted, problems = read_ballots(folder, "a.json", folder)
        if problems:
            return problems[0].code
        for one in accepted:
            assert all(abs(a.answer) <= 2 for a in one.answers)
            assert one.sha256 == digest(one.model_dump(mode="json", exclude={"sha256"}))
        return "accepted"

    return Target([file], mutate, read)


@contextlib.contextmanager
def requests(folder: Path) -> Iterator[Target]:
    """Requests to the pages of `listen`, as bytes on a connection. Each ends with a status or a closed connection, and writes no vote."""
    from qrecipe.report.listening import HeardPair, Sound
    from qrecipe.report.serve import served
    from qrecipe.verbs.listen import listening_site

    pair = HeardPair("Selamat pagi.", (Sound("a" * 64, b"fLaC" * 20), Sound("b" * 64, b"fLaC" * 20)))
    site = listening_site("x", [pair], "ab", folder / "votes")
    answer = {"text": pair.text, "first": "a" * 64, "second": "b" * 64, "answer": 2}
    body = json.dumps({"ballot": 1, "listener": "anna", "scale": "ab", "answers": [answer]}).encode()
    with served(site) as address:
        host, _, port = address.removeprefix("http://").rstrip("/").rpartition(":")
        head = f"Host: {host}:{port}\r\nX-Token: {site.token}\r\nConnection: close\r\n"
        sent = {
            "page": f"GET / HTTP/1.1\r\n{head}\r\n".encode(),
            "sound": f"GET /sound/{'a' * 64} HTTP/1.1\r\n{head}Range: bytes=4-9\r\n\r\n".encode(),
            "ballot": f"POST /ballot HTTP/1.1\r\n{head}Content-Length: {len(body)}\r\n\r\n".encode() + body,
        }
        files = [folder / name for name in sent]
        for file in files:
            file.write_bytes(sent[file.name])

        def read(file: Path, before: bytes) -> str:
            shutil.rmtree(folder / "votes", ignore_errors=True)
            reply = b""
            with socket.create_connection((host, int(port)), timeout=SECONDS) as connection, contextlib.suppress(ConnectionError):
                connection.sendall(file.read_bytes())
                connection.shutdown(socket.SHUT_WR)
                while part := connection.recv(65536):
                    reply += part
            for vote in (folder / "votes").glob("**/*"):
                assert json.loads(vote.read_bytes())["answers"][0]["first"] == "a" * 64, "only of the sounds that are served"
                assert vote.parent == folder / "votes"
            status = re.match(rb"HTTP/1\.[01] (\d{3}) ", reply)
            assert status is not None or reply[:1] in (b"", b"<", b"f", b"{"), reply[:80]  # HTTP 0.9 has no status
            return "closed" if status is None else status[1].decode()

        yield Target(files, mutate_bytes, read)


def locks(folder: Path, lock: Path) -> Target:
    """Locks beside a recipe."""
    from qrecipe.run.locking import read_lock

    mine = Path(shutil.copy(lock, folder / "recipe.lock"))

    def read(file: Path, before: bytes) -> str:
        try:
            read_lock(file)
        except UserError as e:
            return _refused(e)
        return "accepted"

    return Target([mine], mutate_json, read)


def recipe_files(folder: Path) -> Target:
    """Recipes."""
    from qrecipe.recipe import inspect

    file = recipes.write(folder)

    def read(path: Path, before: bytes) -> str:
        loaded, problems = inspect(path)
        assert loaded is not None or problems
        return next((p.code for p in problems if p.severity == "error"), "accepted")

    return Target([file], mutate_bytes, read)
