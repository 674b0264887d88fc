"""Ballots of listeners beside a recipe: read, checked, counted once. Never imports torch."""

from __future__ import annotations

import glob
import os
from pathlib import Path

from qrecipe.errors import Place, Problem, Problems
from qrecipe.files import digest, read_json
from qrecipe.inputs.documents.ballots import Ballot
from qrecipe.inputs.documents.check import check
from qrecipe.source import bounds

MAX_BALLOT = 16 << 20
"""Bytes of a ballot."""
MAX_BALLOTS = 10_000
"""Ballots of one gate."""


def read_ballots(root: Path, pattern: str, repository: Path) -> tuple[list[Ballot], Problems]:
    """The ballots that a gate's pattern names, by the names of their files, and what is wrong with them.

    Args:
        root: folder that the pattern starts from.
        repository: folder that ballots lie in, links followed.
    """
    ballots: list[Ballot] = []
    problems = Problems()
    seen: dict[str, str] = {}
    files = sorted(glob.glob(pattern, root_dir=root))[:MAX_BALLOTS]
    for name in files:
        path, place = root / name, Place(os.path.normpath(name))
        if not bounds.inside(path, repository):
            problems.append(Problem("QR048", f"{name} leads out of the recipe's repository", place))
            continue
        try:
            ballot = parse_ballot(read_json(path, MAX_BALLOT), place)
        except (OSError, ValueError) as e:
            problems.append(Problem("QR066", f"cannot be read: {e}", place))
            continue
        if isinstance(ballot, Problems):
            problems += ballot
            continue
        again = _heard_before(ballot, name, seen)
        if again is not None:
            problems.append(Problem("QR066", again, place, "remove one of the two"))
        else:
            ballots.append(ballot)
    return ballots, problems


def parse_ballot(value: object, place: Place) -> Ballot | Problems:
    """A ballot, or what is wrong with it."""
    problems = check("ballot", value, place, "QR066")
    if problems or not isinstance(value, dict):
        return problems
    rest = {k: v for k, v in value.items() if k != "sha256"}
    try:
        sealed = digest(rest) == value["sha256"]
    except ValueError:  # half of a surrogate pair
        sealed = False
    if not sealed:
        return Problems([Problem("QR066", "the ballot was edited: its hash does not fit", place, "let the listener answer again")])
    ballot = Ballot.model_validate(value)
    if ballot.scale == "ab" and any(a.answer not in (-2, 0, 2) for a in ballot.answers):
        problems.append(Problem("QR066", "an answer of the scale `ab` is -2, 0 or 2", place))
    pairs = [frozenset((a.first, a.second)) for a in ballot.answers]
    if len(set(pairs)) < len(pairs) or any(len(p) < 2 for p in pairs):
        problems.append(Problem("QR066", "a pair of sounds is answered twice, or is one sound", place))
    return problems or ballot


def _heard_before(ballot: Ballot, name: str, seen: dict[str, str]) -> str | None:
    """Why a ballot counts what another one has counted, or None."""
    for answer in ballot.answers:
        key = "/".join([ballot.listener, *sorted((answer.first, answer.second))])
        if key in seen:
            return f"{seen[key]} has answers of `{ballot.listener}` to the same sounds"
    seen |= {"/".join([ballot.listener, *sorted((a.first, a.second))]): name for a in ballot.answers}
    return None
