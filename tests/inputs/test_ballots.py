"""Ballots are counted once, as they were given, and refused with the reason otherwise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qrecipe.inputs.ballots import read_ballots
from tests.support.ballots import ballot, write


def read(root: Path) -> tuple[list[str], list[str]]:
    ballots, problems = read_ballots(root, "votes/*.json", root)
    assert all(p.code in ("QR066", "QR048") for p in problems)
    return [b.listener for b in ballots], [p.message for p in problems]


def test_each_listener_counts(tmp_path: Path) -> None:
    write(tmp_path / "votes", "b.json", ballot("bela"))
    write(tmp_path / "votes", "a.json", ballot("anna", scale="five", answers=[("x", "y", -1)]))
    assert read(tmp_path) == (["anna", "bela"], [])


def test_none_at_all(tmp_path: Path) -> None:
    assert read(tmp_path) == ([], [])


@pytest.mark.parametrize("where", [("answers", 0, "answer"), ("answers", 0, "first"), ("listener",), ("answers", 0, "text")])
def test_an_edited_ballot(where: tuple[Any, ...], tmp_path: Path) -> None:
    value = ballot()
    part: Any = value
    for key in where[:-1]:
        part = part[key]
    part[where[-1]] = {"answer": -2, "first": "0" * 64, "listener": "other", "text": "Else."}[where[-1]]
    write(tmp_path / "votes", "a.json", value)
    assert read(tmp_path) == ([], ["the ballot was edited: its hash does not fit"])


def test_a_doubled_ballot(tmp_path: Path) -> None:
    for name in ("a.json", "copy.json"):
        write(tmp_path / "votes", name, ballot())
    listeners, problems = read(tmp_path)
    assert listeners == ["anna"]
    assert problems == ["votes/a.json has answers of `anna` to the same sounds"]


def test_a_listener_who_votes_again_with_the_sounds_the_other_way(tmp_path: Path) -> None:
    write(tmp_path / "votes", "a.json", ballot(answers=[("x", "y", 2), ("u", "v", 2)]))
    write(tmp_path / "votes", "b.json", ballot(answers=[("y", "x", -2)]))
    write(tmp_path / "votes", "c.json", ballot("bela", answers=[("y", "x", -2)]))
    listeners, problems = read(tmp_path)
    assert listeners == ["anna", "bela"]
    assert len(problems) == 1


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (ballot(answers=[("x", "y", 1)]), "an answer of the scale `ab`"),
        (ballot(answers=[("x", "y", 2), ("y", "x", 2)]), "answered twice"),
        (ballot(answers=[("x", "x", 2)]), "or is one sound"),
        (ballot(answers=[]), "answers"),
        (ballot(answers=[("x", "y", 3)], scale="five"), "answer"),
        (ballot("../anna"), "listener"),
        (ballot(extra=1), "unknown field `extra`"),
        ({"ballot": 1}, "missing"),
    ],
)
def test_one_that_does_not_follow_its_form(value: dict[str, Any], says: str, tmp_path: Path) -> None:
    write(tmp_path / "votes", "a.json", value)
    listeners, problems = read(tmp_path)
    assert listeners == []
    assert says in problems[0]


def test_what_is_no_json(tmp_path: Path) -> None:
    (tmp_path / "votes").mkdir()
    (tmp_path / "votes" / "a.json").write_text("{")
    (tmp_path / "votes" / "b.json").write_text("[" * 100_000)
    (tmp_path / "votes" / "c.json").write_text(json.dumps(ballot()).replace("anna", "\\ud800"))
    listeners, problems = read(tmp_path)
    assert (listeners, len(problems)) == ([], 3)


def test_ballots_lie_in_the_repository(tmp_path: Path) -> None:
    outside = write(tmp_path / "elsewhere", "a.json", ballot())
    repository = tmp_path / "repository"
    (repository / "votes").mkdir(parents=True)
    (repository / "votes" / "a.json").symlink_to(outside)
    assert read(repository) == ([], ["votes/a.json leads out of the recipe's repository"])
