"""The training of the miniature speech tokenizer: one schedule over several calls, each of which may be cut off.

Three phases follow each other. *continuous*: nothing is quantised, so that the books have something to start from.
*quantised*: books set by k-means, then moving with what they quantise. *adversarial*: a discriminator joins.
On a GPU each phase runs as one captured CUDA graph, because a step is thousands of short kernels. What changes from step
to step (learning rates, weights of losses, the clips) lies in tensors that keep their place.
"""

from __future__ import annotations

import gc
import math
import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from codec_data import PASSING, Buffer, Held, Log, Reader, held_out
from codec_losses import (
    Discriminator,
    FrameMel,
    MelLoss,
    Recogniser,
    adversarial_loss,
    discriminator_loss,
    feature_loss,
    hearing_loss,
    naming_loss,
)
from codec_model import Codec, Forward, Sizes, Snake, phoneme_loss, snake, take
from qwen_tts.core import Qwen3TTSTokenizerV2Model
from torch import Tensor
from voices import FRAME

Phase = Literal["continuous", "quantised", "adversarial"]

CHECKPOINT = "checkpoint.pt"
ACCUMULATED = (
    "mel",
    "latent",
    "semantic",
    "phonemes",
    "commitment",
    "copied",
    "named",
    "hearing",
    "adversarial",
    "features",
    "discriminator",
    "gradient",
)
QUEUED = 4
"""Steps that the CPU may be ahead of the GPU, so that the clock means something."""
AVERAGE_EVERY, AVERAGE_DECAY = 4, 0.99
HEARING_STEPS = 1000
"""Steps until what the recogniser hears counts in full: it begins with nothing."""
COPYING = 10.0
"""Weight of the distance to what the encoder of `start` says, for a new one that has said nothing yet."""
KMEANS_BATCHES = 24


class CaptureError(Exception):
    """A step could not be captured in a CUDA graph. The process must be started again: its GPU state is undefined."""


class DivergedError(Exception):
    """A loss is not finite; the last checkpoint is from before."""


@dataclass(frozen=True)
class Settings:
    """How to train; every field is an option of `codec.py train`."""

    total_seconds: float = 730.0
    """Length of the whole schedule, in seconds of all calls together, from the start of each."""
    total_steps: int = 0
    """If set, the schedule's length in steps, and the clock does not count."""
    seconds: float = 480.0
    """End this call so many seconds after it started, with a checkpoint."""
    steps: int = 0
    """If set, end this call after so many steps."""
    batch: int = 24
    """Crops a step."""
    frames: int = 40
    """Frames a crop (80 ms each): about an utterance, because the encoder sees everything before."""
    lr: float = 6e-4
    """Highest learning rate; it rises over 100 steps and falls linearly."""
    discriminator_lr: float = 3e-4
    warmup_steps: int = 400
    """Steps of the continuous phase."""
    adversarial_share: float = 0.3
    """Last part of the schedule with a discriminator, whose steps take several times as long."""
    adversarial_frames: int = 16
    """Frames of each crop that the discriminator sees."""
    average_share: float = 0.2
    """Last part of the schedule over which weights are averaged; the average is what is exported."""
    first_hours: float = 2.0
    """Hours of audio that must be there before the first step."""
    buffer_hours: float = 80.0
    """Room for audio on the device, 173 MB an hour."""
    report_every: int = 500
    """Steps between two reports with held-out losses."""
    held_clips: int = 8
    """Held-out clips of each voice that a report measures."""
    phoneme_weight: float = 0.5
    """Weight of either phoneme head's cross-entropy."""
    hearing_weight: float = 1.5
    """Weight of the distance between what a recogniser hears in a recording and in what became of it; 0: there is no recogniser."""
    recogniser_lr: float = 1e-3
    start: str = ""
    """Begin with the weights and books of this exported folder; default: from nothing. The encoder may be of other sizes (`filters`,
    `encoder_layers`): then it begins from nothing, and copies the one of the folder in the continuous phase."""
    only: str = ""
    """`decoder`: only what follows the books of `start` learns, so that all audio keeps its codes, and what was trained on them stays
    true. `encoder`: only what comes before them, so that all codes keep their sound and audio finds better ones."""
    seed: int = 0
    graph: bool = True
    """Capture steps in CUDA graphs (on a GPU)."""
    compile: bool = True
    """Compile the decoder's activation (on a GPU), which is most of its memory traffic."""
    cudnn_benchmark: bool = False
    """Let cuDNN time its algorithms; that alone takes most of a minute."""


def compiled_snake(device: torch.device, log: Log) -> Snake:
    """The activation as one kernel each way, or as it is where compiling fails or gives something else."""
    start = time.monotonic()
    try:
        from torch._inductor import config  # only where it is used: it takes seconds

        config.compile_threads = 1  # two small kernels; starting workers would take longer
        fused = torch.compile(snake, dynamic=True)
        results: list[list[Tensor]] = []
        x, alpha, beta = torch.randn(4, 16, 4000, device=device), torch.randn(16, device=device), torch.randn(16, device=device)
        for function in (snake, fused):
            inputs = x.bfloat16().requires_grad_(), alpha.clone().requires_grad_(), beta.clone().requires_grad_()
            out = function(*inputs)
            results.append([out, *torch.autograd.grad(out.float().square().mean(), inputs)])
        for one, other in zip(*results, strict=True):
            torch.testing.assert_close(other, one, rtol=2e-2, atol=2e-2 * float(one.detach().abs().max()))
    except Exception as error:  # whatever the compiler raises, training goes on without it
        log(f"activation not compiled: {type(error).__name__}: {str(error)[:300]}")
        return snake
    log(f"activation compiled in {time.monotonic() - start:.1f} s")
    return fused


def _backward(loss: Tensor, parameters: list[torch.nn.Parameter], most: float) -> Tensor:
    """Fresh gradients of a loss, cut to a norm of `most`; returns the norm that they had."""
    for parameter in parameters:
        parameter.grad = None
    loss.backward()
    return torch.nn.utils.clip_grad_norm_(parameters, most)


class Trainer:
    """One call of the training.

    Args:
        settings: how.
        sizes: of the model; those of the checkpoint must be the same.
        data: folder of shards.
        out: folder of the checkpoint, which is read if it is there.
        log: where lines go.
        started: `time.monotonic()` of the start of the call.
    """

    def __init__(self, settings: Settings, sizes: Sizes, data: Path, out: Path, log: Log, started: float) -> None:
        self.settings, self.data, self.out, self.log, self.started = settings, data, out, log, started
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.gpu = self.device.type == "cuda"
        self.step, self.before, self.quantised = 0, 0.0, False
        self.average: list[Tensor] = []
        self.averaged = 0
        torch.manual_seed(settings.seed)
        if self.gpu:
            # fp32 stays fp32 where it is asked for (books, spectra); what is heavy runs in bfloat16 by autocast.
            torch.backends.cuda.matmul.allow_tf32 = False
            torch.backends.cudnn.allow_tf32 = True
            torch.backends.cudnn.benchmark = settings.cudnn_benchmark
        self.codec = Codec(sizes).to(self.device).train()
        if settings.only not in ("", "encoder", "decoder"):
            raise ValueError(f"only: `{settings.only}` is neither `encoder` nor `decoder`")
        if settings.only:
            self.codec.hold(settings.only)
        self.discriminator = Discriminator().to(self.device)
        self.recogniser = Recogniser().to(self.device)
        self.mel, self.frame_mel = MelLoss().to(self.device), FrameMel().to(self.device)
        activation = compiled_snake(self.device, log) if self.gpu and settings.compile else snake
        self.forward = Forward(self.codec.stock, activation)
        self.measuring = Forward(self.codec.stock)
        self.parameters = self.codec.trained()
        self.rate, self.discriminator_rate, self.recogniser_rate = (torch.zeros((), device=self.device) for _ in range(3))
        self.optimizer = self._adam(self.parameters, self.rate, 1e-3)
        self.discriminator_optimizer = self._adam(list(self.discriminator.parameters()), self.discriminator_rate, 0.0)
        self.recogniser_optimizer = self._adam(list(self.recogniser.parameters()), self.recogniser_rate, 1e-2)
        self.head_weight, self.hearing_weight, self.adversarial_weight = (torch.zeros((), device=self.device) for _ in range(3))
        self.sums = torch.zeros(len(ACCUMULATED) + 1, device=self.device)
        self.teacher: Forward | None = None
        self._load()
        if self.gpu:
            torch.cuda.manual_seed(settings.seed + self.step)
        self.buffer = Buffer(settings.buffer_hours, self.device)
        self.reader = Reader(data, log, settings.seed + self.step)
        self.held: Held | None = None
        parts = (("encoder", self.codec.stock.encoder), ("decoder", self.codec.stock.decoder))
        sizes_text = ", ".join(f"{name} {sum(p.numel() for p in part.parameters()) / 1e6:.2f}M" for name, part in parts)
        log(f"{self.device}, {sizes_text}; step {self.step} after {self.before:.0f} s")

    def _adam(self, parameters: list[torch.nn.Parameter], rate: Tensor, decay: float) -> torch.optim.Optimizer:
        """AdamW whose learning rate and step count are tensors, so that a graph can hold its step."""
        return torch.optim.AdamW(parameters, lr=rate, betas=(0.8, 0.99), weight_decay=decay, fused=self.gpu, capturable=self.gpu)

    def elapsed(self) -> float:
        """Seconds of all calls so far."""
        return self.before + time.monotonic() - self.started

    def progress(self) -> float:
        """Place in the schedule, 0 to 1."""
        if self.settings.total_steps:
            return min(1.0, self.step / self.settings.total_steps)
        return min(1.0, self.elapsed() / self.settings.total_seconds)

    # --- one step -----------------------------------------------------------------------------------------------------

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.gpu)

    def _train_step(self, phase: Phase) -> None:
        """Everything from drawing clips to the optimizer's step; never waits for the GPU."""
        clips, samples = self.settings.batch, self.settings.frames * FRAME
        heard, real, phonemes = self.buffer.draw(clips, samples)
        with self._autocast():
            semantic, acoustic = self.forward.project(self.forward.embed(heard))
        commitment = real.new_zeros(())
        if phase != "continuous":
            semantic, one = self.codec.semantic(semantic)
            keep = None if self.settings.only else self._kept_books(clips).repeat_interleave(self.settings.frames)
            acoustic, rest = self.codec.acoustic(acoustic, keep)
            commitment = one + rest
        copied = real.new_zeros(())
        if phase == "continuous" and self.teacher is not None:
            with torch.no_grad(), self._autocast():
                told = self.teacher.project(self.teacher.embed(heard))
            copied = sum(((z - t).square().mean() / t.var() for z, t in zip((semantic, acoustic), told, strict=True)), copied)
        with self._autocast():
            latent = self.forward.latent(semantic, acoustic, clips)
            made = self.forward.decode(latent)
            latent_mel = self.codec.latent_head(latent.transpose(1, 2))
            first = semantic.view(clips, -1, semantic.shape[1])
            semantic_mel = self.codec.semantic_head(first)
            named = [self.codec.latent_phonemes(latent), self.codec.semantic_phonemes(first.transpose(1, 2))]
        made = made.float()
        target = self.frame_mel(real)
        mel = self.mel(made, real)
        latent_loss = (latent_mel.float() - target).abs().mean()
        semantic_loss = (semantic_mel.float() - target).abs().mean()
        phoneme = phoneme_loss(named[0], phonemes) + phoneme_loss(named[1], phonemes)
        loss = 15 * mel + self.head_weight * (2 * latent_loss + 1.5 * semantic_loss) + 0.5 * commitment
        loss = loss + self.settings.phoneme_weight * phoneme + COPYING * copied
        fooled = features = judging = named_loss = hearing = real.new_zeros(())
        if self.settings.hearing_weight:
            hearing, named_loss = self._listen(self.frame_mel(made), target, phonemes)
            loss = loss + self.hearing_weight * hearing
        if phase == "adversarial":
            fooled, features, judging = self._judge(made, real)
            loss = loss + self.adversarial_weight * (fooled + 2 * features)
        gradient = _backward(loss, self.parameters, 5.0)
        self.optimizer.step()
        if self.settings.hearing_weight:
            self.recogniser_optimizer.step()  # not before: the way back above goes through what it was
        codec = (mel, latent_loss, semantic_loss, phoneme, commitment, copied)
        values = (*codec, named_loss, hearing, fooled, features, judging, gradient, torch.ones_like(mel))
        self.sums.add_(torch.stack([value.detach() for value in values]))

    def _listen(self, made: Tensor, real: Tensor, phonemes: Tensor) -> tuple[Tensor, Tensor]:
        """A step of the recogniser on recordings, then how differently it hears what became of them: that, and its own loss."""
        with self._autocast():
            of_real = self.recogniser(real)
        naming = naming_loss(of_real, phonemes)
        _backward(naming, list(self.recogniser.parameters()), 5.0)
        self.recogniser.requires_grad_(False)
        with self._autocast():
            of_made = self.recogniser(made)
        hearing = hearing_loss(of_real, of_made)
        self.recogniser.requires_grad_(True)
        return hearing, naming

    def _kept_books(self, clips: int) -> Tensor:
        """How many acoustic books count for each clip: all for 70 %, a random number for the others, so that books are ordered."""
        books = self.codec.sizes.books - 1
        fewer = torch.randint(0, books, (clips,), device=self.device)
        return torch.where(torch.rand(clips, device=self.device) < 0.3, fewer, torch.full_like(fewer, books))

    def _judge(self, made: Tensor, real: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A step of the discriminator on a random part of each crop, then what it makes of the same part."""
        size = min(self.settings.adversarial_frames, self.settings.frames) * FRAME
        start = (torch.rand(len(real), 1, device=self.device) * (real.shape[1] - size)).long()
        window = start + torch.arange(size, device=self.device)
        made, real = made.gather(1, window), real.gather(1, window)
        with self._autocast():
            of_real, of_made = self.discriminator(real), self.discriminator(made.detach())
        judging = discriminator_loss(of_real, of_made)
        _backward(judging, list(self.discriminator.parameters()), 10.0)
        self.discriminator_optimizer.step()
        self.discriminator.requires_grad_(False)
        with self._autocast():
            of_made = self.discriminator(made)
        self.discriminator.requires_grad_(True)
        return adversarial_loss(of_made), feature_loss(of_real, of_made), judging

    # --- phases -------------------------------------------------------------------------------------------------------

    def _phase(self, progress: float) -> Phase:
        if self.step < self.settings.warmup_steps and not self.quantised:
            return "continuous"
        return "adversarial" if progress >= 1 - self.settings.adversarial_share else "quantised"

    def _enter(self, phase: Phase) -> Callable[[], None]:
        """What runs a step of a phase."""
        if phase != "continuous" and not self.quantised:
            if not self.settings.start:
                self._start_books()
            self.quantised = True
        if not (self.gpu and self.settings.graph):
            return lambda: self._train_step(phase)
        if self.step:
            self.save()
        if phase == "adversarial":
            self._arrange_discriminator()
        start = time.monotonic()
        for parameter in self.parameters:
            parameter.grad = None
        gc.collect()
        torch.cuda.empty_cache()
        try:
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):
                    self._train_step(phase)
            torch.cuda.current_stream().wait_stream(side)
            torch.cuda.synchronize()
            self.step += 3
            warm = time.monotonic()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self._train_step(phase)
            torch.cuda.synchronize()
        except Exception as error:  # CUDA, the allocator, the compiler and autograd each raise their own
            raise CaptureError(f"{type(error).__name__}: {str(error)[:400]}") from error
        log_text = f"warm-up {warm - start:.1f} s, capture {time.monotonic() - warm:.1f} s"
        self.log(f"phase {phase} captured: {log_text}, {torch.cuda.memory_reserved() / 1e9:.1f} GB reserved")
        return graph.replay

    def _arrange_discriminator(self) -> None:
        """Time the discriminator in both memory layouts and keep the faster: which one that is depends on GPU and library."""
        audio = self.buffer.draw(self.settings.batch, min(self.settings.adversarial_frames, self.settings.frames) * FRAME).audio
        taken: dict[torch.memory_format, float] = {}
        for layout in (torch.contiguous_format, torch.channels_last):
            self.discriminator.arrange(layout)
            for _ in range(4):
                torch.cuda.synchronize()
                start = time.monotonic()
                with self._autocast():
                    judged = self.discriminator(audio)
                adversarial_loss(judged).backward()
                torch.cuda.synchronize()
                taken[layout] = time.monotonic() - start  # of the last round; the first ones load kernels
        for parameter in self.discriminator.parameters():
            parameter.grad = None
        best = min(taken, key=lambda layout: taken[layout])
        self.discriminator.arrange(best)
        times = ", ".join(f"{layout} {1000 * seconds:.0f} ms" for layout, seconds in taken.items())
        self.log(f"discriminator forward and backward: {times}; keeps {best}")

    @torch.no_grad()
    def _start_books(self) -> None:
        clips, frames = self.settings.batch, self.settings.frames
        pairs: list[tuple[Tensor, Tensor]] = []
        for _ in range(KMEANS_BATCHES):
            with self._autocast():
                pairs.append(self.forward.project(self.forward.embed(self.buffer.draw(clips, frames * FRAME).heard)))
        self.codec.semantic.start(torch.cat([pair[0] for pair in pairs]), clips * frames)
        self.codec.acoustic.start(torch.cat([pair[1] for pair in pairs]), clips * frames)
        self.log(f"books set by k-means at step {self.step}")

    def _schedule(self, progress: float) -> None:
        settings = self.settings
        self.rate.fill_(settings.lr * min(1.0, (self.step + 1) / 100) * (1 - 0.98 * progress))
        self.discriminator_rate.fill_(settings.discriminator_lr * (1 - 0.8 * progress))
        self.recogniser_rate.fill_(settings.recogniser_lr * min(1.0, (self.step + 1) / 100) * (1 - 0.9 * progress))
        self.head_weight.fill_(max(0.3, 1 - progress / 0.6))
        self.hearing_weight.fill_(settings.hearing_weight * min(1.0, self.step / HEARING_STEPS))
        since = progress - (1 - settings.adversarial_share)
        self.adversarial_weight.fill_(min(1.0, max(0.0, since / 0.05)))

    def _average(self) -> None:
        if not self.average:
            self.average = [parameter.detach().clone() for parameter in self.parameters]
        self.averaged += 1
        share = max(1 / self.averaged, 1 - AVERAGE_DECAY)
        torch._foreach_lerp_(self.average, [parameter.detach() for parameter in self.parameters], share)

    # --- the call -----------------------------------------------------------------------------------------------------

    def run(self) -> float:
        """Train until this call's budget or the schedule ends, and write the checkpoint.

        Returns:
            The place in the schedule, 1 when it is complete.

        Raises:
            CaptureError: see there. The checkpoint is from just before.
            DivergedError: see there.
            ValueError: too little data until the budget ended, or a broken held-out shard.
        """
        settings = self.settings
        first, saved, mark = self.step, time.monotonic(), (self.step, time.monotonic())
        self.reader.start()
        try:
            self._wait_for_data()
            phase: Phase | None = None
            run_step: Callable[[], None] | None = None
            queued: deque[torch.cuda.Event] = deque()
            mark = (self.step, time.monotonic())
            while True:
                progress, now = self.progress(), time.monotonic()
                over = settings.steps and self.step - first >= settings.steps
                if progress >= 1 or over or now - self.started >= settings.seconds:
                    break
                self._take_shard()
                self._schedule(progress)
                wanted = self._phase(progress)
                if run_step is None or wanted != phase:
                    run_step = None  # frees the graph before the next one is captured
                    phase, run_step = wanted, self._enter(wanted)
                    mark = (self.step, time.monotonic())
                    self.sums.zero_()
                run_step()
                self.step += 1
                if self.gpu:
                    queued.append(torch.cuda.Event())
                    queued[-1].record()
                    if len(queued) > QUEUED:
                        queued.popleft().synchronize()
                if progress >= 1 - settings.average_share and self.step % AVERAGE_EVERY == 0:
                    self._average()
                if self.step % settings.report_every == 0 or self.step - first in (50, 150):
                    self._report(phase, mark)
                    mark = (self.step, time.monotonic())
                if now - saved >= 60:
                    self.save()
                    saved = time.monotonic()
        finally:
            self.reader.stop()
        self._report(phase, mark)
        self.save()
        if self.average:
            self._report_average()
        return self.progress()

    def _wait_for_data(self) -> None:
        told = time.monotonic()
        while self.buffer.hours < self.settings.first_hours and not self.buffer.full:
            if not self._take_shard():
                time.sleep(0.1)
            now = time.monotonic()
            if now - self.started >= self.settings.seconds:
                raise ValueError(f"{self.data}: only {self.buffer.hours:.2f} of {self.settings.first_hours} hours within this call")
            if now - told > 10:
                self.log(f"{self.buffer.hours:.2f} of {self.settings.first_hours} hours are there")
                told = now
        hours = self.buffer.hours_by_voice()
        voices = ", ".join(f"{voice}: {hours[voice]:.2f} h" for voice in hours if voice < PASSING)
        passing = sum(hours[voice] for voice in hours if voice >= PASSING)
        self.log(f"starting with {self.buffer.clips} clips, voices {voices or 'none'}, passing ones {passing:.2f} h")

    def _take_shard(self) -> bool:
        if self.buffer.full or self.reader.ready.empty():
            return False
        self.buffer.add(self.reader.ready.get_nowait())
        if self.buffer.full:
            self.reader.stop()
            self.log(f"the buffer is full: {self.buffer.clips} clips, {self.buffer.hours:.2f} h")
        return True

    def _report(self, phase: Phase | None, mark: tuple[int, float]) -> None:
        values = self.sums.tolist()
        self.sums.zero_()
        count = self.step - mark[0]
        if values[-1] < 1 or not count:
            return
        milliseconds = (time.monotonic() - mark[1]) / count * 1000
        means = {name: value / values[-1] for name, value in zip(ACCUMULATED, values, strict=False)}
        if not all(math.isfinite(value) for value in means.values()):
            raise DivergedError(f"step {self.step}: {means}")
        losses = " ".join(f"{name} {value:.3f}" for name, value in means.items())
        place = f"{self.progress():.3f} {phase} {milliseconds:.1f} ms {self.buffer.hours:.1f} h"
        self.log(f"step {self.step} {place} lr {float(self.rate):.1e} | {losses}")
        if self.quantised:
            self.log("  perplexity of books " + " ".join(f"{value:.0f}" for value in self.codec.perplexity()))
            self.log("  " + self._held_text())

    def _held_text(self) -> str:
        """Held-out mel distance by voice, all passing voices as one, all books in use."""
        if self.held is None:
            self.held = held_out(self.data, self.settings.held_clips, self.settings.frames * FRAME)
        if self.held is None:
            return "no held-out shard yet"
        distance = self._measure(self.held)
        voices = self.held.voice.clamp(max=PASSING)
        text = " ".join(f"{voice}: {float(distance[voices == voice].mean()):.4f}" for voice in voices.unique().tolist())
        return f"held-out mel {float(distance.mean()):.4f}, voices {text}"

    @torch.no_grad()
    def _measure(self, held: Held) -> Tensor:
        self.codec.eval()
        rows = []
        for audio in held.audio.split(self.settings.batch):
            real = audio.to(self.device)
            with self._autocast():
                semantic, acoustic = self.measuring.project(self.measuring.embed(real))
            semantic, acoustic = self.codec.semantic(semantic)[0], self.codec.acoustic(acoustic)[0]
            with self._autocast():
                made = self.measuring.decode(self.measuring.latent(semantic, acoustic, len(real)))
            rows.append(self.mel.distance(made.float().clamp(-1, 1), real).cpu())
        self.codec.train()
        return torch.cat(rows)

    @torch.no_grad()
    def _report_average(self) -> None:
        live = [parameter.detach().clone() for parameter in self.parameters]
        for parameter, value in zip(self.parameters, self.average, strict=True):
            parameter.copy_(value)
        self.log(f"  with averaged weights: {self._held_text()}")
        for parameter, value in zip(self.parameters, live, strict=True):
            parameter.copy_(value)

    # --- the checkpoint -----------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write the whole state, in one move; a state that is not finite is refused.

        Raises:
            DivergedError: a parameter is not finite.
        """
        norms = torch._foreach_norm(list(self.codec.parameters()))
        if not bool(torch.isfinite(torch.stack(norms)).all()):
            raise DivergedError(f"step {self.step}: a parameter is not finite")
        state = {
            "sizes": self.codec.sizes.record(),
            "step": self.step,
            "elapsed": self.elapsed(),
            "quantised": self.quantised,
            "only": self.settings.only,
            "codec": self.codec.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "discriminator_optimizer": self.discriminator_optimizer.state_dict(),
            "recogniser": self.recogniser.state_dict(),
            "recogniser_optimizer": self.recogniser_optimizer.state_dict(),
            "average": self.average,
            "averaged": self.averaged,
        }
        self.out.mkdir(parents=True, exist_ok=True)
        temporary = self.out / f"{CHECKPOINT}.part"
        torch.save(state, temporary)
        os.replace(temporary, self.out / CHECKPOINT)

    def _load(self) -> None:
        state = read_checkpoint(self.out, self.device)
        if state is None:
            if self.settings.start:
                vectors = self.settings.batch * self.settings.frames
                self._copy(take(self.codec, Path(self.settings.start), vectors, self.settings.only != "decoder"))
                self.quantised = self.teacher is None
            elif self.settings.only:
                raise ValueError("one side learns alone with the books and the other side of an exported folder: give it as start")
            return
        if state["sizes"] != self.codec.sizes.record():
            raise ValueError(f"{self.out / CHECKPOINT}: is of other sizes: {state['sizes']}")
        if state["only"] != self.settings.only:
            raise ValueError(f"{self.out / CHECKPOINT}: goes on with the same parts only; take another folder")
        self.codec.load_state_dict(state["codec"])
        self.discriminator.load_state_dict(state["discriminator"])
        self.recogniser.load_state_dict(state["recogniser"])
        for optimizer, name, rate in (
            (self.optimizer, "optimizer", self.rate),
            (self.discriminator_optimizer, "discriminator_optimizer", self.discriminator_rate),
            (self.recogniser_optimizer, "recogniser_optimizer", self.recogniser_rate),
        ):
            optimizer.load_state_dict(state[name])
            for group in optimizer.param_groups:
                group["lr"] = rate  # loading puts a copy here, which the schedule would not reach
        self.step, self.before, self.quantised = state["step"], state["elapsed"], state["quantised"]
        if self.settings.start and not self.quantised:
            self._copy(Qwen3TTSTokenizerV2Model.from_pretrained(self.settings.start, dtype=torch.float32))
        self.average, self.averaged = state["average"], state["averaged"]

    def _copy(self, other: Qwen3TTSTokenizerV2Model | None) -> None:
        """Lets a new encoder learn what another one says, as long as nothing is quantised."""
        if other is not None:
            self.teacher = Forward(other.to(self.device).eval().requires_grad_(False))


def read_checkpoint(folder: Path, device: torch.device) -> dict[str, Any] | None:
    """The state that `Trainer.save` wrote, or None where there is none."""
    path = folder / CHECKPOINT
    if not path.is_file():
        return None
    state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    return state
