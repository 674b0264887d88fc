"""What is written down agrees with the program: generated pages, codes of problems, links, commands."""

from __future__ import annotations

import re
import runpy
import subprocess
from pathlib import Path

import pytest

from qrecipe.cli.app import VERBS
from qrecipe.errors import CODES
from qrecipe.hashes import FileHashes
from qrecipe.plan import make_plan
from qrecipe.recipe import load
from qrecipe.recipe.docs import field_docs, settings_models

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("*", "docs/*", "recipes/**/*", "research/**/*", "qrecipe/builtin/**/*")
PAGES = sorted(page for folder in FOLDERS for page in ROOT.glob(f"{folder}.md"))
LINK = re.compile(r"\]\(([^)\s]+)\)")
COMMAND = re.compile(r"qrecipe ([a-z]+)\b")


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def links(page: Path) -> list[str]:
    """Targets of a page's links, without those of code blocks."""
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return LINK.findall(text)


def test_the_field_reference_is_what_the_tool_writes() -> None:
    tool = runpy.run_path(str(ROOT / "docs" / "recipe.py"))
    assert (ROOT / "docs" / "recipe.md").read_text(encoding="utf-8") == tool["page"](), "run `make docs`"


def test_every_field_of_a_recipe_is_documented_in_sentences() -> None:
    """What a field means, its unit and why its default is what it is are for a reader to judge; that they are there is not."""
    for model in (m for m in settings_models() if m.__module__.startswith("qrecipe.recipe.")):
        docs = field_docs(model)
        assert [f for f in model.model_fields if not re.search(r"[.?]$", docs.get(f, ""))] == [], model


def test_every_code_is_documented_with_its_meaning() -> None:
    text = (ROOT / "docs" / "problems.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (QR\d{3}) \| (.+?) \| (.+) \|$", text, flags=re.MULTILINE)
    assert {code: meaning for code, meaning, _ in rows} == {code: kind.meaning for code, kind in CODES.items()}
    assert [code for code, _, _ in rows] == sorted(CODES)
    assert all(advice.strip() for _, _, advice in rows)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_within_the_repository_lead_somewhere(page: Path) -> None:
    for link in links(page):
        if "://" in link or link.startswith("mailto:"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link}: there is no such file"
        assert target.is_relative_to(ROOT), f"{link} leads out of the repository"
        if anchor:
            assert anchor in anchors(target), f"{link}: there is no such heading"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_verbs_exist(page: Path) -> None:
    code = re.findall(r"```(?:sh|console)\n(.*?)```|`([^`\n]+)`", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    used = {verb for block in code for part in block for verb in COMMAND.findall(part)}
    assert used <= VERBS.keys(), f"no such verb: {used - VERBS.keys()}"


def test_pictures_of_the_readme_are_small_and_bring_nothing_from_elsewhere() -> None:
    pictures = re.findall(r"!\[(.+?)\]\((.+?)\)", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    assert {"docs/page.png", "docs/verdict.svg", "docs/error.svg"} <= {path for _, path in pictures}
    for _, path in pictures:
        assert (ROOT / path).stat().st_size < 150_000
        if path.endswith(".svg"):
            assert set(re.findall(r"https?://[^\s\"<]+", (ROOT / path).read_text(encoding="utf-8"))) <= {"http://www.w3.org/2000/svg"}


def test_the_recipe_of_the_readme_is_the_file_that_it_names_and_validates() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    first = ROOT / "recipes" / "first.yaml"
    assert blocks == [first.read_text(encoding="utf-8")]
    assert len(blocks[0].splitlines()) <= 30
    planned = make_plan(load(first), FileHashes())
    assert planned.errors == []
    assert [stage.id for stage in planned.plan.stages] == ["language", "talker"]


def test_every_page_of_the_manual_is_in_its_index() -> None:
    listed = {(ROOT / "docs" / link.partition("#")[0]).resolve() for link in links(ROOT / "docs" / "index.md")}
    pages = {page for page in ROOT.glob("docs/*.md") if page.name not in ("index.md", "recipe.head.md")}
    assert pages <= listed, f"not in docs/index.md: {sorted(p.name for p in pages - listed)}"


def test_source_files_that_are_named_exist() -> None:
    source = re.compile(r"`((?:tests|qrecipe|research|benchmarks)/[\w/]+\.py)`")
    named = {t for page in PAGES for t in source.findall(page.read_text(encoding="utf-8"))}
    assert named
    assert [t for t in sorted(named) if not (ROOT / t).is_file()] == []


def test_files_and_names_of_the_architecture_exist() -> None:
    """`path`, `folder/` or `path::name` in backticks, from the root or below `qrecipe/`."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = re.findall(r"`([\w./-]+(?:\.(?:py|md|toml|yaml)|/))(?:::(?:\w+\.)?(\w+))?`", text)
    assert len(named) > 50
    rooms = {f"{f.parent.name}/" for f in ROOT.glob("qrecipe/*/__init__.py")}
    assert rooms <= {path for path, _ in named}, f"not in docs/architecture.md: {rooms - {path for path, _ in named}}"
    for path, name in (n for n in named if n[0] != "cli/VERB.py"):
        files = [f for f in (ROOT / "qrecipe" / path, ROOT / path) if f.exists()]
        assert files, f"docs/architecture.md names {path}, which does not exist: correct the page"
        if name:
            assert re.search(rf"^ *(?:async )?(?:def|class) {name}\b|^{name}\b.* = ", files[0].read_text("utf-8"), re.MULTILINE), (
                f"docs/architecture.md names {path}::{name}, which does not exist: correct the page"
            )


def test_what_the_makefile_promises_is_a_target() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", text, flags=re.MULTILINE))
    named = {t for page in PAGES for t in re.findall(r"`make ([a-z]+)", page.read_text(encoding="utf-8"))}
    assert named <= targets
    assert targets == set(re.findall(r"^\.PHONY: (.+)$", text, flags=re.MULTILINE)[0].split())


def test_ci_runs_the_tests() -> None:
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111, ".ci/run is executable"
    subprocess.run(["bash", "-n", str(ROOT / ".ci" / "run")], check=True)
    assert ".ci/run" in (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
