"""The operations between the matrix products of a decoder layer, each as one operation that keeps little for its backward pass.

Every operation is written twice: as a plain formula, which torch compiles into one kernel each way where that pays, and
with its derivative by hand, for everywhere else. Both compute in float32 and give their input's number format.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import cache
from types import FunctionType
from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from qrecipe import phases
from qrecipe.errors import in_a_line
from qrecipe.model.stock import silence

_compiling = False
_refused: str | None = None


@contextlib.contextmanager
def compiled(on: bool) -> Iterator[None]:
    """Inside the block the operations are compiled ones, or not. The first call of each takes seconds."""
    global _compiling
    before, _compiling = _compiling, on
    try:
        with _clocked() if on else contextlib.nullcontext():
            yield
    finally:
        _compiling = before


@contextlib.contextmanager
def _clocked() -> Iterator[None]:
    """Seconds of compiling count for a phase of their own. The backward pass compiles in a thread of torch's."""
    clock = phases.current()
    if clock is None:
        yield
        return
    from torch._dynamo.callback import callback_handler

    def start(*_: Any) -> None:
        clock.enter("compiling")

    def end(*_: Any) -> None:
        clock.leave()

    callback_handler.register_start_callback(start)
    callback_handler.register_end_callback(end)
    try:
        yield
    finally:
        callback_handler.remove_start_callback(start)
        callback_handler.remove_end_callback(end)


def compiling() -> bool:
    """Whether operations are compiled here."""
    return _compiling


def refuse(why: Exception) -> None:
    """Nothing is compiled for the rest of the block: the compiler could not do something of it."""
    global _compiling, _refused
    _compiling, _refused = False, in_a_line(why)


def refused() -> str | None:
    """The compiler's failure since the last call, in one line; None without one."""
    global _refused
    reason, _refused = _refused, None
    return reason


def _either(formula: Callable[..., torch.Tensor], by_hand: type[torch.autograd.Function], *arguments: Any) -> torch.Tensor:
    if torch.compiler.is_compiling():
        return formula(*arguments)
    out: torch.Tensor = _compiled(formula, *arguments) if _compiling else by_hand.apply(*arguments)
    return out


def whole(formula: Callable[..., Any], rows: tuple[torch.Tensor | tuple[torch.Tensor, ...], ...], settings: tuple[Any, ...]) -> Any:
    """`formula(*rows, *settings)`, compiled as one where that is on: rows vary in number, settings never."""
    if not _compiling:
        return formula(*rows, *settings)
    tensors = [t for part in rows for t in (part if isinstance(part, tuple) else (part,))]
    for tensor in tensors:
        torch._dynamo.maybe_mark_dynamic(tensor, 0)
    kind = (torch.is_grad_enabled(), tuple((t.shape[1:], t.requires_grad) for t in tensors), _kind(settings))
    return _call(_compile(formula, kind), formula, *rows, *settings)


def _kind(settings: Any) -> Any:
    """Shapes and what learns: a function is compiled for each, so that a call finds its own at once."""
    if isinstance(settings, tuple):
        return tuple(map(_kind, settings))
    return (settings.shape, settings.requires_grad) if isinstance(settings, torch.Tensor) else settings


def _compiled(formula: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a formula compiled for the widths of its arguments and any number of rows."""
    tensors = [a for a in arguments if isinstance(a, torch.Tensor)]
    for tensor in tensors:
        if tensor.ndim > 1 or not tensor.is_floating_point():
            torch._dynamo.maybe_mark_dynamic(tensor, 0)
    return _call(_compile(formula, tuple(t.shape[1:] for t in tensors)), formula, *arguments)


def _call(made: Callable[..., Any], formula: Callable[..., Any], *arguments: Any) -> Any:
    """Calls what was compiled, or the formula itself from the first time on that compiling it fails."""
    try:
        return made(*arguments)
    except torch.OutOfMemoryError:
        raise
    except Exception as e:  # whatever a compiler makes of what it cannot do; the formula raises what is not its fault
        refuse(e)
    return formula(*arguments)


@cache
def _compile(formula: Callable[..., Any], kind: tuple[Any, ...]) -> Callable[..., Any]:
    """One function for each set of widths: torch takes whatever has had two sizes in one function for a number that varies."""
    limit = "recompile_limit" if hasattr(torch._dynamo.config, "recompile_limit") else "cache_size_limit"
    setattr(torch._dynamo.config, limit, 64)  # what requires a gradient differs by stage, and each way is a compilation
    alone = FunctionType(formula.__code__.replace(), formula.__globals__, formula.__name__)
    made: Callable[..., Any] = torch.compile(alone, fullgraph=True, options=_options())
    return made


@cache
def _options() -> dict[str, Any]:
    """Whether a norm's two sums, along rows and across them, become one kernel must not depend on how many rows the first batch had.

    By default torch 2.11 decides by thresholds (among them 4,096 rows, and twice as many rows as columns) and compiles for one side of
    them: batches that fall now on this side and now on that make it compile everything twice, in mid-stage.
    """
    from torch._inductor import config

    ways = {"mix_order_reduction_non_strict_mode": True, "mix_order_reduction": False}  # one kernel, or else, in older versions, two
    return next(({f"triton.{name}": value} for name, value in ways.items() if hasattr(config.triton, name)), {})


@cache
def trouble(device: torch.device) -> str | None:
    """Why nothing can be compiled for a device, in one line; None where it can. The first call takes seconds."""
    x = torch.ones(2, 8, device=device, requires_grad=True)
    try:
        with silence(), compiled(True):
            _compiled(_rms_norm, x, torch.ones(8, device=device), 1e-6).sum().backward()
    except Exception as e:  # whatever a compiler that is not there makes of it
        refuse(e)
    return refused()


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Root mean square norm over the last dimension (Zhang and Sennrich 2019, arXiv:1910.07467): [..., width] -> [..., width]."""
    return _either(_rms_norm, _RmsNorm, x, weight, eps)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary position embedding (Su et al. 2021, arXiv:2104.09864): [n, heads, width] by [n, 1, width / 2]."""
    return _either(_rotate, _Rotate, x, cos, sin)


def swiglu(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """silu(gate) * up (Shazeer 2020, arXiv:2002.05202)."""
    return _either(_swiglu, _SwiGlu, gate, up)


def nll(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood of labels: [n, classes] and [n] -> [n] float32, nats."""
    return _either(_nll, _Nll, logits, labels)


def _rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    wide = x.float()
    out: torch.Tensor = (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps) * weight.float()).to(x.dtype)
    return out


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    a, b = x.float().chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1).to(x.dtype)


def _swiglu(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return (F.silu(gate.float()) * up.float()).to(gate.dtype)


def _nll(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits.float(), labels, reduction="none")


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        wide = x.float()
        scale: torch.Tensor = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return (wide * scale).mul_(weight).to(x.dtype)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator, unused-ignore]
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None]:
        x, weight, scale = ctx.saved_tensors
        wide, gradient = x.float(), gradient.float()
        for_weight = None
        if ctx.needs_input_grad[1]:
            for_weight = (wide * scale).mul_(gradient).flatten(0, -2).sum(0).to(weight.dtype)
        for_x = None
        if ctx.needs_input_grad[0]:
            through = gradient * weight
            pull = torch.linalg.vecdot(through, wide).unsqueeze(-1).mul_(scale.pow(3)).div_(-x.shape[-1])
            for_x = through.mul_(scale).addcmul_(wide, pull).to(x.dtype)
        return for_x, for_weight, None


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotated(x, cos, sin, 1.0)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator, unused-ignore]
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotated(gradient, cos, sin, -1.0), None, None


def _rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, way: float) -> torch.Tensor:
    half = x.shape[-1] // 2
    a, b = x[..., :half], x[..., half:]
    rotated = torch.empty(x.shape, dtype=torch.float32, device=x.device)
    torch.mul(a, cos, out=rotated[..., :half]).addcmul_(b, sin, value=-way)
    torch.mul(b, cos, out=rotated[..., half:]).addcmul_(a, sin, value=way)
    return rotated.to(x.dtype)


class _SwiGlu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator, unused-ignore]
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        gate, up = ctx.saved_tensors
        return torch.ops.aten.silu_backward(gradient * up, gate), F.silu(gate).mul_(gradient)


class _Nll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        total = torch.logsumexp(logits.float(), dim=-1)
        ctx.save_for_backward(logits, labels, total)
        return total - logits.gather(-1, labels.unsqueeze(-1)).squeeze(-1)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator, unused-ignore]
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        logits, labels, total = ctx.saved_tensors
        grad = (logits.float() - total.unsqueeze(-1)).exp_()
        grad.scatter_add_(-1, labels.unsqueeze(-1), grad.new_full((1, 1), -1.0).expand(len(labels), 1))
        return grad.mul_(gradient.unsqueeze(-1)).to(logits.dtype), None
