"""How passing voices are varied before the speech tokenizer hears them: filters and noise. Nothing here waits for the GPU."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

FILTER_POINTS, FILTER_DB = 10, 6.0
"""A filter is this many random points from 0 Hz to half the rate, within so many dB either way."""
NOISE_DB = (15.0, 45.0)
"""Noise lies so far below the speech."""


def filtered(audio: Tensor) -> Tensor:
    """Each row ``[B, S]`` through a filter of its own: a microphone's or a room's colour, random within `FILTER_DB` either way."""
    spectrum = torch.fft.rfft(audio)
    points = (torch.rand(len(audio), 1, FILTER_POINTS, device=audio.device) * 2 - 1) * FILTER_DB
    decibels = F.interpolate(points, size=spectrum.shape[1], mode="linear", align_corners=True)[:, 0]
    return torch.fft.irfft(spectrum * torch.exp(decibels * (math.log(10) / 20)), n=audio.shape[1])


def noise(audio: Tensor) -> Tensor:
    """Noise for each row ``[B, S]``, white to brown, `NOISE_DB` below the row's own level."""
    clips, samples = audio.shape
    spectrum = torch.fft.rfft(torch.randn_like(audio))
    frequency = torch.arange(1, spectrum.shape[1] + 1, device=audio.device) / samples
    colour = frequency[None] ** -torch.rand(clips, 1, device=audio.device)
    made = torch.fft.irfft(spectrum * colour, n=samples)
    low, high = NOISE_DB
    below = torch.exp((torch.rand(clips, 1, device=audio.device) * (high - low) + low) * (-math.log(10) / 20))
    level = audio.square().mean(dim=1, keepdim=True).sqrt() / made.square().mean(dim=1, keepdim=True).sqrt().clamp(min=1e-9)
    return made * level * below
