"""The real Qwen vocabulary: ours, stock's without the flag, and what stock's `fix_mistral_regex=True` makes of it.

Stock qwen_tts asks for the flag whenever it opens a folder. On a folder whose config.json says transformers 4.57.3 it
swaps another model's pre-tokenizer in, so that a bundle would be spoken with other tokens than it was trained with. A
bundle's config.json therefore says `SAFE_TRANSFORMERS`.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from qrecipe.inputs.tokenizer import TextTokenizer, assistant_text, clean_text, reference_text
from tests.support import qwen_vocabulary

TEXTS = {
    "brand names": "WhatsApp dan YouTube di iPhone",
    "malay": "Saya hendak membeli sayur-sayuran di pasar malam.",
    "thai": "สวัสดีครับ วันนี้อากาศดีมาก",
    "hindi": "नमस्ते, आप कैसे हैं? क्षत्रिय",
    "tamil": "வணக்கம், எப்படி இருக்கிறீர்கள்?",
    "arabic with marks": "السَّلامُ عَلَيْكُمْ وَرَحْمَةُ اللهِ",
    "vietnamese": "Tôi muốn ăn phở ở Hà Nội.",
    "yoruba with free marks": "Ẹ káàárọ̀, báwo ni o ṣe wà?",
    "digits": "Pada 31/12/2024 harganya RM1234.50",
    "newlines inside": "satu\ndua\n\n\ntiga  \n empat",
    "emoji": "Baik 🙂👩‍👩‍👧",
    "contractions": "I'm sure they'LL say we won't",
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return qwen_vocabulary.write(tmp_path_factory.mktemp("qwen"), "4.57.3")


@pytest.fixture(scope="module")
def ours(folder: Path) -> TextTokenizer:
    return TextTokenizer.of_folder(folder)


@pytest.fixture(scope="module")
def stock(folder: Path) -> Any:
    """Stock's class on the two files, without any flag."""
    from transformers import Qwen2TokenizerFast

    return Qwen2TokenizerFast.from_pretrained(str(folder))


@pytest.fixture(scope="module")
def patched(folder: Path) -> Any:
    """What stock qwen_tts gets from a folder that says 4.57.3."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(folder), fix_mistral_regex=True)


def test_the_files_are_those_of_qwen3(folder: Path) -> None:
    assert qwen_vocabulary.hashes(folder) == (qwen_vocabulary.VOCAB_SHA256, qwen_vocabulary.MERGES_SHA256)
    _, merges = (folder / "merges.txt").read_bytes().split(b"\n", 1)
    assert hashlib.sha256(merges).hexdigest().startswith(qwen_vocabulary.BASE_MERGES_SHA256)


def test_special_ids(ours: TextTokenizer, stock: Any) -> None:
    for i, token in qwen_vocabulary.SPECIAL.items():
        assert ours.ids(token) == [i] == stock(token).input_ids
    assert ours.ids("<|im_start|>assistant\n") == [151644, 77091, 198]
    assert ours.ids("<|im_end|>\n<|im_start|>assistant\n") == [151645, 198, 151644, 77091, 198]


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_ours_is_stock_without_the_flag(ours: TextTokenizer, stock: Any, text: str) -> None:
    for whole in (text, assistant_text(text), reference_text(text)):
        assert ours.ids(whole) == stock(whole).input_ids
    body = ours.assistant(clean_text(text))[1]
    assert body == stock(assistant_text(clean_text(text))).input_ids[3:-5]


def differs(ours: TextTokenizer, other: Any) -> set[str]:
    return {name for name, text in TEXTS.items() if ours.ids(assistant_text(text)) != other(assistant_text(text)).input_ids}


def test_the_flag_changes_the_ids_on_a_folder_of_4_57_3(ours: TextTokenizer, patched: Any) -> None:
    """If this fails, transformers no longer swaps the pattern, and the guards against it can go."""
    assert differs(ours, patched) >= {"brand names", "thai", "arabic with marks"}
    assert "malay" not in differs(ours, patched)


def test_the_flag_changes_nothing_on_a_folder_as_bundles_are_written(ours: TextTokenizer, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    export = pytest.importorskip("qrecipe.bundle.export")
    bundle = qwen_vocabulary.write(tmp_path, export.SAFE_TRANSFORMERS)
    assert differs(ours, AutoTokenizer.from_pretrained(str(bundle), fix_mistral_regex=True)) == set()


@pytest.mark.parametrize("text", ["\nApa khabar", "\n", "\n\nApa"])
def test_a_leading_newline_runs_into_the_template(ours: TextTokenizer, text: str) -> None:
    """Two newlines are one token of this vocabulary, so the role would not be three tokens any more."""
    assert ours.ids(assistant_text(text))[2] != 198
    with pytest.raises(ValueError, match="runs into the template"):
        ours.assistant(text)
    with pytest.raises(ValueError, match="runs into the template"):
        ours.reference(text)
    assert ours.text_problem(text) is not None


def test_a_newline_inside_is_kept(ours: TextTokenizer, stock: Any) -> None:
    body = ours.assistant("satu\n\ndua")[1]
    assert stock.decode(body) == "satu\n\ndua"


def test_tokens_that_qwen_does_not_mark_as_special_are_refused_too(ours: TextTokenizer) -> None:
    assert ours.text_problem("Dia <think> dahulu") == "the text holds the special token `<think>`"
