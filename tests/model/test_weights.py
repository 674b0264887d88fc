"""What learns moves, what must not stays bit-identical, and a delta is the whole difference."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from qrecipe.errors import EngineError
from qrecipe.model import forward, prompt
from qrecipe.model.forward import RowSubset, Tables
from qrecipe.model.load import LoadedBase
from qrecipe.model.weights import Delta, Guard, Learner, apply, parameters, survival
from qrecipe.model.working import WorkingWeights
from qrecipe.plan.trainable import Group, Trainable
from qrecipe.qwen3 import CODEC_TABLE, TEXT_TABLE
from qrecipe.recipe.stage import Lora, Train

PROJECTION = "talker.text_projection.linear_fc1.weight"
NORM = "talker.model.layers.0.input_layernorm.weight"


def rows_of(name: str, rows: tuple[int, ...], lr: float = 1e-2, weight_decay: float = 0.1) -> Group:
    train = Train(match=name.removesuffix(".weight"), rows=list(rows), lr=lr, weight_decay=weight_decay)
    return Group(train, (name,), rows, False, None, 0)


def whole(name: str, lr: float = 1e-2) -> Group:
    return Group(Train(match=name, lr=lr), (name,), None, True, None, 0)


@contextlib.contextmanager
def unchanged(opened: LoadedBase) -> Iterator[dict[str, torch.Tensor]]:
    """The weights as they are; put back afterwards."""
    before = {k: v.detach().clone() for k, v in parameters(opened.net).items()}
    try:
        yield before
    finally:
        for name, tensor in parameters(opened.net).items():
            if name in before:
                tensor.data.copy_(before[name])


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().contiguous().view(torch.uint8)


def step(opened: LoadedBase, learner: Learner, examples: list[prompt.Example], steps: int = 2) -> None:
    """AdamW over everything that learns, on real losses."""
    batch = prompt.collate(examples, prompt.ControlIds.of(opened.config))
    optimizer = torch.optim.AdamW([{"params": g.parameters, "lr": g.lr, "weight_decay": g.weight_decay} for g in learner.groups])
    for _ in range(steps):
        optimizer.zero_grad()
        logits = forward.speech_logits(learner.tables, batch, torch.float32)
        forward.talker_nll(logits, batch).mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def test_for_a_while_the_modules_hold_what_a_bundle_would(opened: LoadedBase, example: Callable[..., prompt.Example]) -> None:
    """Whole tensors, rows and merged low-rank deltas, rounded; what learns is as it was before, and so is all else afterwards."""
    rate, adapted = 1e-2, "talker.model.layers.1.self_attn.q_proj.weight"
    low_rank = Train(match=adapted.removesuffix(".weight"), lr=rate, lora=Lora(rank=2, alpha=4.0))
    english = opened.language_row("english")
    assert english is not None
    with unchanged(opened) as before:
        groups = [whole(PROJECTION), rows_of(CODEC_TABLE, (english,)), Group(low_rank, (adapted,), None, False, None, 0)]
        learner = Learner(opened.net, Trainable(groups), Delta())
        step(opened, learner, [example()])
        learned = [p.detach().clone() for p in learner.parameters()]
        with learner.exported(torch.bfloat16):
            held = {n.replace(".base_layer", ""): t.detach().clone() for n, t in parameters(opened.net).items()}
            layer = opened.net.get_submodule(low_rank.match)
            assert torch.equal(layer(torch.eye(layer.in_features)).t() - (layer.bias or 0.0), held[adapted]), "no delta comes on top"
        assert all(torch.equal(bits(a), bits(b)) for a, b in zip(learned, learner.parameters(), strict=True))
        snapshot = learner.snapshot()
        learner.close()
        assert {n for n, t in parameters(opened.net).items() if not torch.equal(bits(t), bits(before[n]))} == set()
        apply(opened.net, snapshot, torch.bfloat16)
        exported = parameters(opened.net)
        assert {n for n in before if not torch.equal(bits(exported[n]), bits(before[n]))} == {PROJECTION, CODEC_TABLE, adapted}
        assert {n for n in before if not torch.equal(bits(exported[n]), bits(held[n]))} == set()


def test_only_the_chosen_rows_learn(opened: LoadedBase, example: Callable[..., prompt.Example]) -> None:
    """Under weight decay too, which is what moves rows whose gradient was only zeroed."""
    english = opened.language_row("english")
    body = opened.tokenizer.assistant("Saya suka makan nasi.")[1]
    assert english is not None
    with unchanged(opened) as before:
        trainable = Trainable([rows_of(CODEC_TABLE, (english,)), rows_of(TEXT_TABLE, tuple(sorted(body)))])
        learner = Learner(opened.net, trainable, Delta())
        step(opened, learner, [example()])
        learned = learner.snapshot()
        learner.close()
        apply(opened.net, learned, torch.float32)
        after = parameters(opened.net)
        moved = {name for name in before if not torch.equal(bits(before[name]), bits(after[name]))}
        assert moved == {CODEC_TABLE, TEXT_TABLE}
        for name, rows in ((CODEC_TABLE, [english]), (TEXT_TABLE, sorted(set(body)))):
            changed = (bits(before[name]) != bits(after[name])).any(1).nonzero().flatten().tolist()
            assert changed == rows


def test_a_subset_is_the_table_with_its_rows_written_in() -> None:
    torch.manual_seed(0)
    table, rows = torch.randn(20, 6), [3, 17, 4]
    subset = RowSubset(table, rows)
    with torch.no_grad():
        subset.values += 1
    written = table.clone()
    written[rows] = subset.values.detach()
    ids = torch.randint(0, 20, (4, 30))
    assert torch.equal(subset.replace(ids, table[ids]), written[ids])


def test_gradients_of_a_subset_are_those_of_the_whole_table(opened: LoadedBase, example: Callable[..., prompt.Example]) -> None:
    english = opened.language_row("english")
    assert english is not None
    rows = (english, 2148, 5)
    batch = prompt.collate([example(codes=torch.full((4, 8), 5))], prompt.ControlIds.of(opened.config))
    table = opened.talker.model.codec_embedding.weight

    def loss(tables: Tables) -> torch.Tensor:
        return forward.talker_nll(forward.speech_logits(tables, batch, torch.float32), batch).sum()

    learner = Learner(opened.net, Trainable([rows_of(CODEC_TABLE, rows)]), Delta())
    loss(learner.tables).backward()  # type: ignore[no-untyped-call]
    (subset,) = learner.tables.subsets[CODEC_TABLE]
    learner.close()
    table.requires_grad_(True)
    try:
        loss(Tables(opened.talker)).backward()  # type: ignore[no-untyped-call]
        expected = table.grad[subset.ids]
    finally:
        table.requires_grad_(False)
        table.grad = None
    assert subset.values.grad is not None
    assert expected.abs().amax(1).min() > 0
    assert torch.allclose(subset.values.grad, expected, atol=1e-6)


@pytest.mark.slow
def test_a_subset_s_gradient_is_summed_in_one_order_by_several_threads() -> None:
    """A language's row is looked up in every row of a batch: threads that each add what they have come first by turns."""
    torch.manual_seed(0)
    table, ids, pull = torch.randn(20, 256), torch.randint(0, 3, (3000,)), torch.randn(3000, 256)
    subset = RowSubset(table, [2, 1])

    def gradient() -> torch.Tensor:
        return torch.autograd.grad(subset.replace(ids, table[ids]), subset.values, pull)[0]

    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        first = gradient()
        assert all(torch.equal(gradient(), first) for _ in range(20))
    finally:
        torch.set_num_threads(threads)


def test_masters_start_unrounded_and_close_gives_the_tensors_back(opened: LoadedBase) -> None:
    with unchanged(opened) as before:
        fine = before[PROJECTION] + 1e-6
        learner = Learner(opened.net, Trainable([whole(PROJECTION)]), Delta(whole={PROJECTION: fine}))
        assert torch.equal(parameters(opened.net)[PROJECTION], fine)
        (parameter,) = learner.parameters()
        assert parameter.requires_grad
        with torch.no_grad():
            parameter += 1
        learner.close()
        assert torch.equal(parameters(opened.net)[PROJECTION], before[PROJECTION])
        assert not any(p.requires_grad for p in opened.net.parameters())


def test_later_deltas_win() -> None:
    """Applying two deltas one after the other is applying the merged one, whatever each holds of a tensor."""
    torch.manual_seed(0)
    shape = (6, 3)

    def write(table: torch.Tensor, delta: Delta) -> torch.Tensor:
        out = delta.whole.get("t", table).clone()
        if "t" in delta.rows:
            out[delta.rows["t"][0]] = delta.rows["t"][1]
        return out

    some = Delta(rows={"t": (torch.tensor([1, 4]), torch.randn(2, 3))})
    others = Delta(rows={"t": (torch.tensor([0, 4, 5]), torch.randn(3, 3))})
    all_ = Delta(whole={"t": torch.randn(shape)})
    table = torch.randn(shape)
    for first in (some, others, all_, Delta()):
        for second in (some, others, all_, Delta()):
            assert torch.equal(write(table, first.then(second)), write(write(table, first), second))
    assert some.then(others).rows["t"][0].tolist() == [0, 1, 4, 5]
    assert sum(values.numel() for _, values in some.then(others).rows.values()) == 12


def test_a_delta_survives_its_file(tmp_path: Path) -> None:
    delta = Delta(
        whole={"a.weight": torch.randn(3, 2), "a.bias": torch.tensor(-0.0).reshape(1)},
        rows={"b.weight": (torch.tensor([2, 9]), torch.randn(2, 4))},
    )
    delta.save(tmp_path / "delta.safetensors")
    loaded = Delta.load(tmp_path / "delta.safetensors")
    assert loaded.whole.keys() == delta.whole.keys()
    assert all(torch.equal(bits(loaded.whole[k]), bits(v)) for k, v in delta.whole.items())
    assert torch.equal(loaded.rows["b.weight"][0], delta.rows["b.weight"][0])
    assert torch.equal(loaded.rows["b.weight"][1], delta.rows["b.weight"][1])


def test_a_delta_can_be_written_onto_the_file_it_came_from(tmp_path: Path) -> None:
    """safetensors maps what it reads: written in place, the values would be torn from under the tensors."""
    path = tmp_path / "delta.safetensors"
    values = torch.randn(500, 100)
    Delta(whole={"a": values}).save(path)
    loaded = Delta.load(path)
    loaded.then(Delta(whole={"b": torch.zeros(2)})).save(path)
    assert torch.equal(loaded.whole["a"], values)
    again = Delta.load(path)
    assert torch.equal(again.whole["a"], values)
    assert again.whole.keys() == {"a", "b"}
    assert [f.name for f in tmp_path.iterdir()] == ["delta.safetensors"]


def test_masters_are_float32_whatever_the_modules_are(fresh: LoadedBase) -> None:
    """In bfloat16 an update of 1e-5 rounds away near 0.02; a thousand of them would learn nothing."""
    fresh.net.to(torch.bfloat16)
    learner = Learner(fresh.net, Trainable([whole(PROJECTION, lr=1e-5), rows_of(CODEC_TABLE, (2072,), lr=1e-5)]), Delta())
    start = learner.snapshot()
    optimizer = torch.optim.AdamW([{"params": g.parameters, "lr": g.lr, "weight_decay": 0.0} for g in learner.groups])
    for _ in range(3):
        for parameter in learner.parameters():
            assert parameter.dtype == torch.float32
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    end = learner.snapshot()
    learner.close()
    assert end.whole[PROJECTION].sub(start.whole[PROJECTION]).add(3e-5).abs().max() < 1e-6
    assert end.rows[CODEC_TABLE][1].sub(start.rows[CODEC_TABLE][1]).add(3e-5).abs().max() < 1e-6
    assert parameters(fresh.net)[PROJECTION].dtype == torch.bfloat16


def test_the_predictor_s_tables_are_the_talker_s_input_too(opened: LoadedBase, example: Callable[..., prompt.Example]) -> None:
    """A frame is the sum over all codebooks: the talker's own loss reaches the predictor's tables."""
    name = "talker.code_predictor.model.codec_embedding.6.weight"
    learner = Learner(opened.net, Trainable([whole(name)]), Delta())
    batch = prompt.collate([example()], prompt.ControlIds.of(opened.config))
    logits = forward.speech_logits(learner.tables, batch, torch.float32, with_predictor=False)
    forward.talker_nll(logits, batch).sum().backward()  # type: ignore[no-untyped-call]
    (table,) = learner.parameters()
    gradient = table.grad
    learner.close()
    assert logits.predictor is None
    assert gradient is not None
    assert gradient.abs().amax(1).nonzero().flatten().tolist() == sorted(set(batch.frame_codes[:, 7].tolist()))


def test_weights_are_judged_as_they_are_exported(opened: LoadedBase) -> None:
    """bfloat16 keeps 8 bits of a number: 1 + 2^-9 rounds to 1."""
    with unchanged(opened):
        values = torch.full_like(parameters(opened.net)[NORM], 1 + 2**-9)
        apply(opened.net, Delta(whole={NORM: values}), opened.export_dtype)
        assert opened.export_dtype == torch.bfloat16
        assert torch.equal(parameters(opened.net)[NORM], torch.ones_like(values))


def test_what_rounding_keeps(opened: LoadedBase) -> None:
    """Between two powers of two bfloat16 has 128 steps: an eighth of a step is lost, two steps are kept, and no change is not counted."""
    before = parameters(opened.net)[NORM]
    step = 2.0 ** before.detach().abs().log2().floor() / 128
    values = before.clone()
    values[:30] += step[:30] / 8
    values[30:40] += step[30:40] * 2
    assert survival(opened.net, Delta(whole={NORM: values}), torch.bfloat16) == 10 / 40
    assert survival(opened.net, Delta(), torch.bfloat16) == 1.0


FROZEN = {
    "a frozen matrix": ("talker.model.layers.1.mlp.up_proj.weight", (5, 5)),
    "an undeclared row of a declared table": (CODEC_TABLE, (2073, 0)),
    "the row beside a declared one": (CODEC_TABLE, (2071, 255)),
    "the text table": (TEXT_TABLE, (0, 0)),
    "a norm": (NORM, (3,)),
    "the end's row of the head": ("talker.codec_head.weight", (2150, 0)),
    "a predictor table": ("talker.code_predictor.model.codec_embedding.6.weight", (511, 0)),
    "the speaker encoder": ("speaker_encoder.fc.weight", (0, 0, 0)),
    "a saved buffer": ("talker.model.probe", (1,)),
    "a saved scalar": ("talker.model.scalar", ()),
}


@pytest.fixture
def with_buffers(opened: LoadedBase) -> Iterator[LoadedBase]:
    """Buffers that `state_dict` holds, as other checkpoints of the architecture may have."""
    opened.talker.model.register_buffer("probe", torch.zeros(3))
    opened.talker.model.register_buffer("scalar", torch.tensor(1.0))
    yield opened
    del opened.talker.model.probe
    del opened.talker.model.scalar


@pytest.mark.parametrize("where", FROZEN)
def test_one_changed_element_is_caught(where: str, with_buffers: LoadedBase) -> None:
    opened = with_buffers
    name, index = FROZEN[where]
    with unchanged(opened):
        guard = Guard(opened.net, Trainable([whole(PROJECTION), rows_of(CODEC_TABLE, (2072,))]))
        tensors = parameters(opened.net)
        with torch.no_grad():
            tensors[PROJECTION] += 1
            tensors[CODEC_TABLE][2072] += 1
            guard.check(opened.net)
            tensors[name][index] = torch.nextafter(tensors[name][index], torch.tensor(9.0))
        with pytest.raises(EngineError, match=name.replace(".", r"\.")):
            guard.check(opened.net)


def test_a_changed_sign_of_zero_is_caught(opened: LoadedBase) -> None:
    """Bit-identical is stricter than equal: -0.0 == 0.0."""
    with unchanged(opened), torch.no_grad():
        table = parameters(opened.net)[CODEC_TABLE]
        table[100, 0] = 0.0
        guard = Guard(opened.net, Trainable([rows_of(CODEC_TABLE, (2072,))]))
        table[2072] += 1
        guard.check(opened.net)
        table[100, 0] = -0.0
        with pytest.raises(EngineError, match=r"row 100"):
            guard.check(opened.net)


def test_working_weights_move_exactly_between_states(opened: LoadedBase) -> None:
    """Base, A, B, A again, base again: every state has the bits that it had before."""

    def bytes_now() -> dict[str, bytes]:
        return {k: bits(v).numpy().tobytes() for k, v in parameters(opened.net).items()}

    a = Delta(rows={CODEC_TABLE: (torch.tensor([2072]), torch.randn(1, 256))}, whole={NORM: torch.rand(256)})
    b = Delta(rows={TEXT_TABLE: (torch.tensor([5, 6]), torch.randn(2, 256))}, whole={PROJECTION: torch.rand(256, 256)})
    working = WorkingWeights(opened)
    base = bytes_now()
    working.set(a)
    at_a = bytes_now()
    assert {k for k in base if base[k] != at_a[k]} == {CODEC_TABLE, NORM}
    working.set(b)
    assert {k for k, v in bytes_now().items() if base[k] != v} == {TEXT_TABLE, PROJECTION}
    working.set(a.then(b))
    working.set(a)
    assert bytes_now() == at_a
    working.set(Delta())
    assert bytes_now() == base


def test_a_listed_language_is_spoken_without_a_reload(fresh: LoadedBase) -> None:
    WorkingWeights(fresh).add_languages({"malay": 2072})
    assert fresh.language_row("malay") == 2072
    assert "malay" in fresh.net.get_supported_languages()


def test_a_row_that_is_not_there_is_no_language(opened: LoadedBase) -> None:
    assert opened.language_row("auto") is None
    with pytest.raises(KeyError):
        opened.language_row("klingon")
