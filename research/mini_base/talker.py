"""Teaches an untrained base to speak: the talker and the predictor, from scratch, on one CUDA device.

    python research/mini_base/talker.py --corpus DIR --codes DIR --base BLANK --out DIR --seconds 480 --total-seconds 960

Every call trains for `--seconds` and leaves `state.pt` and a base that stock qwen_tts loads; calling again goes on, until
the schedule of `--total-seconds` is through. It also runs on a CPU, for trials.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import talker_data
import torch
from safetensors.torch import save_file
from talker_net import Net, Sums, decoder_layer
from torch import Tensor

from qrecipe.inputs.tokenizer import TextTokenizer
from qrecipe.model import prompt


@dataclass(frozen=True)
class Settings:
    """What is trained and how."""

    rows: int = 256
    pair_rows: int = 128
    pair_every: int = 4
    """Every so many steps learn rows behind a reference."""
    rate: float = 2e-3
    warm: int = 300
    decay: float = 0.05
    drop: float = 0.15
    noise: float = 0.1
    masked: tuple[float, float] = (0.7, 0.25)
    """Largest share of frames that are not heard, at the beginning and from four fifths on."""
    streaming: float = 0.6
    """Share of rows in the streaming layout."""
    guide: float = 1.0
    phoneme: float = 0.5
    guided: tuple[int, ...] = (2, 3)
    predicted: float = 0.15
    """Share of frame slots that the predictor learns in a step."""
    average: float = 0.999
    seed: int = 0


def speaker_vectors(model: Any, corpus: Path, voices: int, device: torch.device) -> Tensor:
    """Speaker vectors of `POOL` clips of every voice by the stock speaker encoder: [voices, POOL, H]."""
    found: dict[int, list[Tensor]] = {v: [] for v in range(voices)}
    for path in sorted(corpus.glob("shard-*.npz")):
        if all(len(clips) >= talker_data.POOL for clips in found.values()):
            break
        with np.load(path) as shard:
            audio, samples, voice = shard["audio"], shard["samples"], shard["voice"]
        for stop, count, v in zip(np.cumsum(samples), samples, voice, strict=True):
            if len(found[int(v)]) < talker_data.POOL:
                clip = audio[stop - count : stop].astype(np.float32) / 32768
                found[int(v)].append(model.extract_speaker_embedding(clip, 24_000).detach().float().to(device))
    for v, clips in found.items():
        assert clips, f"no clip of voice {v}"
        while len(clips) < talker_data.POOL:
            clips.append(clips[len(clips) // 2])
    return torch.stack([torch.stack(clips) for clips in found.values()])


class Trainer:
    """The loop: captured steps on CUDA, plain ones elsewhere."""

    def __init__(self, base: Path, corpus: Path, codes: Path, settings: Settings, workers: int, compiled: bool) -> None:
        from qwen_tts import Qwen3TTSModel

        self.began = time.monotonic()
        self.settings, self.base = settings, base
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.cuda = self.device.type == "cuda"
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        torch.manual_seed(settings.seed)
        self.model = Qwen3TTSModel.from_pretrained(str(base), dtype=torch.float32).model.to(self.device)
        layer = torch.compile(decoder_layer, dynamic=False) if compiled and self.cuda else decoder_layer
        self.net = Net(self.model.talker, settings.guided, layer).to(self.device)
        self.net.requires_grad_(True)
        ids = prompt.ControlIds.of(self.model.config)
        tokenizer = TextTokenizer.of_folder(base)
        role = tuple(tokenizer.assistant("a")[0])
        names = json.loads((base / "config.json").read_text(encoding="utf-8"))["talker_config"]["codec_language_id"]
        known = talker_data.Base(str(base), ids, role, (names["english"], names["spanish"]))
        clips = list(talker_data.read(corpus, codes))
        held = list(talker_data.read(corpus, codes, "held"))
        voices = max(clip.voice for clip in clips) + 1
        vectors = speaker_vectors(self.model, corpus, voices, self.device)
        self.say(f"{len(clips)} clips, {sum(len(c.codes) for c in clips) / 12.5 / 3600:.1f} h, {voices} voices")
        pairs = 60_000 if self.cuda else 40
        self.corpus = talker_data.Corpus(known, clips, vectors, self.device, workers, settings.seed, pairs)
        self.held = talker_data.Corpus(known, held, vectors, self.device, workers, 1, 0)
        self.wrong = talker_data.Corpus(known, talker_data.misread(held), vectors, self.device, workers, 1, 0)
        self.say(f"{len(self.corpus.clips)} clips fit, {len(self.held.clips)} held out")
        self.parameters = [p for p in self.net.parameters() if p.requires_grad]
        self.rate = torch.zeros((), device=self.device)
        self.masked = torch.tensor(settings.masked[0], device=self.device)
        groups = [
            {"params": [p for p in self.parameters if p.dim() > 1], "weight_decay": settings.decay},
            {"params": [p for p in self.parameters if p.dim() <= 1], "weight_decay": 0.0},
        ]
        rate: Any = self.rate if self.cuda else 0.0
        self.optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), fused=self.cuda, capturable=self.cuda)
        self.mean = [p.detach().clone() for p in self.parameters]
        self.seen = torch.zeros(6, device=self.device)
        self.step, self.spent = 0, 0.0

    def say(self, line: str) -> None:
        """Prints with the time since the start."""
        print(f"[{time.monotonic() - self.began:7.1f}] {line}", flush=True)

    def _autocast(self) -> Any:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.cuda)

    def _learn(self, pairs: bool) -> None:
        s, c = self.settings, self.corpus
        size = s.pair_rows if pairs else s.rows
        index = c.draw(size, pairs)
        streaming = torch.rand(size, device=self.device) < s.streaming
        rows = (c.pair_batch if pairs else c.batch)(index, streaming, s.noise, self.masked)
        with self._autocast():
            sums: Sums = self.net(rows, s.drop, not pairs, not pairs, int(rows.codes.shape[0] * rows.codes.shape[1] * s.predicted))
        talker, predictor = sums.talker / sums.labels, sums.predictor / sums.codes.clamp(min=1)
        loss = talker + predictor + s.guide * sums.guide + s.phoneme * sums.phoneme
        if pairs:
            loss = loss + 0.0 * self.net.phoneme_head.weight.sum()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        torch._foreach_lerp_(self.mean, [p.detach() for p in self.parameters], 1 - s.average)
        if not pairs:
            one = torch.ones_like(talker)
            self.seen += torch.stack([talker.detach(), predictor.detach(), sums.guide.detach(), sums.phoneme.detach(), norm.detach(), one])

    def captured(self, pairs: bool) -> Callable[[], None]:
        """One step as a CUDA graph, or the plain step where there is none."""
        if not self.cuda:
            return lambda: self._learn(pairs)
        began = time.monotonic()
        self.rate.zero_()  # warming up must not move anything
        kept = [m.clone() for m in self.mean]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self._learn(pairs)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._learn(pairs)
        torch.cuda.synchronize()
        self.seen.zero_()
        for mean, before in zip(self.mean, kept, strict=True):
            mean.copy_(before)
        self.say(f"captured the {'paired' if pairs else 'plain'} step in {time.monotonic() - began:.1f} s")
        return graph.replay

    def train(self, seconds: float, total: float, steps: int, every: int) -> None:
        """Trains until `seconds` are over, or `steps` are done."""
        s = self.settings
        plain, paired = self.captured(False), self.captured(True)
        began, before, stop = time.monotonic(), self.spent, self.step + steps
        while self.step < stop:
            self.spent = before + time.monotonic() - began
            share = self.spent / total
            if share >= 1 or self.spent - before >= seconds:
                break
            rate = s.rate * min(1.0, (self.step + 1) / s.warm) * (0.02 + 0.49 * (1 + math.cos(math.pi * share)))
            self.rate.fill_(rate)
            if not self.cuda:
                for group in self.optimizer.param_groups:
                    group["lr"] = rate
            first, last = s.masked
            self.masked.fill_(first + (last - first) * min(1.0, share * 1.25))
            (paired if self.step % s.pair_every == s.pair_every - 1 else plain)()
            self.step += 1
            if self.step % every == 0:
                self.report(rate)
        if self.cuda:
            torch.cuda.synchronize()
        self.spent = before + time.monotonic() - began
        self.report(0.0)

    def report(self, rate: float) -> None:
        """Prints training losses since the last report and the averaged weights' held-out losses with true and with wrong texts."""
        n = float(self.seen[-1]) or 1.0
        talker, predictor, guide, phoneme, norm = (float(v) / n for v in self.seen[:-1])
        self.seen.zero_()
        line = f"step {self.step} rate {rate:.1e} talker {talker:.3f} predictor {predictor:.3f} guide {guide:.2f} phoneme {phoneme:.2f} norm {norm:.2f}"
        with self.averaged():
            for streaming in (True, False):
                right, wrong = self.measure(self.held, streaming), self.measure(self.wrong, streaming)
                name = "streaming" if streaming else "whole"
                parts = " ".join(f"{k} {right[k]:.3f} (+{wrong[k] - right[k]:.2f})" for k in sorted(right) if not k.startswith("predictor"))
                line += f" | {name}: {parts} predictor {right['predictor']:.3f}"
        self.say(line)

    @torch.no_grad()
    def measure(self, corpus: talker_data.Corpus, streaming: bool) -> dict[str, float]:
        """Held-out losses a label: the talker's by language, and the predictor's."""
        self.net.eval()
        out: dict[str, float] = {}
        codes = predicted = 0.0
        for language, name in enumerate(("en", "es")):
            total = labels = 0.0
            members = torch.nonzero(corpus.language == language).squeeze(-1)
            for k in range(0, len(members), 256):
                index = members[k : k + 256]
                with self._autocast():
                    sums = self.net(corpus.batch(index, torch.full((len(index),), streaming, device=self.device)))
                total, labels = total + float(sums.talker), labels + float(sums.labels)
                predicted, codes = predicted + float(sums.predictor), codes + float(sums.codes)
            out[name] = total / max(labels, 1)
        out["predictor"] = predicted / max(codes, 1)
        self.net.train()
        return out

    def averaged(self) -> Any:
        """Context in which the averaged weights are in place."""
        return _Swapped(self.parameters, self.mean)

    def save(self, out: Path) -> None:
        """Writes the base with averaged weights, and the state to go on from."""
        out.mkdir(parents=True, exist_ok=True)
        for path in self.base.iterdir():
            if path.is_file() and not path.name.startswith("model"):
                shutil.copyfile(path, out / path.name)
        shutil.copytree(self.base / "speech_tokenizer", out / "speech_tokenizer", dirs_exist_ok=True)
        with self.averaged():
            tensors = {name: value.detach().to(torch.bfloat16).cpu().contiguous() for name, value in self.model.state_dict().items()}
        save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
        state = {
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "mean": self.mean,
            "step": self.step,
            "spent": self.spent,
            "random": torch.get_rng_state(),
        }
        torch.save(state, out / "state.pt.partial")
        (out / "state.pt.partial").rename(out / "state.pt")
        self.say(f"saved step {self.step}, {self.spent:.0f} s, in {out}")

    def resume(self, out: Path) -> None:
        """Goes on from the state of an earlier call, if there is one."""
        if not (out / "state.pt").exists():
            return
        state = torch.load(out / "state.pt", map_location=self.device, weights_only=True)
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.cuda:
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate
        for mean, saved in zip(self.mean, state["mean"], strict=True):
            mean.copy_(saved)
        self.step, self.spent = state["step"], state["spent"]
        torch.manual_seed(self.settings.seed + self.step)
        self.say(f"going on at step {self.step}, {self.spent:.0f} s")


class _Swapped:
    def __init__(self, parameters: list[Any], values: list[Tensor]) -> None:
        self.parameters, self.values = parameters, values

    def __enter__(self) -> None:
        self.kept = [p.detach().clone() for p in self.parameters]
        for p, value in zip(self.parameters, self.values, strict=True):
            p.data.copy_(value)

    def __exit__(self, *_: object) -> None:
        for p, value in zip(self.parameters, self.kept, strict=True):
            p.data.copy_(value)


def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--codes", type=Path, required=True)
    parser.add_argument("--base", type=Path, required=True, help="folder that base.py blank wrote")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=480)
    parser.add_argument("--total-seconds", type=float, default=480)
    parser.add_argument("--steps", type=int, default=10**9, help="stop after so many steps (trials)")
    parser.add_argument("--every", type=int, default=2000, help="steps between reports")
    parser.add_argument("--rows", type=int, default=Settings.rows)
    parser.add_argument("--pair-rows", type=int, default=Settings.pair_rows)
    parser.add_argument("--rate", type=float, default=Settings.rate)
    parser.add_argument("--seed", type=int, default=Settings.seed)
    parser.add_argument("--workers", type=int, default=14)
    parser.add_argument("--no-compile", action="store_true")
    args = parser.parse_args()
    settings = Settings(rows=args.rows, pair_rows=args.pair_rows, rate=args.rate, seed=args.seed)
    trainer = Trainer(args.base, args.corpus, args.codes, settings, args.workers, not args.no_compile)
    trainer.resume(args.out)
    trainer.train(args.seconds, args.total_seconds, args.steps, args.every)
    trainer.save(args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
