"""Facts of Qwen3-TTS Base models that hold for every checkpoint: parts, rates, rows, layouts. Never imports torch."""

from __future__ import annotations

from typing import Literal

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
PREDICTOR_PROJECTION = "talker.code_predictor.small_to_mtp_projection"
"""Between the talker's width and the predictor's, where they differ."""
PREDICTOR_LAYERS = "talker.code_predictor.model.layers"
PREDICTOR_HEADS = "talker.code_predictor.lm_head"
SPEAKER_ENCODER = "speaker_encoder"
TALKER_INPUTS = (TEXT_EMBEDDING, TEXT_PROJECTION, CODEC_EMBEDDING, PREDICTOR_EMBEDDINGS)
"""Modules that the talker reads through: one that trains changes every hidden state."""
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
