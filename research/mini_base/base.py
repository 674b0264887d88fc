"""Folders in the stock layout: an untrained base to begin with, and the finished one.

python research/mini_base/base.py blank --speech-tokenizer DIR --speaker FILE --vocabulary DIR --out DIR
python research/mini_base/base.py publish --base DIR [--out qrecipe/builtin/mini]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

PACKAGE = Path(__file__).resolve().parents[2] / "qrecipe" / "builtin" / "mini"
UNSPOKEN_STD = 0.02
"""Rows of `codec_embedding` that no corpus reaches stay this small, so that they can be told from trained ones."""
TEXT_FILES = ("vocab.json", "merges.txt", "tokenizer_config.json")
COPIED = ("generation_config.json", "preprocessor_config.json")


def config() -> dict[str, Any]:
    """The package's config.json."""
    loaded: dict[str, Any] = json.loads((PACKAGE / "config.json").read_text(encoding="utf-8"))
    return loaded


def blank(out: Path, speech_tokenizer: Path, speaker: Path, vocabulary: Path, seed: int = 0) -> None:
    """Writes a base whose talker knows nothing.

    Args:
        out: new folder.
        speech_tokenizer: trained folder of the speech tokenizer.
        speaker: safetensors of the trained speaker encoder.
        vocabulary: folder with vocab.json and merges.txt.
        seed: of the talker's weights.
    """
    from qwen_tts.core.models import Qwen3TTSConfig
    from qwen_tts.core.models.modeling_qwen3_tts import Qwen3TTSForConditionalGeneration
    from talker_net import scale_init

    out.mkdir(parents=True, exist_ok=True)
    settings = config()
    (out / "config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    for name in COPIED:
        shutil.copyfile(PACKAGE / name, out / name)
    for name in TEXT_FILES:
        shutil.copyfile((PACKAGE if name == "tokenizer_config.json" else vocabulary) / name, out / name)
    shutil.copytree(speech_tokenizer, out / "speech_tokenizer", dirs_exist_ok=True)
    torch.manual_seed(seed)
    model = Qwen3TTSForConditionalGeneration(Qwen3TTSConfig.from_pretrained(str(out)))
    scale_init(model.talker, settings["talker_config"]["code_predictor_config"]["vocab_size"])
    talker = settings["talker_config"]
    known = {*talker["codec_language_id"].values(), *(v for k, v in talker.items() if k.startswith("codec_") and isinstance(v, int))}
    unspoken = [row for row in range(2048, talker["vocab_size"]) if row not in known]
    with torch.no_grad():
        model.talker.model.codec_embedding.weight[unspoken] = torch.randn(len(unspoken), talker["hidden_size"]) * UNSPOKEN_STD
    model.speaker_encoder.load_state_dict(load_file(speaker))
    tensors = {name: value.float().contiguous() for name, value in model.state_dict().items()}
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})


def publish(base: Path, out: Path) -> None:
    """Writes a trained base in bf16, as the package ships it: the layout of the published bases."""
    tensors: dict[str, torch.Tensor] = {}
    for path in sorted(base.glob("model*.safetensors")):
        tensors.update({name: value.to(torch.bfloat16).contiguous() for name, value in load_file(path).items()})
    out.mkdir(parents=True, exist_ok=True)
    for old in out.rglob("model*.safetensors*"):
        old.unlink()
    save_file(dict(sorted(tensors.items())), out / "model.safetensors", metadata={"format": "pt"})
    (out / "speech_tokenizer").mkdir(exist_ok=True)
    for path in sorted((base / "speech_tokenizer").iterdir()):
        shutil.copyfile(path, out / "speech_tokenizer" / path.name)
    for name in (*TEXT_FILES, *COPIED, "config.json"):
        if (base / name).resolve() != (out / name).resolve():
            shutil.copyfile(base / name, out / name)
    carried = [path for path in sorted(out.rglob("*")) if path.is_file() and path.name not in ("builtin.json", "README.md")]
    sums = {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in carried}
    (out / "builtin.json").write_text(json.dumps({"files": sums}, indent=1) + "\n", encoding="utf-8")
    for path in carried:
        print(f"{path.stat().st_size:>10}  {path.relative_to(out)}")


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    new = verbs.add_parser("blank", help="a base whose talker knows nothing")
    new.add_argument("--speech-tokenizer", type=Path, required=True)
    new.add_argument("--speaker", type=Path, required=True)
    new.add_argument("--vocabulary", type=Path, required=True)
    new.add_argument("--out", type=Path, required=True)
    finished = verbs.add_parser("publish", help="the finished base")
    finished.add_argument("--base", type=Path, required=True)
    finished.add_argument("--out", type=Path, default=PACKAGE)
    args = parser.parse_args()
    if args.verb == "blank":
        blank(args.out, args.speech_tokenizer, args.speaker, args.vocabulary)
    else:
        publish(args.base, args.out)


if __name__ == "__main__":
    main()
