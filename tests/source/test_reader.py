"""YAML in, nodes with places out: what a scalar means, what is refused, and where."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from qrecipe.errors import Place, Problem, RecipeError
from qrecipe.source import reader
from qrecipe.source.reader import MAX_BYTES, MAX_DEPTH, MAX_VALUES, Node, read_file, read_text


def value(text: str) -> object:
    """What the scalar after `key:` means."""
    plain = read_text(f"key: {text}\n", "r.yaml").plain()
    assert isinstance(plain, dict)
    return plain["key"]


def refused(text: str) -> list[Problem]:
    with pytest.raises(RecipeError) as e:
        read_text(text, "r.yaml")
    return e.value.problems


def only(text: str) -> tuple[str, int, int, str]:
    """Code, line, column and message of the one problem of a text."""
    (problem,) = refused(text)
    assert problem.place.file == "r.yaml"
    return problem.code, problem.place.line, problem.place.column, problem.message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("Off", "Off"),
        ("y", "y"),
        ("12:30", "12:30"),
        ("1:2:3", "1:2:3"),
        ("2024-01-31", "2024-01-31"),
        ("1_000", "1_000"),
        ("0b11", "0b11"),
        ("-0x1f", "-0x1f"),
        (".inf", math.inf),
        ("-.Inf", -math.inf),
        (".iNF", ".iNF"),
        ("1e", "1e"),
        ("+", "+"),
        (".", "."),
        ("=", "="),
        ("true", True),
        ("False", False),
        ("tRUE", "tRUE"),
        ("~", None),
        ("null", None),
        ("", None),
        ("nULL", "nULL"),
        ("012", 12),
        ("-7", -7),
        ("+7", 7),
        ("0x1f", 31),
        ("0o17", 15),
        ("1e-5", 1e-5),
        ("1e5", 1e5),
        (".5", 0.5),
        ("5.", 5.0),
        ("-1.5E+3", -1500.0),
        ("'no'", "no"),
        ('"1e-5"', "1e-5"),
        ("'~'", "~"),
        ('"a\\nb\\u00e9"', "a\nbé"),
        ("C:\\data", "C:\\data"),
        ("a#b  # a comment", "a#b"),
    ],
)
def test_scalars_of_the_core_schema(text: str, expected: object) -> None:
    found = value(text)
    assert found == expected
    assert type(found) is type(expected)


def test_a_rate_without_a_dot_is_a_number() -> None:
    """PyYAML's own reader makes a string of it, and then a learning rate is refused that everybody writes."""
    assert isinstance(value("1e-5"), float)
    assert value("[1e-5, 1.0e-5, 0.00001]") == [1e-5] * 3


def test_digits_beyond_any_number_are_infinite() -> None:
    """A number in every reader's eyes, so that it is refused where text is wanted."""
    assert value("9" * 5000) == math.inf
    assert value("-" + "9" * 5000) == -math.inf
    assert value("9" * 300) == int("9" * 300)


def test_not_a_number_is_a_number() -> None:
    found = value(".nan")
    assert isinstance(found, float)
    assert math.isnan(found)


def test_a_number_too_large_for_a_float_is_infinite_and_refused_later() -> None:
    assert value("1e999") == math.inf


def test_block_scalars_are_text() -> None:
    assert value("|\n  12\n") == "12\n"
    assert value(">-\n  no\n  more\n") == "no more"


def test_places_of_keys_and_values() -> None:
    node = read_text("a: 1\nlong_key:\n  - {x: yy, z: 'q'}\n  - [3,   44]\n", "r.yaml")

    def at(*path: str | int) -> Node:
        found = node
        for key in path:
            child = found.get(key)
            assert child is not None
            found = child
        return found

    def span(place: Place | None) -> tuple[str, int, int, int] | None:
        return (place.file, place.line, place.column, place.length) if place is not None else None

    assert node.place == Place("r.yaml", 1, 1)
    assert (at("a").place, at("a").key_place) == (Place("r.yaml", 1, 4), Place("r.yaml", 1, 1))
    assert span(at("long_key").key_place) == ("r.yaml", 2, 1, 8)
    first = at("long_key", 0)
    assert (span(first.place), first.key_place) == (("r.yaml", 3, 5, 15), None)
    assert span(at("long_key", 0, "x").key_place) == ("r.yaml", 3, 6, 1)
    assert span(at("long_key", 0, "x").place) == ("r.yaml", 3, 9, 2)
    assert span(at("long_key", 0, "z").place) == ("r.yaml", 3, 16, 3)
    assert span(at("long_key", 1, 1).place) == ("r.yaml", 4, 11, 2)
    assert (at("a").spelling, at("long_key", 0, "z").spelling) == ("1", None)


def test_columns_count_characters_not_bytes() -> None:
    assert only("é: {ü: 1, ü: 2}\n") == ("QR004", 1, 11, "`ü` is written twice")


def test_duplicate_keys_name_the_first() -> None:
    (problem,) = refused("a: 1\nb: 2\na: 3\n")
    assert (problem.code, problem.place) == ("QR004", Place("r.yaml", 3, 1))
    assert problem.help == "first at r.yaml:1:1"


def test_every_duplicate_is_named_at_once() -> None:
    assert [(p.code, p.place.line) for p in refused("a: 1\na: 2\nb: {c: 1, c: 2}\na: 3\n")] == [("QR004", 2), ("QR004", 3), ("QR004", 4)]


def test_a_quoted_key_is_the_same_key() -> None:
    assert only("a: 1\n'a': 2\n") == ("QR004", 2, 1, "`a` is written twice")


@pytest.mark.parametrize(
    ("text", "line", "column", "message"),
    [
        ("a: 1\nb: &x 2\n", 2, 4, "the anchor `&x` is not used in recipes"),
        ("a:\n  - &x {b: 1}\n", 2, 5, "the anchor `&x` is not used in recipes"),
        ("a: *x\n", 1, 4, "the alias `*x` is not used in recipes"),
        ("a: !!int '3'\n", 1, 4, "the tag `tag:yaml.org,2002:int` is not used in recipes"),
        (
            "a: !!python/object/apply:os.system [ls]\n",
            1,
            4,
            "the tag `tag:yaml.org,2002:python/object/apply:os.system` is not used in recipes",
        ),
        ("a: !env HOME\n", 1, 4, "the tag `!env` is not used in recipes"),
        ("a: {b: 1}\nc:\n  <<: {b: 2}\n", 3, 3, "the merge key `<<` is not used in recipes"),
        ("a: 1\n---\nb: 2\n", 2, 1, "a second document is not used in recipes"),
    ],
)
def test_features_that_recipes_do_not_use(text: str, line: int, column: int, message: str) -> None:
    assert only(text) == ("QR003", line, column, message)


def test_one_document_may_be_marked() -> None:
    assert read_text("%YAML 1.2\n---\na: 1\n...\n", "r.yaml").plain() == {"a": 1}


@pytest.mark.parametrize(
    ("text", "column", "help_"),
    [
        ("1: a\n", 1, 'quote it: "1"'),
        ("{b: 1, 0x1f: a}\n", 8, 'quote it: "0x1f"'),
        ("true: a\n", 1, 'quote it: "true"'),
        ("~: a\n", 1, 'quote it: "~"'),
    ],
)
def test_keys_are_strings(text: str, column: int, help_: str) -> None:
    (problem,) = refused(text)
    assert (problem.code, problem.place, problem.help) == ("QR005", Place("r.yaml", 1, column), help_)


def test_a_list_as_a_key() -> None:
    assert only("? [a, b]\n: 1\n") == ("QR005", 1, 3, "a key must be a string, not a list or a mapping")


def test_a_quoted_number_is_a_key() -> None:
    assert read_text('"1": a\nno: b\n', "r.yaml").plain() == {"1": "a", "no": "b"}


def test_tabs_do_not_indent() -> None:
    (problem,) = refused("a:\n\tb: 1\n")
    assert (problem.code, problem.place, problem.help) == ("QR002", Place("r.yaml", 2, 1), "use spaces in place of the tab")


@pytest.mark.parametrize("text", ["a:\tb", "a: b\tc", "a: [1,\t2]", "a: b \t", "a: b\t\n", "- a\n-\tb", "a: 1\n\t\nb: 2"])
def test_tabs_do_not_separate(text: str) -> None:
    (problem,) = refused(text)
    assert (problem.code, problem.help) == ("QR002", "use spaces in place of the tab")
    assert text.splitlines()[problem.place.line - 1][problem.place.column - 1 :][:1] in ("\t", "b")


def test_tabs_stay_in_text_and_comments() -> None:
    assert value('"a\tb"') == "a\tb"
    assert value("'a\tb'  # x\ty") == "a\tb"
    assert value("|\n  a\tb\n") == "a\tb\n"
    assert read_text("#\tx\na: 1\n", "r.yaml").plain() == {"a": 1}


@pytest.mark.parametrize("separator", ["\x85", "\u2028", "\u2029"])
@pytest.mark.parametrize("text", ["a: x{}b: y", "a: 'x{}y'", "# x{}b: y\na: 1"])
def test_line_ends_that_only_yaml_1_1_knows(text: str, separator: str) -> None:
    """PyYAML would begin a new line there, an editor would not: places and meaning would differ."""
    code, line, column, message = only(text.format(separator))
    assert (code, line, column) == ("QR002", 1, text.index("{") + 1)
    assert "line separator" in message


@pytest.mark.parametrize(("line", "what"), [("%YAML 1.1", "`%YAML 1.1`"), ("%TAG ! tag:example.com,2000:", "`%TAG`")])
def test_directives_that_would_change_the_meaning(line: str, what: str) -> None:
    assert only(f"{line}\n---\na: no\n") == ("QR003", 1, 1, f"{what} is not used in recipes")


def test_the_tag_that_makes_a_number_a_string() -> None:
    assert only("a: ! 12\n")[3] == "the tag `!` is not used in recipes"


def test_what_can_be_read_on_after_is_reported_together() -> None:
    found = refused("a: &x 1\nb: *x\n1: c\na: 2\n<<: {d: 1}\n")
    assert [(p.code, p.place.line) for p in found] == [("QR003", 1), ("QR003", 2), ("QR005", 3), ("QR004", 4), ("QR003", 5)]


def test_a_caller_may_go_on_with_what_could_be_read() -> None:
    problems: list[Problem] = []
    node = read_text("a: 1\na: 2\nb: !x 3\n", "r.yaml", problems)
    assert [p.code for p in problems] == ["QR004", "QR003"]
    assert node.plain() == {"a": 1, "b": 3}


@pytest.mark.slow
def test_lists_that_belong_into_a_manifest() -> None:
    text = "a: [" + "1, " * MAX_VALUES + "1]"
    assert only(text)[3] == f"the file holds more than {MAX_VALUES:,} values"


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(RecipeError) as e:
        read_file(tmp_path / "pipe.yaml")
    assert e.value.problems[0].message == "cannot read the file: not a regular file"


@pytest.mark.parametrize(
    "text", ["a: 1\nb: [no, 1e-5, 'x', {c: ~}]\n", "a: |\n  x\n", "a: 1\na: 2\n", "a: &x 1\n", "a:\tb", "a: [1", "a: b: c", "? x\n: y"]
)
def test_both_of_pyyamls_parsers_mean_the_same(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wheel without libyaml reads with PyYAML's own parser."""
    results: list[Any] = []
    for loader in (yaml.SafeLoader, yaml.CSafeLoader):
        monkeypatch.setattr(reader, "_LOADER", loader)
        try:
            results.append(read_text(text, "r.yaml"))
        except RecipeError as e:
            results.append([(p.code, p.place.line) for p in e.problems])
    assert results[0] == results[1]


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ("a: [1, 2\n", 1, 4),
        ("a: 1\nb: {c: 1\n", 2, 4),
        ("a: 'open\n", 1, 4),
        ("a: b: c\n", 1, 5),
        ("a: 1\n b: 2\n", 2, 3),
        ("a: %x\n", 1, 4),
        ("a: \x01\n", 1, 4),
        ("ok: 1\nab: x\x07y\n", 2, 6),
    ],
)
def test_what_is_not_yaml(text: str, line: int, column: int) -> None:
    code, *place, message = only(text)
    assert (code, place) == ("QR002", [line, column])
    assert message.startswith("not YAML: ")


@pytest.mark.parametrize("escape", ['"\\uD800"', '"\\UFFFFFFFF"', '"\\U00110000"'])
def test_escapes_that_are_no_character(escape: str) -> None:
    code, _, _, message = only(f"a: {escape}\n")
    assert code == "QR002"
    assert "no character" in message


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n"])
def test_an_empty_file(text: str) -> None:
    assert only(text) == ("QR002", 0, 0, "the file is empty")


@pytest.mark.slow
def test_deep_nesting() -> None:
    deepest = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert read_text(deepest, "r.yaml").elements()
    for many in (MAX_DEPTH + 1, 10_000):  # libyaml from 0.2.6 on has a limit of its own
        assert only("[" * many + "]" * many) == ("QR003", 1, MAX_DEPTH + 1, f"nested deeper than {MAX_DEPTH} levels")
    assert only("[" * 10_000) == ("QR003", 1, MAX_DEPTH + 1, f"nested deeper than {MAX_DEPTH} levels")


def test_a_file_that_is_too_long(tmp_path: Path) -> None:
    path = tmp_path / "long.yaml"
    path.write_text("# " + "x" * MAX_BYTES)
    with pytest.raises(RecipeError) as e:
        read_file(path, "long.yaml")
    (problem,) = e.value.problems
    assert (problem.code, problem.place) == ("QR001", Place("long.yaml"))
    assert problem.message == "the file has 1,048,578 bytes; at most 1,048,576 are read"


def test_a_file_that_is_not_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "latin.yaml"
    path.write_bytes("name: caf\u00e9\n".encode("latin-1"))
    with pytest.raises(RecipeError) as e:
        read_file(path, "latin.yaml")
    assert e.value.problems[0].message == "the file is not UTF-8 (byte 9)"


def test_a_file_that_is_not_there_and_a_folder(tmp_path: Path) -> None:
    for path, why in ((tmp_path / "no.yaml", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(RecipeError) as e:
            read_file(path)
        assert (e.value.problems[0].code, e.value.problems[0].message) == ("QR001", f"cannot read the file: {why}")


def test_windows_line_ends_and_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "windows.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\r\nb: no\r\n")
    node = read_file(path)
    assert node.plain() == {"a": 1, "b": "no"}
    b = node.get("b")
    assert b is not None
    assert b.place == Place(str(path), 2, 4)
