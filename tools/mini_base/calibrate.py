"""Measure what the random encoders of ``builtin:mini`` put out and write mini/calibration.json.

The codebooks and the speaker encoder's last layer are centred and scaled on these numbers; without them most
frames would share a code and all voices a vector. The encoders do not depend on the file, so one run suffices
whenever the seed, the sizes or the gains in qrecipe/builtin/mini.py change. The audio is synthetic and seeded:
this tool needs no recordings, and its numbers are baked into the package rather than measured at build time.

    python tools/mini_base/calibrate.py
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from qrecipe.builtin import mini, mini_weights

RATE = 24000
CLIPS = 24
SPEAKER_STD = 0.1
"""Spread of the speaker vector over clips, as in the stock checkpoints."""
SHRINK = 0.37
"""Codeword spread over residual spread: near the least squared error for 512 random codewords in 64 dimensions."""


def clip(seed: int, seconds: float = 4.0) -> NDArray[np.float32]:
    """Something with the gross statistics of speech: voiced syllables, fricatives and pauses.

    Args:
        seed: picks the voice's pitch, the sounds and their order.
        seconds: length.

    Returns:
        Mono samples at 24 kHz within [-1, 1].
    """
    random = np.random.default_rng(seed)
    out = random.standard_normal(int(seconds * RATE)) * 3e-4
    pitch, start = random.uniform(90, 240), 0
    while start < len(out):
        count = min(int(random.uniform(0.06, 0.25) * RATE), len(out) - start)
        time, kind = np.arange(count) / RATE, random.random()
        sound = np.zeros(count)
        if kind < 0.65:
            base = pitch * 2 ** random.uniform(-0.3, 0.3)
            formants = random.uniform((250, 900, 2400), (900, 2500, 3500))
            for tone in np.arange(base, 8000, base):
                level = 0.02 + np.exp(-(((tone - formants) / 150) ** 2)).sum()
                sound += level * np.sin(2 * np.pi * (tone * time + random.random()))
        elif kind < 0.85:
            carrier = np.sin(2 * np.pi * random.uniform(2000, 8000) * time)
            sound = carrier * np.convolve(random.standard_normal(count), np.ones(8), "same")
        envelope = np.sqrt(np.sin(np.pi * (np.arange(count) + 0.5) / count)) * random.uniform(0.3, 1.3)
        peak = {True: 0.12, False: 0.04}[kind < 0.65]
        out[start : start + count] += sound / (sound.std() + 1e-9) * peak * envelope
        start += count
    return np.clip(out, -1, 1).astype(np.float32)


def measure(folder: Path) -> dict[str, object]:
    """Run the stock encoders of a built base over the synthetic clips.

    Args:
        folder: a folder that `mini.build` wrote, whatever calibration it had.

    Returns:
        The content of calibration.json.
    """
    from qwen_tts import Qwen3TTSModel

    model = Qwen3TTSModel.from_pretrained(str(folder), dtype=torch.float32).model
    audio = [clip(seed) * (0.3 if seed % 3 == 0 else 1.0) for seed in range(CLIPS)]
    seen: dict[str, list[torch.Tensor]] = {"semantic": [], "acoustic": [], "pooled": []}
    quantizer = model.speech_tokenizer.model.encoder.quantizer
    for kind in ("semantic", "acoustic"):
        projection = getattr(quantizer, f"{kind}_residual_vector_quantizer").input_proj
        projection.register_forward_hook(lambda *a, k=kind: seen[k].append(a[2][0].T.double()))
    model.speaker_encoder.fc.register_forward_pre_hook(lambda _, inputs: seen["pooled"].append(inputs[0][0, :, 0].double()))
    for samples in audio:
        model.speech_tokenizer.encode(samples, sr=RATE)
        model.extract_speaker_embedding(samples, RATE)

    books: list[dict[str, object]] = []
    for first, count, kind in ((0, 1, "semantic"), (1, 7, "acoustic")):
        residual = torch.cat(seen[kind]).numpy()
        for book in range(first, first + count):
            mean = residual.mean(axis=0)
            std = round(float(SHRINK * (residual - mean).std()), 4)
            centre = [round(float(value), 3) for value in mean] if book == first else 0.0
            books.append({"std": std, "mean": centre})
            table = mini_weights.noise(f"codebook.{book}", (mini_weights.CODES, residual.shape[1]), std) + np.asarray(centre)
            distance = (table**2).sum(axis=1) - 2 * residual @ table.T
            residual = residual - table[distance.argmin(axis=1)]
    pooled = torch.stack(seen["pooled"]).numpy()
    weight = mini_weights.noise("speaker_encoder.fc.weight", (mini_width(folder), pooled.shape[1]), 1.0)
    spread = ((pooled - pooled.mean(axis=0)) @ weight.T).std()
    return {
        "codebooks": books,
        "speaker_gain": round(float(SPEAKER_STD / spread), 5),
        "speaker_mean": [round(float(value), 4) for value in pooled.mean(axis=0)],
    }


def mini_width(folder: Path) -> int:
    """Width of the speaker vector."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return int(config["speaker_encoder_config"]["enc_dim"])


def main() -> None:
    """Measures and writes calibration.json."""
    with tempfile.TemporaryDirectory() as folder:
        mini.build(Path(folder))
        content = measure(Path(folder))
    target = Path(mini.__file__).parent / "mini" / "calibration.json"
    rows = ",\n".join(f" {json.dumps(key)}: {json.dumps(value)}" for key, value in content.items())
    target.write_text("{\n" + rows + "\n}\n", encoding="utf-8")
    print(f"{target}: gains {[book['std'] for book in content['codebooks']]}, {content['speaker_gain']}")


if __name__ == "__main__":
    main()
