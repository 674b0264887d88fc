"""Weights that learn and weights that must not: masters, deltas, and the proof that nothing else moved."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from qrecipe.errors import EngineError
from qrecipe.files import replacing
from qrecipe.hashes import sha256_while_synced
from qrecipe.model.forward import RowSubset, Tables
from qrecipe.model.lora import LowRank
from qrecipe.phases import phase
from qrecipe.plan.trainable import Trainable
from qrecipe.qwen3 import CODEC_TABLE, PREDICTOR_PROJECTION, TALKER_INPUTS, TEXT_TABLE, within
from qrecipe.recipe.stage import Masters

HASHING_THREADS = 8
"""Tensors that are hashed at once; each is copied from the GPU first."""


@dataclass
class Delta:
    """The result of training: whole tensors, and rows of tensors, in float32 on the CPU."""

    whole: dict[str, torch.Tensor] = field(default_factory=dict)
    rows: dict[str, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)
    """Tensor name -> (row numbers [n] int64 sorted, values [n, width])."""

    def then(self, later: Delta) -> Delta:
        """This delta with a later one on top."""
        whole, rows = dict(self.whole), dict(self.rows)
        for name, values in later.whole.items():
            whole[name] = values
            rows.pop(name, None)
        for name, (ids, values) in later.rows.items():
            if name in whole:
                changed = whole[name].clone()
                changed[ids] = values
                whole[name] = changed
            elif name in rows:
                merged = dict(zip(rows[name][0].tolist(), rows[name][1], strict=True))
                merged.update(zip(ids.tolist(), values, strict=True))
                order = sorted(merged)
                rows[name] = (torch.tensor(order), torch.stack([merged[i] for i in order]))
            else:
                rows[name] = (ids, values)
        return Delta(whole, rows)

    def save(self, path: Path) -> str:
        """Writes one safetensors file: `NAME` for whole tensors, `NAME#rows` and `NAME#values` for rows. Returns its SHA-256."""
        tensors = {k: v.contiguous() for k, v in self.whole.items()}
        for name, (ids, values) in self.rows.items():
            tensors[f"{name}#rows"] = ids.contiguous()
            tensors[f"{name}#values"] = values.contiguous()
        with replacing(path) as temporary:
            save_file(tensors, str(temporary), metadata={"format": "qrecipe delta 1"})
            return sha256_while_synced(temporary)

    @classmethod
    def load(cls, path: Path) -> Delta:
        """Reads what `save` wrote."""
        delta = cls()
        with safe_open(str(path), framework="pt") as f:
            for key in sorted(f.keys()):
                if key.endswith("#values"):
                    name = key.removesuffix("#values")
                    delta.rows[name] = (f.get_tensor(f"{name}#rows"), f.get_tensor(key))
                elif not key.endswith("#rows"):
                    delta.whole[key] = f.get_tensor(key)
        return delta


def parameters(net: Any) -> dict[str, torch.Tensor]:
    """Every tensor of the weights by its name in the file, buffers that are saved included."""
    state: dict[str, torch.Tensor] = net.state_dict(keep_vars=True)
    return {k.replace(".base_layer.", "."): v for k, v in state.items() if isinstance(v, torch.Tensor)}


@torch.no_grad()
def apply(net: Any, delta: Delta, export_dtype: torch.dtype) -> None:
    """Writes a delta into the modules, rounded to the number format of the files."""
    tensors = parameters(net)
    for name, values in delta.whole.items():
        target = tensors[name]
        target.copy_(values.to(export_dtype).to(target.dtype))
    for name, (ids, values) in delta.rows.items():
        target = tensors[name]
        target[ids.to(target.device)] = values.to(export_dtype).to(target.device, target.dtype)


class Guard:
    """Proves that training moved only what the plan declares.

    Keeps a hash of every tensor that does not train, and a copy of the tables of which only rows train.
    """

    @phase("comparing frozen weights")
    def __init__(self, net: Any, trainable: Trainable) -> None:
        self._tables: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        frozen: dict[str, torch.Tensor] = {}
        whole = {n for g in trainable.groups if g.whole for n in g.tensors}
        for name, tensor in parameters(net).items():
            rows = trainable.rows_of(name)
            if rows is not None:
                self._tables[name] = (tensor.detach().to("cpu", copy=True), torch.tensor(rows))
            elif name not in whole:
                frozen[name] = tensor
        self._hashes = _hashes(frozen)

    @phase("comparing frozen weights")
    def check(self, net: Any) -> None:
        """Raises `EngineError` with the name of the first tensor or row that moved and was not declared."""
        after = parameters(net)
        now = _hashes({name: after[name] for name in self._hashes})
        for name, before in self._hashes.items():
            if now[name] != before:
                raise EngineError(f"{name} changed although the stage does not declare it: the stage is discarded")
        for name, (table, declared) in self._tables.items():
            rows = after[name].detach().to("cpu")
            moved = torch.nonzero((_bits(table) != _bits(rows)).any(1)).squeeze(-1)
            moved = moved[~torch.isin(moved, declared)]
            if moved.numel():
                raise EngineError(f"row {int(moved[0])} of {name} changed although the stage does not declare it: the stage is discarded")


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    """The bytes of a tensor, so that equal means bit-identical: [..., bytes]."""
    return tensor.detach().contiguous().view(torch.uint8)


def _hashes(tensors: Mapping[str, torch.Tensor]) -> dict[str, bytes]:
    """Hashes of tensors by name, on several cores: a hash lets other threads run."""
    with ThreadPoolExecutor(HASHING_THREADS) as pool:
        return dict(zip(tensors, pool.map(_hash, tensors.values()), strict=True))


def _hash(tensor: torch.Tensor) -> bytes:
    data = tensor.detach().to("cpu").contiguous().reshape(-1)
    return hashlib.blake2b(_bits(data).numpy().data, digest_size=16).digest()


@dataclass
class LearningGroup:
    """Parameters of one entry of `train`, with their rate."""

    label: str
    lr: float
    weight_decay: float
    parameters: list[torch.nn.Parameter]


class Learner:
    """Makes a stage's trainable set learnable: masters for whole tensors, low-rank deltas, row subsets for rows."""

    def __init__(self, net: Any, trainable: Trainable, start: Delta, masters: Masters = "float32") -> None:
        """`start` holds the unrounded result of the stages before; `masters` is the number format of linear layers' weights."""
        self.net = net
        self.tables = Tables(net.talker)
        self.groups: list[LearningGroup] = []
        self._named: dict[str, torch.nn.Parameter] = {}
        self._subsets: list[tuple[str, RowSubset]] = []
        self._original: dict[str, torch.Tensor] = {}
        self._start = start
        tensors = parameters(net)
        linear = trainable.linear({name: tuple(tensor.shape) for name, tensor in tensors.items()})
        self._narrow = set(linear) if masters == "bfloat16" else set()
        # all adapters first: peft marks what it knows as learning on the way
        adapters = {
            i: LowRank(net, g.tensors, g.train.lora, f"entry{i}") for i, g in enumerate(trainable.groups) if g.train.lora is not None
        }
        self._low_rank = list(adapters.values())
        if adapters:
            net.requires_grad_(False)
        for i, group in enumerate(trainable.groups):
            if i in adapters:
                learned = adapters[i].parameters
                for factor in learned:
                    factor.requires_grad_(True)
            elif group.whole:
                learned = [self._master(name, tensors[name]) for name in group.tensors]
            else:
                learned = [self._row_subset(name, tensors[name], group.rows) for name in group.tensors]
            label = ", ".join(group.train.patterns)
            self.groups.append(LearningGroup(label, group.train.lr, group.train.weight_decay, learned))
        self.linear = [self._named[name] for name in linear]
        """Weights of linear layers that train themselves."""

    def _master(self, name: str, parameter: torch.Tensor) -> torch.nn.Parameter:
        """A whole tensor's master in the place of the frozen one: float32, or what the model computes with, of bfloat16's values."""
        assert isinstance(parameter, torch.nn.Parameter), name
        self._original[name] = parameter.data.cpu()  # a GPU's memory is for what trains
        master = _unrounded(parameter.data.to(torch.float32, copy=True), name, self._start)
        parameter.data = master.bfloat16().to(parameter.dtype) if name in self._narrow else master
        parameter.requires_grad_(True)
        self._named[name] = parameter
        return parameter

    def _row_subset(self, name: str, table: torch.Tensor, rows: Sequence[int] | None) -> torch.nn.Parameter:
        """Rows of a table as a parameter of their own, which look-ups see."""
        assert rows is not None
        assert name in (TEXT_TABLE, CODEC_TABLE)
        subset = RowSubset(table.data, rows)
        _unround_rows(subset, name, self._start)
        self.tables.subsets.setdefault(name, []).append(subset)
        self._subsets.append((name, subset))
        return subset.values

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        """Everything that learns."""
        for group in self.groups:
            yield from group.parameters

    def in_order(self) -> list[torch.nn.Parameter]:
        """Everything that learns, about in the order in which a forward pass reads it.

        That is rows, then what the talker or the predictor reads through, wherever it stands, then the net's own order.
        """
        first = (*TALKER_INPUTS, PREDICTOR_PROJECTION)
        places = {id(p): (not within(n, *first), i) for i, (n, p) in enumerate(self.net.named_parameters())}
        return sorted(self.parameters(), key=lambda p: places.get(id(p), (False, -1)))

    def state(self) -> dict[str, torch.Tensor]:
        """Everything that learns, copied to the CPU, by its number."""
        return {str(i): p.detach().to("cpu", copy=True).contiguous() for i, p in enumerate(self.parameters())}

    @torch.no_grad()
    def set_state(self, state: dict[str, torch.Tensor]) -> None:
        """Takes over what `state` returned. Raises `EngineError` for tensors of other shapes; then nothing has changed."""
        parameters = list(self.parameters())
        if {str(i): tuple(p.shape) for i, p in enumerate(parameters)} != {k: tuple(v.shape) for k, v in state.items()}:
            raise EngineError("the checkpoint holds other tensors than the plan trains; nothing was trained from it")
        for i, parameter in enumerate(parameters):
            parameter.copy_(state[str(i)].to(parameter.device))

    def snapshot(self) -> Delta:
        """A copy of the result so far."""
        delta = Delta()
        for name, parameter in self._named.items():
            delta.whole[name] = parameter.detach().to("cpu", torch.float32, copy=True)
        for low_rank in self._low_rank:
            delta.whole.update(low_rank.merged(self._start.whole))
        for name, subset in self._subsets:
            values = subset.values.detach().to("cpu", torch.float32, copy=True)
            delta = delta.then(Delta(rows={name: (subset.ids.cpu().clone(), values)}))
        return delta

    @contextmanager
    def exported(self, export_dtype: torch.dtype) -> Iterator[None]:
        """The modules hold, for a while, what a bundle would hold of the weights so far; then what learns again.

        Takes memory for a copy of the whole tensors that train, in the modules' number format.
        """
        tensors = parameters(self.net)
        masters = {name: parameter.data for name, parameter in self._named.items()}
        tables = [(tensors[name].data, subset) for name, subset in self._subsets]
        frozen = [table[subset.ids] for table, subset in tables]
        with ExitStack() as stack:
            for low_rank in self._low_rank:
                stack.enter_context(low_rank.exported(self._start.whole, export_dtype))
            try:
                for name, master in masters.items():
                    self._named[name].data = master.to(export_dtype).to(self._original[name].dtype, copy=True)
                for table, subset in tables:
                    table[subset.ids] = subset.values.detach().to(export_dtype).to(table.dtype)
                yield
            finally:
                for name, master in masters.items():
                    self._named[name].data = master
                for (table, subset), rows in zip(tables, frozen, strict=True):
                    table[subset.ids] = rows

    @contextmanager
    def started(self) -> Iterator[None]:
        """The modules compute, for a while, with the weights that the stage began with, as a bundle would hold them.

        Rows of tables are those of the modules: look them up without `tables`.
        """
        masters = {name: parameter.data for name, parameter in self._named.items()}
        with ExitStack() as stack:
            for low_rank in self._low_rank:
                stack.enter_context(low_rank.off())
            try:
                for name, master in masters.items():
                    self._named[name].data = self._original[name].to(master.device)
                yield
            finally:
                for name, master in masters.items():
                    self._named[name].data = master

    def close(self) -> None:
        """Gives the modules their original tensors back; the result lives in the snapshot."""
        for low_rank in self._low_rank:
            low_rank.close()
        tensors = parameters(self.net)
        for name, original in self._original.items():
            parameter = tensors[name]
            parameter.requires_grad_(False)
            parameter.grad = None
            parameter.data = original.to(parameter.device)


@torch.no_grad()
def _unround_rows(subset: RowSubset, name: str, start: Delta) -> None:
    """Starts a row subset from the unrounded rows of the stages before, where they trained some of them."""
    ids = subset.ids.cpu()
    if name in start.whole:
        subset.values.copy_(start.whole[name][ids])
    elif name in start.rows:
        known, values = start.rows[name]
        where = {row: i for i, row in enumerate(known.tolist())}
        for i, row in enumerate(ids.tolist()):
            if row in where:
                subset.values[i] = values[where[row]].to(subset.values.device)


def _unrounded(values: torch.Tensor, name: str, start: Delta) -> torch.Tensor:
    if name in start.whole:
        return start.whole[name].to(values.device).float().clone()
    if name in start.rows:
        ids, rows = start.rows[name]
        values = values.clone()
        values[ids.to(values.device)] = rows.to(values.device)
    return values


@torch.no_grad()
def survival(net: Any, delta: Delta, export_dtype: torch.dtype) -> float:
    """Share of the elements changed by a stage that differ after rounding as well; 1 if none changed. `net` is from before the stage."""
    tensors = parameters(net)
    changed = survived = 0
    for name, after, before in (
        *((n, v, tensors[n].detach()) for n, v in delta.whole.items()),
        *((n, v, tensors[n].detach()[ids.to(tensors[n].device)]) for n, (ids, v) in delta.rows.items()),
    ):
        assert after.shape == before.shape, name
        after, old = after.to(before.device), before.float()
        changed += int((after != old).sum())
        survived += int((after.to(export_dtype) != before.to(export_dtype)).sum())
    return survived / changed if changed else 1.0
