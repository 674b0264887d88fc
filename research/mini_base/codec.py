"""Train the speech tokenizer of the embedded base, write it as a stock folder, and encode a corpus with it.

Training is one schedule over as many calls as needed; each call goes on where the last one ended. Shards of audio (see
codec_data.py) may still be appearing while it trains. A GPU is assumed; without one everything works, slowly.

    python research/mini_base/codec.py train --data shards --out codec --seconds 480 --total-seconds 730
    python research/mini_base/codec.py train --data shards --out codec --seconds 250 --total-seconds 730
    python research/mini_base/codec.py train --data shards --out decoder --start speech_tokenizer --only decoder
    python research/mini_base/codec.py train --data shards --out encoder --start speech_tokenizer --only encoder --filters 32
    python research/mini_base/codec.py export --run codec --out speech_tokenizer
    python research/mini_base/codec.py encode --shards shards --model speech_tokenizer --out codes

Exit codes: 0 done, 1 the data or a checkpoint is not usable, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

STARTED = time.monotonic()

import numpy as np  # noqa: E402  (the clock starts before the imports, which take seconds)
import torch  # noqa: E402
from codec_encode import encode_folder  # noqa: E402
from codec_model import Codec, Sizes, export  # noqa: E402
from codec_train import CHECKPOINT, CaptureError, DivergedError, Settings, Trainer, read_checkpoint  # noqa: E402
from qwen_tts import Qwen3TTSTokenizer  # noqa: E402
from voices import FRAME, RATE  # noqa: E402


class Tee:
    """Lines with the seconds since `started`, to standard output and to a file, at once."""

    def __init__(self, path: Path, started: float) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8")
        self._started = started

    def __call__(self, line: str) -> None:
        """Writes one line."""
        text = f"[{time.monotonic() - self._started:7.1f}] {line}"
        print(text, flush=True)
        print(text, file=self._file, flush=True)


def train(arguments: argparse.Namespace) -> None:
    """One call of the training."""
    log = Tee(arguments.out / "train.log", arguments.started)
    settings = Settings(**{field.name: getattr(arguments, field.name) for field in fields(Settings)})
    sizes = Sizes(**{field.name: getattr(arguments, field.name) for field in fields(Sizes)})
    try:
        progress = Trainer(settings, sizes, arguments.data, arguments.out, log, arguments.started).run()
    except CaptureError as error:
        without = "--no-compile" if settings.compile else "--no-graph"
        log(f"no CUDA graph, starting again with {without}: {error}")
        left = settings.seconds - (time.monotonic() - arguments.started)
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, *sys.argv, without, "--seconds", f"{left:.0f}"])
    log(f"{arguments.out / CHECKPOINT}: {progress:.1%} of the schedule" + ("" if progress >= 1 else "; call again to go on"))


def write(arguments: argparse.Namespace) -> None:
    """Export the last checkpoint and check it in the stock classes."""
    state = read_checkpoint(arguments.run, torch.device("cpu"))
    if state is None:
        raise ValueError(f"{arguments.run / CHECKPOINT}: not found; train first")
    if not state["quantised"]:
        raise ValueError(f"{arguments.run / CHECKPOINT}: step {state['step']} has no books yet; train on")
    codec = Codec(Sizes(**state["sizes"]))
    codec.load_state_dict(state["codec"])
    if state["only"]:
        codec.hold(state["only"])
    export(codec, state["average"] or [parameter.detach().clone() for parameter in codec.trained()], arguments.out)
    stock = Qwen3TTSTokenizer.from_pretrained(str(arguments.out), dtype=torch.float32)
    noise = np.random.default_rng(0).normal(0, 0.1, 25 * FRAME).astype(np.float32)
    codes = stock.encode([noise], sr=RATE)
    audio, _ = stock.decode(codes)
    if codes.audio_codes[0].shape != (25, state["sizes"]["books"]) or len(audio[0]) != len(noise) or not np.isfinite(audio[0]).all():
        raise ValueError(f"{arguments.out}: the stock classes do not encode and decode with it")
    size = sum(path.stat().st_size for path in arguments.out.iterdir())
    kind = "averaged" if state["average"] else "last"
    print(f"{arguments.out}: step {state['step']}, {kind} weights, {size / 1e6:.2f} MB, loads and runs in the stock classes")


def parser() -> argparse.ArgumentParser:
    """The command line; every field of `Settings` and `Sizes` is an option of `train`."""
    top = argparse.ArgumentParser(prog="codec.py", description=(__doc__ or "").split("\n")[0])
    verbs = top.add_subparsers(required=True)
    verb = verbs.add_parser("train", help="train, or go on training")
    verb.add_argument("--data", type=Path, required=True, help="folder of shards")
    verb.add_argument("--out", type=Path, required=True, help="folder of the checkpoint and the log")
    for model in (Settings, Sizes):
        for field in fields(model):
            name = "--" + field.name.replace("_", "-")
            if isinstance(field.default, bool):
                verb.add_argument(name, default=field.default, action=argparse.BooleanOptionalAction)
            else:
                verb.add_argument(name, type=type(field.default), default=field.default)
    verb.set_defaults(call=train)
    verb = verbs.add_parser("export", help="write the folder that stock Qwen3TTSTokenizer loads")
    verb.add_argument("--run", type=Path, required=True, help="folder of the checkpoint")
    verb.add_argument("--out", type=Path, required=True)
    verb.set_defaults(call=write)
    verb = verbs.add_parser("encode", help="write the codes of every shard")
    verb.add_argument("--shards", type=Path, required=True)
    verb.add_argument("--model", type=Path, required=True, help="an exported folder")
    verb.add_argument("--out", type=Path, required=True)
    verb.set_defaults(call=lambda a: encode_folder(a.shards, a.model, a.out, Tee(a.out / "encode.log", a.started)))
    return top


def main(argv: Sequence[str] | None = None, started: float | None = None) -> int:
    """Runs one verb; its time counts from `started` (`time.monotonic()`), by default from now."""
    arguments = parser().parse_args(argv)
    arguments.started = time.monotonic() if started is None else started
    try:
        arguments.call(arguments)
    except (ValueError, OSError, DivergedError) as error:
        print(f"codec.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(started=STARTED))
