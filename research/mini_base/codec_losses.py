"""What the miniature speech tokenizer is trained towards: spectra at five scales, what a recogniser hears, a discriminator's opinion.

Nothing here waits for the GPU; all of it may be captured in a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Iterator

import librosa
import torch
import torch.nn.functional as F
from codec_model import MELS_A_FRAME, known_loss
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from voices import FRAME, PHONEMES, RATE


def mel_filters(window: int, bands: int) -> Tensor:
    """Slaney mel filters from 0 Hz to half the rate, ``[bands, window / 2 + 1]``."""
    return torch.from_numpy(librosa.filters.mel(sr=RATE, n_fft=window, n_mels=bands))


class MelLoss(nn.Module):
    """Distance of mel spectra at five scales, so that both pitch and attacks count."""

    SCALES = ((2048, 160), (1024, 100), (512, 64), (256, 32), (128, 16))
    """Window in samples (the hop is a quarter of it) and bands."""
    FLOOR = 1e-5

    def __init__(self) -> None:
        super().__init__()
        for window, bands in self.SCALES:
            self.register_buffer(f"window{window}", torch.hann_window(window), persistent=False)
            self.register_buffer(f"filters{window}", mel_filters(window, bands), persistent=False)

    def _spectra(self, audio: Tensor) -> Iterator[Tensor]:
        for window, _ in self.SCALES:
            shape = self.get_buffer(f"window{window}")
            spectrum = torch.stft(audio, window, window // 4, window=shape, return_complex=True).abs()
            yield self.get_buffer(f"filters{window}") @ spectrum

    def forward(self, made: Tensor, real: Tensor) -> Tensor:
        """The loss of a batch ``[B, S]``: logarithmic distance plus .3 of the relative error of magnitudes."""
        loss = made.new_zeros(())
        for one, other in zip(self._spectra(made), self._spectra(real), strict=True):
            loss = loss + (one.clamp(min=self.FLOOR).log10() - other.clamp(min=self.FLOOR).log10()).abs().mean()
            loss = loss + 0.3 * (one - other).norm() / (other.norm() + 1e-5)
        return loss / len(self.SCALES)

    def distance(self, made: Tensor, real: Tensor) -> Tensor:
        """The logarithmic distance (base 10) of each clip, ``[B]``."""
        total = made.new_zeros(len(made))
        for one, other in zip(self._spectra(made), self._spectra(real), strict=True):
            total = total + (one.clamp(min=self.FLOOR).log10() - other.clamp(min=self.FLOOR).log10()).abs().mean(dim=(1, 2))
        return total / len(self.SCALES)


class FrameMel(nn.Module):
    """Targets of the auxiliary heads: 8 log-mel spectra of 80 bands a frame, about standardised."""

    WINDOW, HOP, BANDS = 1024, 240, 80

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(self.WINDOW), persistent=False)
        self.register_buffer("filters", mel_filters(self.WINDOW, self.BANDS), persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        """``[B, S]`` to ``[B, T, 640]``."""
        spectrum = torch.stft(audio, self.WINDOW, self.HOP, window=self.get_buffer("window"), return_complex=True).abs()
        mel = ((self.get_buffer("filters") @ spectrum).clamp(min=1e-4).log() + 4) / 2.5
        frames = audio.shape[1] // FRAME
        return mel[:, :, : frames * FRAME // self.HOP].transpose(1, 2).reshape(len(audio), frames, MELS_A_FRAME)


class Recogniser(nn.Module):
    """Names the phoneme that sounds at a quarter and at three quarters of each frame, from a quarter of a second on either side.

    It learns from recordings alone, and is heard by nobody but this training: what it makes of a recording shall be what it makes
    of the recording after the speech tokenizer. Spectra alone weigh the loud and the long, and a blurred burst costs them little.
    """

    DILATIONS = (1, 1, 2, 2)

    def __init__(self, channels: int = 256) -> None:
        super().__init__()
        self.stem = nn.Conv1d(FrameMel.BANDS, channels, 5, stride=2, padding=2)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.GroupNorm(8, channels),
                nn.Conv1d(channels, channels, 5, dilation=dilation, padding=2 * dilation),
                nn.GELU(),
                nn.Conv1d(channels, channels, 1),
            )
            for dilation in self.DILATIONS
        )
        self.halve = nn.Conv1d(channels, channels, 4, stride=2, padding=1)
        self.names = nn.Conv1d(channels, PHONEMES, 1)

    def forward(self, mel: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Scores ``[B, PHONEMES, 2 T]`` and the features of each layer, from what `FrameMel` gives, ``[B, T, 640]``."""
        x = F.gelu(self.stem(mel.reshape(len(mel), -1, FrameMel.BANDS).transpose(1, 2)))
        features = [x]
        for block in self.blocks:
            x = x + block(x)
            features.append(x)
        x = F.gelu(self.halve(x))
        features.append(x)
        return self.names(x), features


Heard = tuple[Tensor, list[Tensor]]
"""Scores, and the features of each layer."""


def naming_loss(heard: Heard, phonemes: Tensor) -> Tensor:
    """Cross-entropy of a recogniser's scores against ``[B, T, 2]``, nats a known phoneme."""
    return known_loss(heard[0], phonemes.flatten(1))


def hearing_loss(real: Heard, made: Heard) -> Tensor:
    """How differently a recogniser hears two batches: nats between what it names, plus twice the relative distance of its features.

    No gradient reaches `real`.
    """
    wanted, found = F.log_softmax(real[0].detach().float(), 1), F.log_softmax(made[0].float(), 1)
    nats = (wanted.exp() * (wanted - found)).sum(1).mean()
    return nats + 2 * relative_distance(real[1], made[1])


def relative_distance(real: list[Tensor], made: list[Tensor]) -> Tensor:
    """The mean over layers of the distance of features, relative to their size; no gradient reaches `real`."""
    total = made[0].new_zeros((), dtype=torch.float32)
    for one, other in zip(real, made, strict=True):
        target = one.detach().float()
        total = total + (other.float() - target).abs().mean() / (target.abs().mean() + 1e-6)
    return total / len(real)


Judged = list[tuple[Tensor, list[Tensor]]]
"""For each scale: the judgements, and the features of each layer."""


class SpectrumDiscriminator(nn.Module):
    """Judges the complex spectrum at one scale, patch by patch."""

    def __init__(self, size: int, channels: int) -> None:
        super().__init__()
        self.size = size
        self.layout = torch.contiguous_format
        self.register_buffer("window", torch.hann_window(size), persistent=False)
        layers = [nn.Conv2d(2, channels, (3, 7), padding=(1, 3))]
        for dilation in (1, 2, 4):
            layers.append(nn.Conv2d(channels, channels, (3, 7), stride=(1, 2), dilation=(dilation, 1), padding=(dilation, 3)))
        layers.append(nn.Conv2d(channels, channels, 3, padding=1))
        self.layers = nn.ModuleList(weight_norm(layer) for layer in layers)
        self.verdict = weight_norm(nn.Conv2d(channels, 1, 3, padding=1))

    def forward(self, audio: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Judgements and features of ``[B, S]``."""
        window = self.get_buffer("window")
        spectrum = torch.stft(audio.float(), self.size, self.size // 4, window=window, return_complex=True, normalized=True)
        x = torch.view_as_real(spectrum).permute(0, 3, 2, 1).contiguous(memory_format=self.layout)
        features = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
            features.append(x)
        return self.verdict(x), features


class Discriminator(nn.Module):
    """Spectra at four scales, each judged on its own."""

    def __init__(self, channels: int = 24) -> None:
        super().__init__()
        self.scales = nn.ModuleList(SpectrumDiscriminator(size, channels) for size in (2048, 1024, 512, 256))

    def forward(self, audio: Tensor) -> Judged:
        """Judgements and features of ``[B, S]`` at each scale."""
        return [scale(audio) for scale in self.scales]

    def arrange(self, layout: torch.memory_format) -> None:
        """Choose where the channels of features lie in memory; it changes nothing but the speed."""
        for scale in self.scales:
            scale.layout = layout


def discriminator_loss(real: Judged, made: Judged) -> Tensor:
    """Hinge loss of the discriminator."""
    loss = sum(F.relu(1 - r.float()).mean() + F.relu(1 + m.float()).mean() for (r, _), (m, _) in zip(real, made, strict=True))
    return torch.as_tensor(loss) / len(real)


def adversarial_loss(made: Judged) -> Tensor:
    """Hinge loss of what is judged."""
    return torch.as_tensor(sum(F.relu(1 - verdict.float()).mean() for verdict, _ in made)) / len(made)


def feature_loss(real: Judged, made: Judged) -> Tensor:
    """Relative distance of the discriminator's features; no gradient reaches `real`."""
    return torch.stack([relative_distance(r, m) for (_, r), (_, m) in zip(real, made, strict=True)]).mean()
