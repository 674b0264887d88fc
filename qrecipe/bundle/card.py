"""The model card: README.md of a bundle, with the front matter that the Hugging Face hub reads."""

from __future__ import annotations

import html
import json
from typing import Any

import yaml

from qrecipe.plan.bases import BUILTIN
from qrecipe.plan.documents import BundleStage, Verdict
from qrecipe.plan.values import Plan


def escape(text: str) -> str:
    """Text of a recipe as plain text inside Markdown."""
    plain = html.escape(text, quote=False)
    for c in "\\`*_[]|#!":
        plain = plain.replace(c, "\\" + c)
    return " ".join(plain.split())


def model_card(plan: Plan, stages: list[BundleStage], verdicts: dict[str, list[Verdict]]) -> str:
    """The card of a bundle. Holds no clock, host or path."""
    languages = {k: v.bcp47 for k, v in plan.languages.items()}
    front: dict[str, Any] = {
        "language": sorted({tag.split("-")[0] for tag in languages.values()}),
        "library_name": "qwen-tts",
        "pipeline_tag": "text-to-speech",
        "tags": ["qwen3-tts", "qrecipe", "language-adaptation"],
    }
    if "/" in plan.base.model:
        front["base_model"] = plan.base.model
    description = plan.settings.get("description")
    first = next(iter(languages))
    lines = [
        "---",
        yaml.safe_dump(front, sort_keys=True, allow_unicode=True).strip(),
        "---",
        "",
        f"# {escape(plan.recipe)} {escape(plan.version)}",
        "",
        *([escape(str(description)), ""] if description else []),
        f"Qwen3-TTS Base that also speaks {escape(', '.join(sorted(languages)))}; "
        f"made by [qrecipe](https://pypi.org/project/qrecipe/) from {escape(plan.base.model)}"
        + (f" at {escape(plan.base.revision)}" if plan.base.revision else "")
        + ".",
        "",
    ]
    if plan.base.model.startswith(BUILTIN):
        lines += ["> Made from the small base that comes with qrecipe: good for trying a recipe and for tests, not for use.", ""]
    lines += [
        "## Use",
        "",
        "```python",
        "from qwen_tts import Qwen3TTSModel",
        "",
        'model = Qwen3TTSModel.from_pretrained("PATH/TO/THIS/FOLDER")',
        f'wavs, rate = model.generate_voice_clone(text="...", language={json.dumps(first, ensure_ascii=False)}, ref_audio="voice.wav", ref_text="What voice.wav says.")',
        "```",
        "",
        "## Languages added",
        "",
        "| language | BCP 47 | row |",
        "|---|---|---|",
        *(f"| {escape(k)} | {escape(v.bcp47)} | {v.token_id} |" for k, v in plan.languages.items()),
        "",
        "## Training",
        "",
        "| stage | objective | status | parameters | data |",
        "|---|---|---|---|---|",
    ]
    for planned, went in zip(plan.stages, stages, strict=True):
        said = [f"{t.dataset} {'spoken' if t.frames else 'respelled'} by the base as {t.spoken_as}" for t in planned.taught]
        data = escape("; ".join([", ".join(f"{d.dataset} ({d.language})" for d in planned.data), *said]))
        count = f"{went.parameters:,}" if went.parameters is not None else "-"
        lines.append(f"| {escape(planned.id)} | {planned.objective} | {went.status} | {count} | {data} |")
    lines += ["", "## Evaluation", ""]
    judged = [(where, v) for where, vs in verdicts.items() for v in vs]
    if judged:
        lines += ["| after | gate | value | interval | outcome |", "|---|---|---|---|---|"]
        for where, v in judged:
            if v.outcome == "skipped":
                lines.append(f"| {where} | {v.gate} | - | - | **not judged**: {escape(v.reason or '')} |")
                continue
            lines.append(f"| {where} | {v.gate} | {v.value:.4g} | {v.low:.4g} to {v.high:.4g} | {v.outcome} |")
    else:
        lines.append("The recipe states no gates.")
    lines += [
        "",
        "Values, intervals and baselines are in `verdicts.json`; what was asked is in `recipe.yaml`; what was resolved is in `recipe.lock`.",
        "",
    ]
    return "\n".join(lines)
