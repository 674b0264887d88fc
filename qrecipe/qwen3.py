"""Facts of Qwen3-TTS Base models that hold for every checkpoint: parts, rates, rows, layouts. Never imports torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

SAMPLE_RATE = 24_000
"""Hz; what the speech tokenizer and the speaker encoder read and the speech tokenizer writes."""
FRAME_SAMPLES = 1_920
"""Samples of a codec frame."""
FRAMES_PER_SECOND = 12.5
CODEBOOK_SIZE = 2_048
"""Codes of a codebook. Control ids and languages are rows of the codec embedding from here on."""
FIRST_FREE_ROW = 2_072
"""The lowest row of the codec embedding that is surely untrained: from 2048 to 2071 rows that no map lists may hold trained,
unreleased ones."""
LAST_ROW = 3_071
"""The last row of the codec embedding."""

TALKER = "talker"
TEXT_EMBEDDING = "talker.model.text_embedding"
TEXT_PROJECTION = "talker.text_projection"
CODEC_EMBEDDING = "talker.model.codec_embedding"
TALKER_LAYERS = "talker.model.layers"
TALKER_NORM = "talker.model.norm"
CODEC_HEAD = "talker.codec_head"
PREDICTOR = "talker.code_predictor"
PREDICTOR_EMBEDDINGS = "talker.code_predictor.model.codec_embedding"
"""The predictor's own tables, one a codebook. The talker reads them too: a frame enters it as the sum of all its codes."""
PREDICTOR_LAYERS = "talker.code_predictor.model.layers"
PREDICTOR_HEADS = "talker.code_predictor.lm_head"
TEXT_TABLE = f"{TEXT_EMBEDDING}.weight"
CODEC_TABLE = f"{CODEC_EMBEDDING}.weight"

Layout = Literal["streaming", "non_streaming"]
"""How text meets frames: one text token a frame, or all text first."""
PromptKind = Literal["x_vector", "in_context"]
"""How a voice is given: by the x-vector alone, or with the reference's text and frames in front."""


def within(tensor: str, *parts: str) -> bool:
    """Whether a tensor belongs to one of these parts.

    >>> within("talker.model.layers.10.mlp.up_proj.weight", "talker.model.layers.1")
    False
    """
    return any(tensor.startswith(f"{part}.") for part in parts)


@dataclass(frozen=True)
class ControlIds:
    """Token ids and codec rows with a meaning of their own, read from a base's config."""

    tts_pad: int
    tts_bos: int
    tts_eos: int
    pad: int
    bos: int
    eos: int
    think: int
    nothink: int
    think_bos: int
    think_eos: int

    @classmethod
    def of(cls, config: Any) -> ControlIds:
        """The ids of a stock config."""
        talker = config.talker_config
        return cls(
            tts_pad=config.tts_pad_token_id,
            tts_bos=config.tts_bos_token_id,
            tts_eos=config.tts_eos_token_id,
            pad=talker.codec_pad_id,
            bos=talker.codec_bos_id,
            eos=talker.codec_eos_token_id,
            think=talker.codec_think_id,
            nothink=talker.codec_nothink_id,
            think_bos=talker.codec_think_bos_id,
            think_eos=talker.codec_think_eos_id,
        )
