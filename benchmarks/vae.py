"""The codebook of the VQ-VAE beside the one-hot matrices that others write, and beside a peer."""

from __future__ import annotations

from importlib.metadata import version

import torch
from torch import Tensor

from benchmarks import Result, in_turn
from gdm_lib.vae.vqvae import VectorQuantiser, straight_through

try:
    from vector_quantize_pytorch import VectorQuantize
except ImportError:  # python -m benchmarks says how to get it
    VectorQuantize = None

__all__ = ["BENCHMARKS", "vq_lookup_ema"]

CODES, DIM, VECTORS, DECAY = 512, 64, 16_384, 0.99


class OneHot:
    """Look-up and averages by a matrix with a row for each vector and a column for each entry."""

    def __init__(self, codebook: Tensor) -> None:
        self.codebook = codebook.clone()
        self.sizes, self.sums = torch.zeros(CODES), torch.zeros(CODES, DIM)

    def __call__(self, z: Tensor) -> Tensor:
        e = self.codebook
        distances = z.square().sum(1, keepdim=True) - 2 * z @ e.T + e.square().sum(1)
        chosen = torch.zeros(len(z), CODES).scatter_(1, distances.argmin(1, keepdim=True), 1)
        entries = chosen @ e
        self.sizes = DECAY * self.sizes + (1 - DECAY) * chosen.sum(0)
        self.sums = DECAY * self.sums + (1 - DECAY) * chosen.T @ z
        known = (self.sizes > 0)[:, None]
        self.codebook = torch.where(known, self.sums / self.sizes[:, None], e)
        return entries


def vq_lookup_ema() -> list[Result]:
    """Look-up, entries and moving averages: 16,384 vectors of 64 features, 512 entries."""
    if VectorQuantize is None:
        raise SystemExit("vector-quantize-pytorch is not installed; use: make bench")
    z = torch.randn(VECTORS, DIM, generator=torch.Generator().manual_seed(0))
    ours = VectorQuantiser(CODES, DIM, decay=DECAY).train()
    ours.codebook.copy_(z[:CODES])
    plain = OneHot(ours.codebook)
    ours(z), plain(z)
    if not torch.allclose(ours.codebook, plain.codebook, atol=1e-4):
        raise RuntimeError("vq_lookup_ema: the two codebooks differ after one step")
    theirs = VectorQuantize(dim=DIM, codebook_size=CODES, decay=DECAY, rotation_trick=False)
    theirs.train()

    @torch.no_grad()
    def look_up() -> Tensor:
        return ours.embed(ours(z))

    @torch.no_grad()
    def one_hot() -> Tensor:
        return plain(z)

    def whole() -> tuple[Tensor, Tensor]:
        entries = ours.embed(ours(z))
        return straight_through(z, entries), (z - entries).square().mean()

    ours_s, one_hot_s = in_turn(look_up, one_hot)
    whole_s, theirs_s = in_turn(whole, lambda: theirs(z[None]))
    peer = "vector-quantize-pytorch"
    return [
        Result("vq_lookup_ema", ours_s, "one-hot matrices", "", one_hot_s, target=4.0),
        Result("vq_lookup_ema", whole_s, peer, version(peer), theirs_s, target=1.5),
    ]


BENCHMARKS = {"vq_lookup_ema": vq_lookup_ema}
