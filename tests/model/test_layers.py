"""Rows without padding give what the stock modules give with it, forwards and backwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from qrecipe.errors import EngineError, Place
from qrecipe.model import attention, forward, layers, lora, prompt
from qrecipe.model.kernels import flash, fused
from qrecipe.model.load import LoadedBase
from qrecipe.model.weights import Delta, Learner, parameters
from qrecipe.plan import trainable
from qrecipe.source.reader import Node
from tests.support import reference, training

WATCHED = (
    "model.text_embedding.weight",
    "model.codec_embedding.weight",
    "text_projection.linear_fc1.bias",
    "model.layers.0.self_attn.q_norm.weight",
    "model.layers.0.self_attn.k_proj.weight",
    "model.layers.5.mlp.down_proj.weight",
    "model.layers.5.self_attn.o_proj.weight",
    "model.norm.weight",
    "codec_head.weight",
    "code_predictor.model.codec_embedding.6.weight",
    "code_predictor.small_to_mtp_projection.weight",
    "code_predictor.model.layers.2.self_attn.v_proj.weight",
    "code_predictor.lm_head.3.weight",
)


@pytest.fixture
def watched(opened: LoadedBase) -> Iterator[dict[str, torch.nn.Parameter]]:
    found = {name: opened.talker.get_parameter(name) for name in WATCHED}
    for parameter in found.values():
        parameter.requires_grad_(True)
    yield found
    for parameter in found.values():
        parameter.requires_grad_(False)
        parameter.grad = None


@pytest.fixture
def rows(example: Callable[..., prompt.Example]) -> list[prompt.Example]:
    """Every layout and way of giving the voice, of different lengths, one of them cut."""
    return [
        example(1, seconds=0.4),
        example(2, seconds=0.8, layout="non_streaming"),
        example(3, in_context=True),
        example(4, in_context=True, layout="non_streaming", cut=True),
    ]


@pytest.mark.slow
def test_losses_and_gradients_are_those_of_the_stock_modules(
    opened: LoadedBase, rows: list[prompt.Example], watched: dict[str, torch.nn.Parameter]
) -> None:
    def gradients(talker: torch.Tensor, predictor: torch.Tensor) -> dict[str, torch.Tensor]:
        found = torch.autograd.grad(talker + 0.3 * predictor, list(watched.values()))
        return dict(zip(watched, found, strict=True))

    stock = reference.losses(opened.talker, opened.config, rows)
    expected = gradients(stock.talker, stock.predictor)
    batch = prompt.collate(rows, prompt.ControlIds.of(opened.config))
    logits = forward.speech_logits(forward.Tables(opened.talker), batch, torch.float32)
    talker, predictor = forward.talker_nll(logits, batch).sum(), forward.predictor_nll(logits, batch).sum()
    assert talker.item() == pytest.approx(stock.talker.item(), rel=1e-5)
    assert predictor.item() == pytest.approx(stock.predictor.item(), rel=1e-5)
    for name, gradient in gradients(talker, predictor).items():
        assert gradient.sub(expected[name]).norm() / expected[name].norm() < 1e-4, name


@pytest.mark.slow
def test_layers_that_are_computed_again_give_the_same(
    opened: LoadedBase, rows: list[prompt.Example], watched: dict[str, torch.nn.Parameter]
) -> None:
    batch = prompt.collate(rows[:2], prompt.ControlIds.of(opened.config))
    found = []
    for recompute in (False, True):
        logits = forward.speech_logits(forward.Tables(opened.talker, recompute=recompute), batch, torch.float32)
        loss = forward.talker_nll(logits, batch).sum() + forward.predictor_nll(logits, batch).sum()
        found.append(torch.autograd.grad(loss, list(watched.values())))
    for kept, again in zip(*found, strict=True):
        assert torch.equal(kept, again)


@pytest.mark.slow
def test_an_operation_that_stands_alone_can_be_compiled_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced once and in one piece with its derivative, for any number of rows; what a GPU's compiler makes of it is another matter."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    torch._dynamo.utils.counters.clear()
    x = torch.randn(6, 3, 8)
    weight, labels = torch.randn(8), torch.randint(8, (6,))
    cases: list[tuple[Any, tuple[Any, ...]]] = [
        (fused._rms_norm, (x, weight, 1e-6)),
        (fused._nll, (x[:, 0].clone(), labels)),
    ]
    for formula, arguments in cases:
        made: Any = partial(fused._compiled, formula)
        for size in (6, 4, 5):
            given = [a[:size].clone() if isinstance(a, torch.Tensor) and a is not weight else a for a in arguments]
            given[0] = given[0].requires_grad_()
            results = []
            for function in (formula, made):
                out = function(*given)
                out = out if isinstance(out, tuple) else (out,)
                results.append((*out, *torch.autograd.grad(sum(o.sum() for o in out), given[:1])))
            for a, b in zip(*results, strict=True):
                assert torch.allclose(a, b, atol=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == len(cases)


def one_call(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bounds: torch.Tensor, longest: int, scale: float) -> torch.Tensor:
    """Attention over rows end to end as a GPU's kernel has it: nothing of it is known but tensors."""
    at = torch.arange(q.shape[0])
    row = torch.bucketize(at, bounds[1:], right=True)
    seen = (row.unsqueeze(1) == row) & (at.unsqueeze(1) >= at)
    k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], 1).transpose(0, 1) for t in (k, v))
    return F.scaled_dot_product_attention(q.transpose(0, 1), k, v, attn_mask=seen, scale=scale).transpose(0, 1)


@pytest.mark.slow
def test_blocks_of_layers_are_compiled_once_for_any_number_of_rows(fresh: LoadedBase, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three layers, so a block of two and the last; low-rank deltas in one of each, whole weights in another.

    Rows of one length, which attend in another way, go through the last alone.
    """
    model = fresh.talker.model
    model.layers = model.layers[:3]
    low_rank = {"match": ["talker.model.layers.0", "talker.model.layers.2"], "lr": 1e-3, "lora": {"rank": 2, "alpha": 4}}
    stage = training.speech_stage(low_rank, {"match": "talker.model.layers.1", "lr": 1e-3})
    shapes = {k: tuple(v.shape) for k, v in parameters(fresh.net).items()}
    resolved, _ = trainable.resolve(stage, Node({}, Place("r.yaml")), shapes, {"malay": training.ROW}, None)
    learned = list(Learner(fresh.net, resolved, Delta()).parameters())
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in learned:
            parameter += 0.01 * torch.randn_like(parameter)

    def found(*lengths: int, first: int = 0) -> list[torch.Tensor]:
        drawn = torch.Generator().manual_seed(sum(lengths))
        x = torch.randn(sum(lengths), model.config.hidden_size, generator=drawn, requires_grad=True)
        out = layers.decode(model, x, attention.PackedRows(lengths, x.device, len(set(lengths)) == 1), lambda t: t[::2], slice(first, None))
        return [out.detach(), *torch.autograd.grad(out.square().sum(), [x, *learned], materialize_grads=True)]

    plain = [found(3, 9, 5), found(12, 2), found(4, 4, 4, first=2)]
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    monkeypatch.setattr(attention, "kernel_for", lambda x, at: attention.short if at.fixed else one_call)
    fused._compile.cache_clear()
    torch._dynamo.utils.counters.clear()
    with fused.compiled(True):
        compiled = [found(3, 9, 5)]
        graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        compiled.append(found(12, 2))
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs, "the second batch finds everything compiled"
        compiled.append(found(4, 4, 4, first=2))
    assert fused.refused() is None
    for ours, theirs in zip(compiled, plain, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert float((a - b).norm()) <= 1e-4 * float(b.norm()) + 1e-6


@pytest.mark.slow
def test_what_learns_side_by_side_is_one_product_where_it_is_compiled() -> None:
    """Masters under autocast give what each gives alone; with a frozen layer or low-rank deltas among them all stand alone."""
    torch.manual_seed(0)
    x = torch.randn(6, 16, dtype=torch.bfloat16, requires_grad=True)
    masters = [torch.randn(n, 16, requires_grad=True) for n in (8, 4, 4)]
    a, b = torch.randn(2, 16, requires_grad=True), torch.randn(4, 2, requires_grad=True)
    products: list[int] = []

    def count(graph: Any, inputs: Any) -> Any:
        products.append(sum("linear" in str(node.target) for node in graph.graph.nodes))
        return graph

    def applied(given: torch.Tensor, side_by_side: tuple[Any, ...]) -> torch.Tensor:
        return torch.cat([t.sin() for t in lora.apply_all(side_by_side, given)], -1).float()

    for last in ((masters[2], None), (masters[2].detach().bfloat16(), None), (masters[2], None, a, b, 2.0)):
        side_by_side = ((masters[0], None), (masters[1], None), last)
        learned = [x, *(t for one in side_by_side for t in one if isinstance(t, torch.Tensor) and t.requires_grad)]
        found = []
        for made in (applied, torch.compile(applied, backend=count, fullgraph=True)):
            with torch.autocast("cpu", torch.bfloat16):
                out = made(x, side_by_side)
            found.append((out.detach(), *torch.autograd.grad(out.square().sum(), learned)))
        for ours, theirs in zip(*found, strict=True):
            assert float((ours - theirs).norm()) < 2e-2 * float(theirs.norm())
    assert products == [1, 3, 5]


@pytest.mark.slow
def test_one_kernel_takes_the_place_of_all_between_the_projections(fresh: LoadedBase, monkeypatch: pytest.MonkeyPatch) -> None:
    """In every layer of a predictor that learns under autocast, the last included; here separate operations stand for it."""
    model = fresh.talker.code_predictor.model.requires_grad_(True)
    model.layers = model.layers[:2]
    learned = list(model.layers.parameters())
    rows = attention.PackedRows((16,) * 3, torch.device("cpu"), fixed=True)
    x = torch.randn(48, model.config.hidden_size).bfloat16()

    def found() -> list[torch.Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            out = layers.decode(model, x, rows, lambda t: t[::2])
        return [out.detach(), *torch.autograd.grad(out.float().square().sum(), learned)]

    def never(*given: Any) -> torch.Tensor:
        raise AssertionError("one kernel does this")

    plain = found()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    monkeypatch.setattr(attention, "short", never)
    monkeypatch.setattr(attention, "kernel_for", lambda x, at: never)
    monkeypatch.setattr(attention, "all_in_one_for", lambda rows, x, width: attention._one_by_one)
    fused._compile.cache_clear()
    with fused.compiled(True):
        compiled = found()
    assert fused.refused() is None
    for ours, theirs in zip(compiled, plain, strict=True):
        assert float((ours - theirs).float().norm()) < 0.05 * float(theirs.float().norm())


def test_no_graph_is_kept_below_what_trains(opened: LoadedBase, rows: list[prompt.Example]) -> None:
    """Layers below the first that trains are run without one, and so is a whole frozen talker."""
    last = opened.talker.model.layers[5].mlp.down_proj.weight
    batch = prompt.collate(rows[:2], prompt.ControlIds.of(opened.config))
    tables = forward.Tables(opened.talker)
    assert not forward.label_hidden(tables, batch, torch.float32).requires_grad
    x = forward.input_embeddings(tables, batch, torch.float32)
    last.requires_grad_(True)
    try:
        below = layers.decode(opened.talker.model, x, attention.PackedRows(batch.lengths, x.device), span=slice(5))
        above = layers.decode(opened.talker.model, below, attention.PackedRows(batch.lengths, x.device), span=slice(5, None))
    finally:
        last.requires_grad_(False)
    assert (below.requires_grad, above.requires_grad) == (False, True)
    assert torch.allclose(above[batch.label_at], forward.label_hidden(tables, batch, torch.float32), atol=1e-4)


@pytest.mark.parametrize("shape", [(5, 7, 16), (40, 16)])
def test_norms_rotations_and_gates_have_the_formulas_derivatives(shape: tuple[int, ...]) -> None:
    """Against autograd of the plain formulas in float64, and bfloat16 against them within its rounding."""
    torch.manual_seed(0)
    x, y = torch.randn(shape, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)
    weight = torch.randn(shape[-1], dtype=torch.float64)
    angle = torch.randn(shape[0], *[1] * (len(shape) - 2), shape[-1] // 2, dtype=torch.float64)
    labels = torch.randint(shape[-1], (shape[0],))
    cases: list[tuple[Any, Any, list[torch.Tensor], tuple[Any, ...]]] = [
        (fused.rms_norm, fused._rms_norm, [x, weight], (1e-6,)),
        (fused.rotate, fused._rotate, [x], (angle.cos(), angle.sin())),
        (fused.swiglu, fused._swiglu, [x, y], ()),
        (fused.nll, lambda t, at: F.cross_entropy(t, at, reduction="none"), [x if x.ndim == 2 else x[:, 0]], (labels,)),
    ]
    for ours, plain, inputs, settings in cases:
        for dtype, bound in ((torch.float32, 1e-5), (torch.bfloat16, 2e-2)):
            exact = [t.to(dtype).float().requires_grad_() for t in inputs]
            found = [t.to(dtype).requires_grad_() for t in inputs]
            wanted, made = plain(*exact, *_as(settings, torch.float32)), ours(*found, *_as(settings, torch.float32))
            pull = torch.randn_like(wanted)
            for a, b in zip(
                (made, *torch.autograd.grad(made, found, pull.to(made.dtype))),
                (wanted, *torch.autograd.grad(wanted, exact, pull)),
                strict=True,
            ):
                assert (a.float() - b).norm() / b.norm() < bound, (ours.__name__, dtype)


def _as(settings: tuple[Any, ...], dtype: torch.dtype) -> tuple[Any, ...]:
    return tuple(s.to(dtype) if isinstance(s, torch.Tensor) and s.is_floating_point() else s for s in settings)


@pytest.mark.parametrize("lengths", [(8, 8, 8), (3, 9, 1, 6)])
def test_every_way_of_attending_is_the_same(lengths: tuple[int, ...]) -> None:
    """Row by row, padded for the kernel, and by matrix products; with fewer key heads than query heads."""
    torch.manual_seed(0)
    rows = attention.PackedRows(lengths, torch.device("cpu"))
    q = torch.randn(sum(lengths), 4, 16, requires_grad=True)
    k, v = (torch.randn(sum(lengths), 2, 16, requires_grad=True) for _ in range(2))
    ways: list[Callable[..., torch.Tensor]] = [attention.attend, attention._padded]
    if rows.alike:
        ways.append(lambda q, k, v, rows, scale: attention.short(q, k, v, rows.bounds, rows.longest, scale))
    pull = torch.randn(sum(lengths), 4, 16)
    found = []
    for way in ways:
        out = way(q, k, v, rows, 0.25)
        found.append((out, *torch.autograd.grad(out, (q, k, v), pull)))
    for start in (torch.tensor(lengths).cumsum(0) - torch.tensor(lengths)).tolist():
        assert torch.allclose(found[0][0][start], v[start].repeat_interleave(2, 0), atol=1e-6), "a row's first place sees itself alone"
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            assert torch.allclose(a, b, atol=1e-5)


def test_a_kernel_is_tried_on_rows_whose_result_is_known() -> None:
    """One that lets rows see each other, or that cannot be run, is not taken."""
    assert flash._right(one_call, device="cpu", dtype=torch.float32)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert flash._right(one_call, device="cpu", dtype=torch.float32), "whoever asks first"
    assert not flash._right(lambda q, k, v, bounds, *rest: one_call(q, k, v, bounds[[0, -1]], *rest), device="cpu", dtype=torch.float32)
    assert flash.varlen(torch.zeros(1)) is None


def test_a_sliding_window_is_refused(opened: LoadedBase) -> None:
    class Sliding:
        layer_types = ("full_attention", "sliding_attention")

    layers.require_known(opened.config.talker_config)
    with pytest.raises(EngineError, match="sliding window"):
        layers.require_known(Sliding())
