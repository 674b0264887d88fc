"""The miniature speech tokenizer: its stock classes, a forward pass that never waits for the GPU, its quantiser, its export.

Weights live in a stock ``Qwen3TTSTokenizerV2Model``. The forward pass here computes what the stock one computes, with
paddings, masks and rotary tables that need no value from the GPU, so that a whole step fits in one CUDA graph. It holds
for clips of whole frames, which is all that training and `codec.py encode` see.

Shapes: B clips, S samples, T frames (12.5 a second), D the width of a codeword, K codewords a book, Q books.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from qwen_tts.core import Qwen3TTSTokenizerV2Config, Qwen3TTSTokenizerV2Model
from qwen_tts.core.tokenizer_12hz import modeling_qwen3_tts_tokenizer_v2 as stock_decoder
from torch import Tensor, nn
from transformers import EncodecFeatureExtractor
from transformers.models.mimi import modeling_mimi as stock_encoder
from voices import FRAME, PHONEMES, RATE, UNKNOWN

MELS_A_FRAME = 640
"""Targets of the auxiliary heads: 8 spectra of 80 bands a frame."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of the tokenizer; the defaults are those of the embedded base (6.2M parameters, 13 MB in fp16)."""

    hidden: int = 192
    """Width of both transformers and of the decoder's latent."""
    heads: int = 3
    head_dim: int = 64
    intermediate: int = 512
    encoder_layers: int = 2
    decoder_layers: int = 4
    filters: int = 16
    """Channels of the encoder's first convolution; each of the four strides doubles them."""
    decoder_dim: int = 256
    """Channels of the decoder's first convolution; each of its four strides halves them."""
    code_dim: int = 64
    codes: int = 512
    books: int = 8

    def config(self) -> Qwen3TTSTokenizerV2Config:
        """The stock config of these sizes."""
        shared = {
            "hidden_size": self.hidden,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.heads,
            "head_dim": self.head_dim,
            "intermediate_size": self.intermediate,
            "codebook_size": self.codes,
            "num_quantizers": self.books,
            "layer_scale_initial_scale": 0.1,
        }
        return Qwen3TTSTokenizerV2Config(
            encoder_config={
                **shared,
                "num_filters": self.filters,
                "num_hidden_layers": self.encoder_layers,
                "codebook_dim": self.code_dim,
                "vector_quantization_hidden_dimension": self.code_dim,
                "upsample_groups": self.hidden,
                "sampling_rate": RATE,
                "frame_rate": RATE / FRAME,
                "sliding_window": 25,
            },
            decoder_config={
                **shared,
                "latent_dim": self.hidden,
                "num_hidden_layers": self.decoder_layers,
                "decoder_dim": self.decoder_dim,
                "codebook_dim": 2 * self.code_dim,
                "sliding_window": 16,
            },
            encoder_valid_num_quantizers=self.books,
        )

    def record(self) -> dict[str, int]:
        """The sizes as a plain mapping, for a checkpoint."""
        return asdict(self)


def build(sizes: Sizes) -> Qwen3TTSTokenizerV2Model:
    """A stock model with weights to train from.

    The stock classes initialise for loading, not for training: the decoder's convolutions and linears start near zero and
    its ConvNeXt branches at 1e-6, from which nothing is learnt in minutes.
    """
    model = Qwen3TTSTokenizerV2Model(sizes.config())
    for module in model.decoder.modules():
        if isinstance(module, nn.Conv1d | nn.ConvTranspose1d | nn.Linear):
            module.reset_parameters()
        elif isinstance(module, stock_decoder.Qwen3TTSTokenizerV2ConvNeXtBlock):
            nn.init.constant_(module.gamma, 0.1)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(_learns(name))
    return model


def _learns(name: str) -> bool:
    """Whether gradients reach a parameter: the books follow averages, and half of the projections are never used."""
    if name.startswith("encoder.quantizer."):
        return "input_proj" in name
    if name.startswith("decoder.quantizer."):
        return "output_proj" in name
    return True


def snake(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """SnakeBeta of the stock decoder, in fp32 inside, in the type of `x` outside.

    Args:
        x: ``[B, C, S]``.
        alpha: logarithm of the frequency, ``[C]``.
        beta: logarithm of the inverse magnitude, ``[C]``.
    """
    wide = x.float()
    frequency = torch.exp(alpha.float())[None, :, None]
    magnitude = torch.exp(beta.float())[None, :, None]
    return (wide + torch.sin(wide * frequency).pow(2) / (magnitude + 1e-9)).to(x.dtype)


Snake = Callable[[Tensor, Tensor, Tensor], Tensor]


class Forward:
    """The forward pass of a stock model without a wait for the GPU; rotary tables and masks are kept by length."""

    def __init__(self, model: Qwen3TTSTokenizerV2Model, activation: Snake = snake) -> None:
        self.model = model
        self.activation = activation
        self.tables: dict[tuple[str, int], tuple[Tensor, Tensor, Tensor | None]] = {}

    def embed(self, audio: Tensor) -> Tensor:
        """What the encoder gives to both quantisers.

        Args:
            audio: ``[B, S]`` within [-1, 1], S a multiple of `FRAME`.

        Returns:
            ``[B, hidden, T]``.
        """
        encoder = self.model.encoder
        x = audio[:, None]
        for layer in encoder.encoder.layers:
            if isinstance(layer, stock_encoder.MimiResnetBlock):
                branch = x
                for part in layer.block:
                    branch = self._convolve(part, branch)
                x = x + branch
            else:
                x = self._convolve(layer, x)
        x = x.transpose(1, 2)
        cos, sin, mask = self._table("encoder", x.shape[1], x.device)
        for layer in encoder.encoder_transformer.layers:
            x = x + layer.self_attn_layer_scale(self._attend(layer.self_attn, layer.input_layernorm(x), cos, sin, mask))
            x = x + layer.mlp_layer_scale(layer.mlp.fc2(F.gelu(layer.mlp.fc1(layer.post_attention_layernorm(x)))))
        return self._convolve(encoder.downsample, x.transpose(1, 2))

    def project(self, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """What the semantic and the acoustic books quantise: each fp32, ``[B * T, D]``."""
        quantizer = self.model.encoder.quantizer
        semantic = quantizer.semantic_residual_vector_quantizer.input_proj(embedding)
        acoustic = quantizer.acoustic_residual_vector_quantizer.input_proj(embedding)
        first, rest = (z.transpose(1, 2).reshape(-1, z.shape[1]).float() for z in (semantic, acoustic))
        return first, rest

    def latent(self, semantic: Tensor, acoustic: Tensor, clips: int) -> Tensor:
        """The decoder's input from quantised vectors ``[B * T, D]``: ``[B, 2 D, T]``."""
        quantizer = self.model.decoder.quantizer
        first, rest = (z.view(clips, -1, z.shape[1]).transpose(1, 2) for z in (semantic, acoustic))
        return quantizer.rvq_first.output_proj(first) + quantizer.rvq_rest.output_proj(rest)

    def decode(self, latent: Tensor) -> Tensor:
        """Samples from the decoder's input ``[B, 2 D, T]``: ``[B, S]``, not clipped."""
        decoder = self.model.decoder
        transformer = decoder.pre_transformer
        x = transformer.input_proj(decoder.pre_conv(latent).transpose(1, 2))
        cos, sin, mask = self._table("decoder", x.shape[1], x.device)
        for layer in transformer.layers:
            x = x + layer.self_attn_layer_scale(self._attend(layer.self_attn, layer.input_layernorm(x), cos, sin, mask))
            x = x + layer.mlp_layer_scale(layer.mlp(layer.post_attention_layernorm(x)))
        x = transformer.output_proj(transformer.norm(x)).transpose(1, 2)
        for blocks in decoder.upsample:
            for block in blocks:
                x = block(x)
        for block in decoder.decoder:
            x = self._synthesise(block, x)
        return x[:, 0]

    def _convolve(self, module: nn.Module, x: Tensor) -> Tensor:
        """A layer of the encoder; stock pads its causal convolutions by tensors that the CPU reads back, here by integers."""
        if not isinstance(module, stock_encoder.MimiConv1d):
            return module(x)
        convolution = module.conv
        stride = convolution.stride[0]
        if x.shape[-1] % stride:
            raise ValueError(f"{x.shape[-1]} values are not a multiple of the stride {stride}: clips must be whole frames")
        reach = (convolution.kernel_size[0] - 1) * convolution.dilation[0] + 1
        return convolution(F.pad(x, (reach - stride, 0), mode=module.pad_mode))

    def _synthesise(self, module: nn.Module, x: Tensor) -> Tensor:
        """A layer of the decoder's last part, with this pass's activation in place of the stock one."""
        if isinstance(module, stock_decoder.SnakeBeta):
            return self.activation(x, module.alpha, module.beta)
        if isinstance(module, stock_decoder.Qwen3TTSTokenizerV2DecoderDecoderBlock):
            for part in module.block:
                x = self._synthesise(part, x)
            return x
        if isinstance(module, stock_decoder.Qwen3TTSTokenizerV2DecoderDecoderResidualUnit):
            branch = module.conv1(self.activation(x, module.act1.alpha, module.act1.beta))
            return x + module.conv2(self.activation(branch, module.act2.alpha, module.act2.beta))
        return module(x)

    def _attend(self, attention: nn.Module, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None) -> Tensor:
        clips, length, _ = x.shape
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        query, key, value = (p(x).view(clips, length, -1, attention.head_dim).transpose(1, 2) for p in projections)
        query, key = (z * cos.to(z.dtype) + stock_decoder.rotate_half(z) * sin.to(z.dtype) for z in (query, key))
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=mask is None)
        return attention.o_proj(mixed.transpose(1, 2).reshape(clips, length, -1))

    def _table(self, part: str, length: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor | None]:
        """Rotary cosines and sines ``[1, 1, T, head_dim]`` and the decoder's window; the stock encoder has none."""
        if (part, length) not in self.tables:
            config = getattr(self.model, part).config
            position = torch.arange(length, device=device)
            inverse = config.rope_theta ** -(torch.arange(0, config.head_dim, 2, device=device).float() / config.head_dim)
            angle = (position.float()[:, None] * inverse).repeat(1, 2)[None, None]
            mask = None
            if part == "decoder":
                behind = position[:, None] - position
                mask = ((behind >= 0) & (behind < config.sliding_window))[None, None]
            self.tables[part, length] = angle.cos(), angle.sin(), mask
        return self.tables[part, length]


class ResidualBooks(nn.Module):
    """Residual vector quantisation by books that follow averages of what they quantise (no gradient).

    Args:
        books: how many, each quantising what the ones before it left.
        codes: codewords a book.
        width: of a codeword.
        decay: of the averages, a step.
    """

    DEAD, REVIVED = 0.03, 0.2
    """Use, as a share of even use, below which a codeword is replaced by a vector of the batch, and what it then counts as."""

    table: Tensor
    use: Tensor
    total: Tensor

    def __init__(self, books: int, codes: int, width: int, decay: float = 0.99) -> None:
        super().__init__()
        self.decay = decay
        self.fixed = False
        """Never moved again."""
        self.register_buffer("table", torch.zeros(books, codes, width))
        self.register_buffer("use", torch.ones(books, codes))
        self.register_buffer("total", torch.zeros(books, codes, width))

    @torch.no_grad()
    def start(self, vectors: Tensor, step_vectors: int, rounds: int = 10) -> None:
        """Set the books by k-means.

        Args:
            vectors: ``[M, D]``, from several batches.
            step_vectors: vectors that a training step quantises, the scale of `use`.
            rounds: of k-means, a book.
        """
        codes, residual = self.table.shape[1], vectors
        for book in range(len(self.table)):
            pick = torch.randint(len(residual), (codes,), device=vectors.device)
            if len(residual) >= codes:
                pick = torch.randperm(len(residual), device=vectors.device)[:codes]
            centre = residual[pick]
            for _ in range(rounds):
                nearest = torch.cdist(residual, centre).argmin(dim=1)
                count = torch.bincount(nearest, minlength=codes)[:, None]
                mean = torch.zeros_like(centre).index_add_(0, nearest, residual) / count.clamp(min=1)
                fresh = residual[torch.randint(len(residual), (codes,), device=vectors.device)]
                centre = torch.where(count > 0, mean, fresh)
            even = step_vectors / codes
            self.table[book], self.use[book], self.total[book] = centre, even, centre * even
            residual = residual - centre[torch.cdist(residual, centre).argmin(dim=1)]

    @torch.no_grad()
    def set(self, tables: Tensor, step_vectors: int) -> None:
        """Set the books to `tables` ``[books, codes, D]``, every codeword used alike; see `start`."""
        even = step_vectors / tables.shape[1]
        self.table.copy_(tables)
        self.use.fill_(even)
        self.total.copy_(tables * even)

    def forward(self, vectors: Tensor, keep: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Quantise, and move the books when in training mode.

        Args:
            vectors: ``[M, D]``, fp32.
            keep: how many books count for each vector, ``[M]``; all if absent.

        Returns:
            The quantised vectors ``[M, D]``, whose gradient passes straight through, and the commitment loss.
        """
        residual, quantised = vectors, torch.zeros_like(vectors)
        commitment = vectors.new_zeros(())
        for book in range(len(self.table)):
            table = self.table[book]
            seen = residual.detach()
            nearest = (table.pow(2).sum(dim=1) - 2 * seen @ table.t()).argmin(dim=1)
            word = table[nearest]
            if self.training and not self.fixed:
                self._follow(book, seen, nearest)
            commitment = commitment + (residual - word).pow(2).mean()
            residual = residual - word
            quantised = quantised + (word if keep is None else word * (keep > book)[:, None])
        return vectors + (quantised - vectors).detach(), commitment / len(self.table)

    @torch.no_grad()
    def _follow(self, book: int, vectors: Tensor, nearest: Tensor) -> None:
        use, total = self.use[book], self.total[book]
        count = torch.zeros_like(use).index_add_(0, nearest, torch.ones_like(vectors[:, 0]))
        use.lerp_(count, 1 - self.decay)
        total.lerp_(torch.zeros_like(total).index_add_(0, nearest, vectors), 1 - self.decay)
        even = len(vectors) / len(use)
        dead = use < self.DEAD * even
        fresh = vectors[torch.randint(len(vectors), (len(use),), device=use.device)] * (self.REVIVED * even)
        use.masked_fill_(dead, self.REVIVED * even)
        total.copy_(torch.where(dead[:, None], fresh, total))
        self.table[book] = total / use.clamp(min=1e-5)[:, None]

    def perplexity(self) -> list[float]:
        """How many codewords each book uses, as the exponential of the entropy of their recent use."""
        share = self.use / self.use.sum(dim=1, keepdim=True)
        return [float(value) for value in torch.exp(-(share * share.clamp(min=1e-12).log()).sum(dim=1))]


def phoneme_head(width: int) -> nn.Sequential:
    """From ``[B, width, T]`` to scores ``[B, 2 * PHONEMES, T]``."""
    return nn.Sequential(nn.Conv1d(width, 256, 3, padding=1), nn.GELU(), nn.Conv1d(256, 2 * PHONEMES, 1))


def phoneme_loss(scores: Tensor, phonemes: Tensor) -> Tensor:
    """Cross-entropy of a head's scores ``[B, 2 * PHONEMES, T]`` against ``[B, T, 2]``, nats a known phoneme."""
    clips, _, frames = scores.shape
    return known_loss(scores.view(clips, 2, PHONEMES, frames).transpose(1, 2), phonemes.transpose(1, 2))


def known_loss(scores: Tensor, phonemes: Tensor) -> Tensor:
    """Cross-entropy of scores ``[B, PHONEMES, ...]`` against ``[B, ...]``, nats a known phoneme."""
    total = F.cross_entropy(scores.float(), phonemes, ignore_index=UNKNOWN, reduction="sum")
    return total / (phonemes != UNKNOWN).sum().clamp(min=1)


class Codec(nn.Module):
    """Everything that trains: the stock model, its books, and heads that are thrown away.

    Two heads predict log-mel spectra, linearly from the decoder's input and, through one hidden layer, from the semantic
    book alone: without them the latent learns nothing before the decoder does. Two name the phonemes of a frame, from the
    same places and the frames beside it: spectra alone let sounds run together that are near each other, as nasals are.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.stock = build(sizes)
        self.semantic = ResidualBooks(1, sizes.codes, sizes.code_dim)
        self.acoustic = ResidualBooks(sizes.books - 1, sizes.codes, sizes.code_dim)
        self.latent_head = nn.Linear(2 * sizes.code_dim, MELS_A_FRAME)
        self.semantic_head = nn.Sequential(nn.Linear(sizes.code_dim, 256), nn.GELU(), nn.Linear(256, MELS_A_FRAME))
        self.latent_phonemes, self.semantic_phonemes = (phoneme_head(width) for width in (2 * sizes.code_dim, sizes.code_dim))

    def hold(self, learns: str) -> None:
        """From now on the books stand still and only one side of them learns.

        Args:
            learns: `decoder`, so that all audio keeps its codes; or `encoder`, so that all codes keep their sound.
        """
        decoding, encoding = [self.stock.decoder], [self.stock.encoder, self.semantic_head, self.semantic_phonemes]
        for part in encoding if learns == "decoder" else decoding:
            part.requires_grad_(False)
        self.semantic.fixed = self.acoustic.fixed = True

    def trained(self) -> list[nn.Parameter]:
        """The parameters that gradients move."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def perplexity(self) -> list[float]:
        """`ResidualBooks.perplexity` of all books, the semantic one first."""
        return self.semantic.perplexity() + self.acoustic.perplexity()


@torch.no_grad()
def take(codec: Codec, folder: Path, step_vectors: int, new_encoder: bool = False) -> Qwen3TTSTokenizerV2Model | None:
    """Take the weights and books over from an exported folder; the heads stay as they are.

    Args:
        codec: whose sizes are those of the folder.
        step_vectors: vectors that a training step quantises, the scale of the books' `use`.
        new_encoder: the encoder may be of other sizes; then it stays as it is.

    Returns:
        Where it does, the folder's model, from whose encoder it can learn.

    Raises:
        ValueError: the folder's model is of other sizes.
    """
    stock = Qwen3TTSTokenizerV2Model.from_pretrained(folder, dtype=torch.float32)
    found, own = stock.state_dict(), codec.stock.state_dict()
    other = new_encoder and any(value.shape != own[name].shape for name, value in found.items() if name in own and _encodes(name))
    if other:
        found = {
            **{name: value for name, value in found.items() if not _encodes(name)},
            **{name: value for name, value in own.items() if _encodes(name)},
        }
    try:
        codec.stock.load_state_dict(found)
    except RuntimeError as error:
        raise ValueError(f"{folder}: {str(error).splitlines()[1].strip()}") from error
    quantizer = stock.encoder.quantizer
    for books, name in ((codec.semantic, "semantic"), (codec.acoustic, "acoustic")):
        layers = getattr(quantizer, f"{name}_residual_vector_quantizer").layers
        books.set(torch.stack([layer.codebook.embed for layer in layers]), step_vectors)
    return stock if other else None


def _encodes(name: str) -> bool:
    """Whether a tensor belongs to what comes before the books."""
    return name.startswith("encoder.") and ".codebook." not in name


@torch.no_grad()
def export(codec: Codec, weights: Iterable[Tensor], folder: Path) -> None:
    """Write a folder that ``Qwen3TTSTokenizer.from_pretrained`` loads, in fp16.

    The books exist twice in a stock model, once for the encoder and once for the decoder, each as sums and uses.

    Args:
        codec: what was trained. Its stock model is changed: use it no more.
        weights: values of `Codec.trained`, for instance their averages.
        folder: made if it is not there.
    """
    for parameter, value in zip(codec.trained(), weights, strict=True):
        parameter.copy_(value)
    encoder, decoder = codec.stock.encoder.quantizer, codec.stock.decoder.quantizer
    tables = [*codec.semantic.table, *codec.acoustic.table]
    encoding = [*encoder.semantic_residual_vector_quantizer.layers, *encoder.acoustic_residual_vector_quantizer.layers]
    decoding = [*decoder.rvq_first.vq.layers, *decoder.rvq_rest.vq.layers]
    for table, one, other in zip(tables, encoding, decoding, strict=True):
        one.codebook.embed_sum.copy_(table)
        one.codebook.cluster_usage.fill_(1)
        one.codebook._embed = None
        other._codebook.embedding_sum.copy_(table)
        other._codebook.cluster_usage.fill_(1)
    codec.stock.half().cpu().save_pretrained(folder)
    EncodecFeatureExtractor(feature_size=1, sampling_rate=RATE).save_pretrained(folder)
