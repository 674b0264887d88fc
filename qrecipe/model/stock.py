"""The one place that imports qwen_tts and transformers, without what they print while they are imported.

`import qwen_tts` runs `sox --version` through a shell and prints about SoX and flash-attn; transformers and librosa
warn through `warnings` and `logging`. People who run qrecipe must see none of it.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from types import SimpleNamespace
from typing import Any

from qrecipe.model.dsp import compile_apart


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Sends file descriptors 1 and 2 to nowhere inside the block; exceptions still get out."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = [os.dup(1), os.dup(2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        for descriptor, copy in zip((1, 2), saved, strict=True):
            os.dup2(copy, descriptor)
            os.close(copy)
        os.close(nowhere)


@cache
def stock() -> Any:
    """The stock classes: `Model`, `Prompt`, `mel_spectrogram`, `Tokenizer`, `Net`, `Config`, `SpeechNet`, `SpeechConfig`."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    warnings.filterwarnings("ignore")
    compile_apart()
    with silence():
        import transformers
        from transformers.utils import import_utils

        # for decoding and quantisation that nothing here uses, they take two seconds of every start, and warn
        import_utils._sklearn_available = import_utils._torchao_available = False
        from qwen_tts import Qwen3TTSModel, Qwen3TTSTokenizer, VoiceClonePromptItem
        from qwen_tts.core.models import Qwen3TTSConfig, Qwen3TTSForConditionalGeneration, modeling_qwen3_tts
        from qwen_tts.core.tokenizer_12hz.configuration_qwen3_tts_tokenizer_v2 import Qwen3TTSTokenizerV2Config
        from qwen_tts.core.tokenizer_12hz.modeling_qwen3_tts_tokenizer_v2 import Qwen3TTSTokenizerV2Model
        from transformers import masking_utils
        from transformers.modeling_utils import no_init_weights

        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
    # stock computes these filters, which never change, for every recording: a fifth of what an x-vector takes
    modeling_qwen3_tts.librosa_mel_fn = cache(modeling_qwen3_tts.librosa_mel_fn)
    # a mask by vmap takes longer than the codec's transformer takes for a sentence
    masking_utils._vmap_for_bhqkv = _broadcast
    for name in ("transformers", "qwen_tts", "huggingface_hub", "numba"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return SimpleNamespace(
        Model=Qwen3TTSModel,
        Tokenizer=Qwen3TTSTokenizer,
        Prompt=VoiceClonePromptItem,
        Config=Qwen3TTSConfig,
        Net=Qwen3TTSForConditionalGeneration,
        mel_spectrogram=modeling_qwen3_tts.mel_spectrogram,
        SpeechConfig=Qwen3TTSTokenizerV2Config,
        SpeechNet=Qwen3TTSTokenizerV2Model,
        without_initial_weights=no_init_weights,
    )


def _broadcast(pattern: Callable[..., Any]) -> Callable[..., Any]:
    """A mask from its pattern, a function of the indices of batch, head, query and key: [batch, heads, queries, keys]."""

    def mask(*indices: Any) -> Any:
        grid = [i.view([-1 if d == axis else 1 for d in range(4)]) for axis, i in enumerate(indices)]
        return pattern(*grid).expand([len(i) for i in indices])

    return mask
