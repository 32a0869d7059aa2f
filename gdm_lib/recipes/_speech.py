"""What the recipes of spoken digits share: recordings of one length, and who recognises them."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from gdm_lib.data import fsdd
from gdm_lib.data.fsdd import FRAME, SPEECH
from gdm_lib.training import cosine

__all__ = ["bands", "recogniser", "sounds"]


def sounds(
    recordings: fsdd.Recordings, speakers: tuple[str, ...]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Those speakers' recordings that take ``SPEECH`` samples at most, at one loudness
    ``(N, SPEECH)``; their digits, speakers and lengths."""
    found, told = [], []
    for i, sound in enumerate(recordings.x):
        name = fsdd.SPEAKERS[recordings.speaker[i]]
        if name in speakers and len(sound) <= SPEECH:
            found.append(F.pad(0.9 * sound / sound.abs().max(), (0, SPEECH - len(sound))))
            told.append((int(recordings.y[i]), speakers.index(name), len(sound)))
    digits, voices, lengths = torch.tensor(told).T
    return torch.stack(found), digits, voices, lengths


def bands(waves: Tensor) -> Tensor:
    """Waves ``(N, SPEECH)`` -> log-energies in 24 bands of frequency, which widen upwards, without
    the loudness of the whole: ``(N, 1, 24, frames)``."""
    taper = torch.hann_window(256)
    power = torch.stft(waves, 256, FRAME, window=taper, return_complex=True).abs() ** 2
    edges = (torch.linspace(0, 1, 25) ** 1.5 * 127 + 1).round().int().tolist()
    bands = torch.stack([power[:, a : max(b, a + 1)].mean(1) for a, b in pairwise(edges)], 1)
    return (bands / bands.mean((1, 2), keepdim=True) + 1e-2).log()[:, None]


def recogniser(waves: Tensor, labels: Tensor, classes: int = 10) -> nn.Module:
    """A small convolutional network that has learned the labels of these recordings alone (their
    digits, or who speaks), each time a little earlier or later and under noise of two kinds:
    steady, and as loud as the sound is at the moment, which is how coarse levels err.

    Of the ``bands`` of waves it gives logits, ``(N, classes)``.
    """
    rng, steps, width = torch.Generator().manual_seed(0), 500, 24

    def layer(features_in: int, features_out: int) -> list[nn.Module]:
        conv = nn.Conv2d(features_in, features_out, 3, padding=1)
        return [conv, nn.BatchNorm2d(features_out), nn.ReLU()]

    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        net = nn.Sequential(
            *layer(1, width),
            nn.MaxPool2d(2),
            *layer(width, width),
            nn.MaxPool2d(2),
            *layer(width, 2 * width),
            nn.AdaptiveAvgPool2d((3, 5)),
            nn.Flatten(),
            nn.Dropout(0.5),
            nn.Linear(30 * width, classes),
        )
        optimizer = AdamW(net.parameters(), lr=3e-3, weight_decay=1e-2)
        slower = LambdaLR(optimizer, cosine(steps))
        for _ in range(steps):
            i = torch.randint(len(waves), (64,), generator=rng)
            shifts = torch.randint(-300, 300, (64,), generator=rng).tolist()
            batch = torch.stack([w.roll(by) for w, by in zip(waves[i], shifts, strict=True)])
            steady = 0.02 * torch.rand(64, 1, generator=rng)
            following = 0.3 * torch.rand(64, 1, generator=rng)
            noise = torch.randn(2, *batch.shape, generator=rng)
            batch = batch * (1 + following * noise[0]) + steady * noise[1]
            loss = F.cross_entropy(net(bands(batch)), labels[i], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            slower.step()
    return net.eval()
