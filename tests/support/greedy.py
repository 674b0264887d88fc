"""Greedy speech and token ids of a `qwen_tts`, whichever one is imported.

Also a program, for another environment: the order on standard input and the answer as the last line of standard output,
both JSON.
"""

from __future__ import annotations

import contextlib
import json
import sys
from typing import Any

FRAMES = 12
"""`max_new_tokens`, of which the last one makes no frame."""


def open_model(folder: str) -> Any:
    """A `Qwen3TTSModel` in float32."""
    import torch
    from qwen_tts import Qwen3TTSModel

    return Qwen3TTSModel.from_pretrained(folder, dtype=torch.float32)


def speak(model: Any, text: str, voice: str, reference_text: str | None) -> tuple[Any, list[list[int]]]:
    """The waveform, and codes [frames][codebooks] with those of an in-context reference first. Without its text: x-vector."""
    decoder, decoded = model.model.speech_tokenizer, []
    decode = decoder.decode

    def recording(items: list[dict[str, Any]]) -> Any:
        decoded.extend(item["audio_codes"].tolist() for item in items)
        return decode(items)

    decoder.decode = recording
    try:
        (wave,), _ = model.generate_voice_clone(
            text=text,
            language="malay",
            ref_audio=voice,
            ref_text=reference_text,
            x_vector_only_mode=reference_text is None,
            max_new_tokens=FRAMES,
            do_sample=False,
            subtalker_dosample=False,
            repetition_penalty=1.0,
        )
    finally:
        decoder.decode = decode
    (codes,) = decoded
    return wave, codes


def token_ids(model: Any, text: str) -> list[int]:
    """Token ids of a text within the model's template."""
    (ids,) = model._tokenize_texts([model._build_assistant_text(text)])
    values: list[int] = ids[0].tolist()
    return values


def main() -> None:
    """Carries out one order: `model`, `voice`, `speak` as [text, reference_text] pairs, `tokenise` as texts."""
    order = json.load(sys.stdin)
    with contextlib.redirect_stdout(sys.stderr):
        import qwen_tts
        import transformers

        model = open_model(order["model"])
        codes = [speak(model, text, order["voice"], reference_text)[1] for text, reference_text in order["speak"]]
        versions = {"transformers": transformers.__version__, "file": qwen_tts.__file__}
        answer = {**versions, "codes": codes, "ids": [token_ids(model, t) for t in order["tokenise"]]}
    print("\n" + json.dumps(answer))


if __name__ == "__main__":
    main()
