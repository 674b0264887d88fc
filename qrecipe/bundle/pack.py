"""Language packs: the few megabytes that a language is, in one safetensors file that runs no code when it is read.

Tensors of a pack:

    weight:NAME   a whole tensor of the base that changed, in the number format of the bundle
    rows:NAME     rows of an embedding table that changed, int64, sorted; `values:NAME` holds them
    file:PATH     bytes of a document or of a recording that gates need

The manifest is the metadata `qrecipe` of the file and holds a hash of each of them. A pack is bound to the content of its base.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from qrecipe import __version__
from qrecipe.bundle.verify import CARD, LOCK, MANIFEST, VERDICTS, read_manifest, verify
from qrecipe.errors import BaseModelError, BundleError, Place, Problem
from qrecipe.files import canonical_json, digest, loads_json, replacing
from qrecipe.hashes import sha256
from qrecipe.inputs.bases import LocalBase
from qrecipe.inputs.documents.bundle import BundlePack, PackJudging, PackManifest
from qrecipe.inputs.documents.check import check
from qrecipe.inputs.weight_files import read_header, weight_files
from qrecipe.model.weights import Delta
from qrecipe.qwen3 import CODEC_TABLE, TEXT_TABLE

SUFFIX = ".qpack"
TABLES = (CODEC_TABLE, TEXT_TABLE)
"""Tensors of which a pack holds the changed rows alone; of every other one that changed it holds the whole."""
DOCUMENTS = ("recipe.yaml", LOCK, VERDICTS, CARD)
"""Files of a bundle that its pack carries on."""
_DATA = re.compile(r"data/[A-Za-z0-9_-]{1,80}(\.[A-Za-z0-9]{1,8})?\Z")
_META = "qrecipe"


@dataclass(frozen=True)
class Pack:
    """A pack that was read and whose hashes hold."""

    path: Path
    manifest: PackManifest
    delta: Delta
    """Change that the language made to the base, as float32, under the rows that it had in its own bundle."""
    files: dict[str, bytes]
    """Documents and data by their names."""

    @property
    def id(self) -> BundlePack:
        """The pack as a bundle's manifest names it."""
        m = self.manifest
        return BundlePack(name=m.name, version=m.version, content=digest(m.model_dump(mode="json", by_alias=True)))

    def extract(self, folder: Path) -> None:
        """Writes the data of the gates below `folder`."""
        for name, content in self.files.items():
            if name.startswith("data/"):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(content)


def write_pack(bundle: Path, base: LocalBase, judging: PackJudging, data: dict[str, bytes], out: Path) -> PackManifest:
    """Writes the pack of a bundle. The same bundle and data give the same bytes.

    Args:
        base: the one that the bundle was made from.
        judging: gates with their settings; `data` has the files that they read, by their names in the pack.

    Raises `BundleError` if the bundle does not verify or was made from another base.
    """
    manifest = read_manifest(bundle)
    verify(bundle).errors.raise_any(BundleError)
    place = Place(str(bundle))
    if manifest.packs:
        names = ", ".join(p.name for p in manifest.packs)
        raise BundleError(Problem("QR064", "the bundle is made of packs itself", place, f"hand on its packs: {names}"))
    require_base(manifest.base.identity, base, place)
    tensors = dict(_changes(base.folder, bundle))
    files = {name: (bundle / name).read_bytes() for name in DOCUMENTS} | data
    tensors |= {f"file:{name}": torch.from_numpy(np.frombuffer(content, np.uint8).copy()) for name, content in files.items()}
    pack = PackManifest(
        pack=1,
        name=manifest.name,
        version=manifest.version,
        bundle=sha256(bundle / MANIFEST),
        base=manifest.base,
        languages=manifest.languages,
        accepted=manifest.accepted,
        judging=judging,
        qrecipe=__version__,
        tensors={name: _hash(t) for name, t in sorted(tensors.items())},
    )
    with replacing(out) as temporary:
        text = canonical_json(pack.model_dump(mode="json", by_alias=True))
        save_file(tensors, str(temporary), metadata={_META: text})
    return pack


def require_base(identity: str, base: LocalBase, place: Place) -> None:
    """Raises `BundleError` if a base is not the one that a bundle or a pack was made for."""
    if base.identity != identity:
        message = f"it was made from a base of another content than {base.model} ({identity[:23]}, here {base.identity[:23]})"
        raise BundleError(Problem("QR064", message, place, "`--base` names the folder of the base that it was made from"))


def _changes(base: Path, bundle: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Whatever differs in the bundle's weights, bit by bit, in its number format."""
    for file in weight_files(base):
        with safe_open(str(file), framework="pt") as before, safe_open(str(bundle / file.name), framework="pt") as after:
            for name in sorted(before.keys()):
                old, new = before.get_tensor(name), after.get_tensor(name)
                if torch.equal(_bits(old), _bits(new)):
                    continue
                if name not in TABLES:
                    yield f"weight:{name}", new
                    continue
                rows = torch.nonzero((_bits(old) != _bits(new)).any(1)).squeeze(-1)
                yield f"rows:{name}", rows
                yield f"values:{name}", new[rows]


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(torch.uint8)


def _hash(tensor: torch.Tensor) -> str:
    head = f"{tensor.dtype} {list(tensor.shape)} ".encode()
    return hashlib.sha256(head + _bits(tensor).numpy().tobytes()).hexdigest()


def read_pack(path: Path) -> Pack:
    """Reads a pack and checks every hash. Raises `BundleError` for whatever is wrong with it."""
    place = Place(str(path))

    def wrong(message: str) -> BundleError:
        return BundleError(Problem("QR063", message, place, "fetch it again, or make it again with `qrecipe pack`"))

    if not path.is_file():
        raise BundleError(Problem("QR063", "there is no such file", place))
    try:
        read_header(path, place)  # sizes are checked before anything is allocated
        with safe_open(str(path), framework="pt") as f:
            text = (f.metadata() or {}).get(_META)
            value = None if text is None else loads_json(text)
            tensors = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118  # not a dict
    except BaseModelError as e:
        raise wrong(f"not a pack: {e.problems[0].message}") from None
    except (SafetensorError, ValueError, OSError) as e:
        raise wrong(f"not a pack: {e}") from None
    if value is None:
        raise wrong("not a pack: the file has no manifest")
    check("pack", value, place, "QR063").raise_any(BundleError)
    manifest = PackManifest.model_validate(value)
    if manifest.tensors.keys() != tensors.keys():
        raise wrong("the file and its manifest do not name the same tensors")
    for name, tensor in tensors.items():
        if _hash(tensor) != manifest.tensors[name]:
            raise wrong(f"`{name}` was changed")
    files = {n.removeprefix("file:"): t.numpy().tobytes() for n, t in tensors.items() if n.startswith("file:")}
    bad = [n for n in files if n not in DOCUMENTS and not _DATA.match(n)]
    if bad or not set(DOCUMENTS) <= files.keys():
        raise wrong(f"`{bad[0]}` is no file of a pack" if bad else "a document is missing")
    why = _form_problem(tensors)
    if why is not None:
        raise wrong(why)
    return Pack(path, manifest, _delta(tensors), files)


def _form_problem(tensors: dict[str, torch.Tensor]) -> str | None:
    """Why tensors are not those of a delta, or None."""
    for key, tensor in tensors.items():
        kind, _, name = key.partition(":")
        if kind == "file":
            if tensor.dtype != torch.uint8 or tensor.ndim != 1:
                return f"`{key}` is no file"
        elif kind == "weight":
            if not tensor.is_floating_point() or not bool(tensor.isfinite().all()):
                return f"`{key}` holds what is no number"
        elif kind == "rows":
            values = tensors.get(f"values:{name}")
            if name not in TABLES or tensor.dtype != torch.int64 or tensor.ndim != 1 or values is None or values.ndim != 2:
                return f"`{key}` names no rows of a table"
            if len(tensor) != len(values) or bool((tensor.diff() <= 0).any()) or (len(tensor) and int(tensor[0]) < 0):
                return f"`{key}` is not sorted, or has other rows than values"
            if not values.is_floating_point() or not bool(values.isfinite().all()):
                return f"`values:{name}` holds what is no number"
        elif kind != "values" or f"rows:{name}" not in tensors:
            return f"`{key}` is no part of a pack"
    return None


def _delta(tensors: dict[str, torch.Tensor]) -> Delta:
    delta = Delta()
    for key, tensor in sorted(tensors.items()):
        kind, _, name = key.partition(":")
        if kind == "weight":
            delta.whole[name] = tensor.float()
        elif kind == "rows":
            delta.rows[name] = (tensor, tensors[f"values:{name}"].float())
    return delta
