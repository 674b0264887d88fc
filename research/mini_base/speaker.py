"""Trains the embedded base's speaker encoder: the stock ECAPA-TDNN, shrunk, learns to tell passing voices apart.

    python research/mini_base/speaker.py --corpus DIR --out speaker.safetensors [--steps 1500]

`speaker-*.npz` of corpus.py hold many voices with a dozen sentences each. The encoder classifies crops by the cosine to a
vector a voice (additive margin); then its last layer is centred and scaled so that a vector's entries spread by
`SPREAD`, as those of the released checkpoints. The voices of the held-out shards are never trained on: their equal error
rate and cosines are printed. A CPU is enough; a GPU takes a minute.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import voices
from safetensors.torch import save_file
from torch import Tensor

PACKAGE = Path(__file__).resolve().parents[2] / "qrecipe" / "builtin" / "mini"
SPREAD = 0.1
MARGIN, SCALE = 0.2, 20.0
HOP = 256
CROP = (70, 200)
"""Shortest and longest crop, in mel frames."""


def mel(samples: np.ndarray) -> Tensor:
    """The stock mel spectrogram of 16-bit samples: [frames, 128]."""
    from qwen_tts.core.models.modeling_qwen3_tts import mel_spectrogram

    audio = torch.from_numpy(samples.astype(np.float32) / 32768)[None]
    settings = {"n_fft": 1024, "num_mels": 128, "sampling_rate": 24_000, "hop_size": HOP, "win_size": 1024, "fmin": 0, "fmax": 12_000}
    out: Tensor = mel_spectrogram(audio, **settings)[0].T
    return out


def clips(corpus: Path, kind: str, device: torch.device) -> tuple[list[Tensor], list[int]]:
    """Mel spectrograms and voice numbers of all clips of a kind of shard."""
    found: list[Tensor] = []
    numbers: list[int] = []
    for path in sorted(corpus.glob(f"{kind}-*.npz")):
        with np.load(path) as shard:
            audio, samples, voice = shard["audio"], shard["samples"], shard["voice"]
        for stop, count, number in zip(np.cumsum(samples), samples, voice, strict=True):
            found.append(mel(audio[stop - count : stop]).to(device))
            numbers.append(int(number))
    return found, numbers


def crops(found: list[Tensor], index: Tensor, length: int) -> Tensor:
    """Crops of one length, short clips repeated, at random loudness: [B, length, 128]."""
    out = []
    for k in index.tolist():
        clip = found[k]
        if len(clip) < length:
            clip = clip.repeat(-(-length // len(clip)), 1)
        start = int(torch.randint(0, len(clip) - length + 1, ()))
        out.append(clip[start : start + length] + float(torch.empty(()).uniform_(-1.5, 0.5)))
    return torch.stack(out)


def equal_error_rate(same: np.ndarray, other: np.ndarray) -> float:
    """Rate at which as many pairs of one voice fall below a threshold as pairs of two voices lie above it."""
    thresholds = np.sort(np.concatenate([same, other]))
    missed = np.searchsorted(np.sort(same), thresholds) / len(same)
    taken = 1 - np.searchsorted(np.sort(other), thresholds) / len(other)
    k = int(np.abs(missed - taken).argmin())
    return float((missed[k] + taken[k]) / 2)


@torch.no_grad()
def judge(encoder: Any, found: list[Tensor], numbers: list[int]) -> dict[str, float]:
    """Equal error rate and mean cosines on whole clips."""
    vectors = F.normalize(torch.stack([encoder(clip[None])[0] for clip in found]), dim=-1)
    cosine = (vectors @ vectors.T).cpu().numpy()
    voice = np.array(numbers)
    same = (voice[:, None] == voice[None]) & np.triu(np.ones_like(cosine, bool), 1)
    other = (voice[:, None] != voice[None]) & np.triu(np.ones_like(cosine, bool), 1)
    return {"eer": equal_error_rate(cosine[same], cosine[other]), "same": float(cosine[same].mean()), "other": float(cosine[other].mean())}


def train(corpus: Path, steps: int, batch: int, seed: int) -> Any:
    """The trained encoder."""
    from qwen_tts.core.models.configuration_qwen3_tts import Qwen3TTSSpeakerEncoderConfig
    from qwen_tts.core.models.modeling_qwen3_tts import Qwen3TTSSpeakerEncoder

    torch.manual_seed(seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    settings = json.loads((PACKAGE / "config.json").read_text(encoding="utf-8"))["speaker_encoder_config"]
    encoder = Qwen3TTSSpeakerEncoder(Qwen3TTSSpeakerEncoderConfig(**settings)).to(device)
    found, numbers = clips(corpus, "speaker", device)
    label = torch.tensor(numbers, device=device)
    held, held_numbers = clips(corpus, "held", device)
    centres = torch.nn.Parameter(torch.randn(int(label.max()) + 1, settings["enc_dim"], device=device) * 0.1)
    parameters = [*encoder.parameters(), centres]
    optimizer = torch.optim.AdamW(parameters, lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps, pct_start=0.15)
    began = time.monotonic()
    for step in range(1, steps + 1):
        index = torch.randint(0, len(found), (batch,))
        length = int(torch.randint(CROP[0], CROP[1] + 1, ()))
        cosine = F.normalize(encoder(crops(found, index, length)), dim=-1) @ F.normalize(centres, dim=-1).T
        score = SCALE * (cosine - MARGIN * F.one_hot(label[index], len(centres)))
        loss = F.cross_entropy(score, label[index])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 5.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == steps:
            right = float((cosine.argmax(-1) == label[index]).float().mean())
            line = f"step {step}: loss {float(loss.detach()):.3f}, right {right:.2f}, {time.monotonic() - began:.0f} s"
            if held and step % 300 == 0:
                encoder.eval()
                line += f"; held-out voices {judge(encoder, held[::3], held_numbers[::3])}"
                encoder.train()
            print(line, flush=True)
    encoder.eval()
    with torch.no_grad():
        vectors = torch.stack([encoder(clip[None])[0] for clip in found])
        spread = vectors.std(0).mean()
        encoder.fc.bias.sub_(vectors.mean(0))
        encoder.fc.weight.mul_(SPREAD / spread)
        encoder.fc.bias.mul_(SPREAD / spread)
    if held:
        print("held-out voices:", judge(encoder, held, held_numbers))
    names = [voice.name for voice in voices.VOICES]
    print("voices by number:", names)
    return encoder


def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    encoder = train(args.corpus, args.steps, args.batch, args.seed)
    save_file({name: value.cpu().contiguous() for name, value in encoder.state_dict().items()}, args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
