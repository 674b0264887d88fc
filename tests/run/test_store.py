"""A run's folder: one run at a time."""

from __future__ import annotations

from pathlib import Path

import pytest

from qrecipe.errors import UserError
from qrecipe.run.store import RunStore


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    with RunStore(tmp_path / "malay").held():
        with pytest.raises(UserError) as e, RunStore(tmp_path / "malay").held():
            raise AssertionError("two runs hold one folder")
        assert [p.code for p in e.value.problems] == ["QR071"]
    with RunStore(tmp_path / "malay").held():
        pass
