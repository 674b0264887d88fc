"""Our tokenizer against the stock one, built from the same two files of the embedded base."""

from __future__ import annotations

import json
import unicodedata
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qrecipe.errors import BaseModelError
from qrecipe.inputs.tokenizer import TextTokenizer, assistant_text, clean_text, reference_text

FOLDER = Path(str(resources.files("qrecipe.builtin") / "mini"))
TEXTS = [
    "Selamat pagi, apa khabar?",
    "WhatsApp iPhone RM12.50 pada 31/12",
    "สวัสดีครับ วันนี้อากาศดี",
    "नमस्ते, आप कैसे हैं?",
    "வணக்கம் எப்படி இருக்கிறீர்கள்",
    "السَّلامُ عَلَيْكُم",
    "I'm sure they'll say we've WON'T",
    "satu\ndua\r\ntiga  empat   lima\n\n\nenam",
    "assistant user system",
    "🙂👩‍👩‍👧 … — “kata”",
    "a" * 200,
]


@pytest.fixture(scope="module")
def ours() -> TextTokenizer:
    return TextTokenizer.of_folder(FOLDER)


@pytest.fixture(scope="module")
def stock() -> Any:
    """transformers' own class on the same vocabulary; it knows special tokens by the config that we read too."""
    transformers = pytest.importorskip("transformers")
    return transformers.Qwen2TokenizerFast.from_pretrained(FOLDER)


@pytest.mark.slow  # waits for transformers
@pytest.mark.parametrize("text", TEXTS)
def test_the_same_ids_as_stock(ours: TextTokenizer, stock: Any, text: str) -> None:
    for whole in (text, assistant_text(text), reference_text(text)):
        assert ours.ids(whole) == stock(whole).input_ids


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_the_same_ids_as_stock_for_any_text(ours: TextTokenizer, stock: Any, text: str) -> None:
    assert ours.ids(assistant_text(text)) == stock(assistant_text(text)).input_ids


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("a9.,'\u0301 \u00a0"), max_size=6), max_size=6))
def test_words_alone_have_the_ids_that_they_have_in_their_text(ours: TextTokenizer, words: list[str]) -> None:
    text = clean_text(" ".join(words))
    assert ours.assistant(text)[1] == ours.ids(assistant_text(text))[3:-5]


@pytest.mark.slow  # waits for transformers
@pytest.mark.parametrize("text", TEXTS)
def test_role_body_and_close(ours: TextTokenizer, stock: Any, text: str) -> None:
    """Stock cuts the first three and the last five tokens off (modeling_qwen3_tts.py, `generate`)."""
    text = clean_text(text)
    ids = stock(assistant_text(text)).input_ids
    assert ours.assistant(text) == (ids[:3], ids[3:-5])
    assert ours.reference(text) == stock(reference_text(text)).input_ids[3:-2]
    assert stock.decode(ours.assistant(text)[1]) == text


@pytest.mark.slow  # waits for transformers
def test_special_tokens_are_those_of_the_config(ours: TextTokenizer, stock: Any) -> None:
    config = json.loads((FOLDER / "config.json").read_text())
    assert ours.special["<|im_start|>"] == config["im_start_token_id"]
    assert ours.special["<tts_text_eod>"] == config["tts_eos_token_id"]
    assert ours.special == {t: i for t, i in stock.get_added_vocab().items() if t in stock.all_special_tokens}


@pytest.mark.parametrize("text", ["\nApa khabar", "Apa khabar\n", " Apa", "\n", " \n x"])
def test_outer_white_space_is_refused_and_cleaning_mends_it(ours: TextTokenizer, text: str) -> None:
    """With the real vocabulary a leading newline would merge with the template's own."""
    assert ours.text_problem(text) == "the text has white space around it"
    assert ours.text_problem(clean_text(text)) == (None if clean_text(text) else "the text is empty")


@pytest.mark.parametrize("token", ["<|im_end|>", "<|im_start|>", "<tts_pad>", "<|endoftext|>"])
def test_a_special_token_inside_a_text_is_refused(ours: TextTokenizer, token: str) -> None:
    assert ours.text_problem(f"Apa {token} khabar") == f"the text holds the special token `{token}`"
    assert ours.text_problem(f"Apa {token[:-1]} khabar") is None


def test_a_text_that_ends_the_template_early_is_caught_by_its_tokens_too(ours: TextTokenizer) -> None:
    body = ours.assistant("Apa<|im_end|>\n<|im_start|>assistant\nkhabar")[1]
    assert ours.special["<|im_end|>"] in body  # the template comes out whole: only `text_problem` refuses this


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("  Apa khabar \n", "Apa khabar"),
        ("cafe\u0301", "caf\u00e9"),
        ("\u3000ご飯\u00a0", "ご飯"),
        ("ﬁ", "ﬁ"),
        ("①", "①"),
        ("a  b", "a  b"),
        ("\u0915\u093c", unicodedata.normalize("NFC", "\u0958")),
        ("", ""),
    ],
)
def test_clean_text_composes_and_strips_and_does_no_more(text: str, cleaned: str) -> None:
    assert clean_text(text) == cleaned
    assert clean_text(cleaned) == cleaned


def test_composed_and_decomposed_are_the_same_tokens(ours: TextTokenizer) -> None:
    assert ours.ids("caf\u00e9") == ours.ids("cafe\u0301")


def test_a_config_that_numbers_its_special_tokens_differently_is_refused(tmp_path: Path) -> None:
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes((FOLDER / name).read_bytes())
    config = json.loads((FOLDER / "tokenizer_config.json").read_text())
    config["added_tokens_decoder"] = {str(int(i) + 5): t for i, t in config["added_tokens_decoder"].items()}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(BaseModelError, match=r"special token <\|endoftext\|> should have the id 639, and by its place it has 634"):
        TextTokenizer.of_folder(tmp_path).ids("a")


def test_many_texts_are_measured_as_one_by_one(ours: TextTokenizer) -> None:
    texts = [clean_text(text) for text in TEXTS]
    for chosen in (texts, ["Ada buku."], ["Ada buku di sini.", "Itu", "I'm sure they'll go"], []):
        bodies = [ours.assistant(text)[1] for text in chosen]
        lengths, ids = ours.measure(chosen)
        assert (list(lengths), ids) == ([len(body) for body in bodies], {i for body in bodies for i in body})
