"""A small one of every model that the families offer: what generic tests run over.

A new paper adds its line, and inherits every test of the contract. ``tests/test_zoo.py`` holds
that no model is left out.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gdm_lib.autoregressive import MADE, GatedPixelCNN, PixelCNN, PixelCNNpp, PixelRNN, WaveNet
from gdm_lib.autoregressive.made import random_degrees
from gdm_lib.autoregressive.pixelrnn import RowLSTM
from gdm_lib.bijections import Dequantise, OneHot
from gdm_lib.flows import IAF, MAF, NICE, FlowVAE, Glow, RealNVP, maf_mog
from gdm_lib.flows.maf import bounded_scale
from gdm_lib.flows.planar_radial import FlowEncoder, Planar
from gdm_lib.likelihoods import Bernoulli, Categorical, Gaussian, IsotropicGaussian
from gdm_lib.nn import ClassEmbedding
from gdm_lib.vae import VAE, VQVAE, VQVAE2, BottomPrior, TopPrior
from gdm_lib.vae.vae import Decoder
from tests.helpers import seeded

CLASSES = 3
LEVELS = 4
ORDERS = [[0, 1, 2, 3, 4, 5], [3, 1, 5, 0, 2, 4]]


def bits(n: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Zeros and ones as floats."""
    return torch.randint(2, (n, *shape), generator=generator).float()


def real(n: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Real numbers, correlated and not centred."""
    x = torch.randn(n, *shape, generator=generator)
    return 0.7 * x + 0.3 * x.flip(-1) + 0.5


def levels(n: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """int64 levels, as the autoregressive models take them."""
    return torch.randint(LEVELS, (n, *shape), generator=generator)


def grey(n: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Levels as multiples of 1/(LEVELS - 1), as flows dequantise them."""
    return levels(n, shape, generator) / (LEVELS - 1)


@dataclass(frozen=True)
class Animal:
    """How a small model is made, and what it is a model of."""

    build: Callable[[], Any]
    shape: tuple[int, ...]
    draw: Callable[[int, tuple[int, ...], torch.Generator], Tensor] = real
    classes: int = 0
    """How many classes it is conditioned on; 0: it is not conditional."""

    def data(self, n: int, seed: int = 0) -> tuple[Tensor, Tensor | None]:
        """``n`` items and their labels."""
        generator = seeded(seed)
        x = self.draw(n, self.shape, generator)
        y = torch.randint(self.classes, (n,), generator=generator) if self.classes else None
        return x, y


def flow_vae() -> nn.Module:
    return FlowVAE(
        FlowEncoder((6,), 2, 3, (8,)),
        Planar(2, 3),
        Decoder(2, (6,), (8,)),
        Bernoulli(),
        latent_dim=2,
    )


def vqvae2_with_priors() -> nn.Module:
    model = VQVAE2.image((1, 8, 8), count=LEVELS, dim=3, width=6, inner=4, blocks=1, decay=None)
    small = {"levels": LEVELS, "p": 6, "layers": 1, "first_kernel": 3, "dropout": 0.0}
    top = TopPrior((1, 1, 1), every=1, heads=2, stack=1, **small)
    bottom = BottomPrior((1, 2, 2), [(LEVELS, 1, 1)], blocks=1, **small)
    # Each was trained by itself, and the model's loss doesn't reach them.
    model.priors = nn.ModuleList([top, bottom]).requires_grad_(False)
    return model


def one_hot() -> dict[str, Any]:
    """Options of a model that is conditioned on labels as they are."""
    return {"context_dim": CLASSES, "embed": OneHot(CLASSES)}


def embedded() -> dict[str, Any]:
    """Options of a model that is conditioned on a learned vector of a label: its own."""
    return {"context_dim": 5, "embed": ClassEmbedding(CLASSES, 5)}


PIXELS: dict[str, Any] = {"h": 12, "layers": 2, "head": 18, "kernel": 3, "levels": LEVELS}

ZOO: dict[str, Animal] = {
    "vae": Animal(lambda: VAE.mlp((6,), 2, hidden=(8,)), (6,), bits),
    "vae_gaussian": Animal(
        lambda: VAE.mlp((6,), 2, hidden=(8,), likelihood=IsotropicGaussian()), (6,)
    ),
    "vae_levels": Animal(
        lambda: VAE.mlp((1, 2, 3), 2, hidden=(8,), likelihood=Categorical(LEVELS)),
        (1, 2, 3),
        levels,
    ),
    "vqvae": Animal(
        lambda: VQVAE.image((1, 4, 4), count=5, dim=3, width=6, likelihood=Bernoulli()),
        (1, 4, 4),
        bits,
    ),
    "vqvae_averaged": Animal(
        lambda: VQVAE.image((1, 4, 4), count=5, dim=3, width=6, decay=0.9, restart=2), (1, 4, 4)
    ),
    "vqvae_of_y": Animal(
        lambda: VQVAE.sound(
            WaveNet((12,), levels=LEVELS, residual=6, skip=7, dilations=(1, 2, 1), context_dim=4),
            strides=(2, 2),
            count=5,
            dim=3,
            width=6,
            **embedded(),
        ),
        (12,),
        levels,
        CLASSES,
    ),
    "vqvae2": Animal(
        lambda: VQVAE2.image(
            (1, 8, 8),
            count=5,
            dim=3,
            width=6,
            inner=4,
            blocks=1,
            likelihood=Bernoulli(),
            restart=2,
            level_dropout=0.5,
        ),
        (1, 8, 8),
        bits,
    ),
    "vqvae2_of_three_levels": Animal(
        lambda: VQVAE2.image((1, 16, 16), depth=3, count=5, dim=3, width=6, inner=4, blocks=1),
        (1, 16, 16),
    ),
    "vqvae2_with_priors": Animal(vqvae2_with_priors, (1, 8, 8)),
    "vqvae2_top_prior": Animal(
        lambda: TopPrior(
            (1, 3, 3),
            levels=LEVELS,
            p=12,
            layers=2,
            every=1,
            heads=3,
            stack=1,
            kernel=3,
            first_kernel=3,
            level_features=3,
            dropout=0.0,
            **embedded(),
        ),
        (1, 3, 3),
        levels,
        CLASSES,
    ),
    "flow_vae": Animal(flow_vae, (6,), bits),
    "nice": Animal(lambda: NICE((6,), hidden=(8,)), (6,)),
    "nice_of_y": Animal(lambda: NICE((6,), hidden=(8,), **one_hot()), (6,), classes=CLASSES),
    "nice_levels": Animal(
        lambda: NICE((1, 2, 2), hidden=(8,), dequantise=Dequantise(LEVELS)), (1, 2, 2), grey
    ),
    "realnvp": Animal(lambda: RealNVP.vector(4, couplings=3, hidden=(8,)), (4,)),
    "realnvp_of_y": Animal(
        lambda: RealNVP.vector(4, couplings=3, hidden=(8,), **one_hot()), (4,), classes=CLASSES
    ),
    "realnvp_image": Animal(
        lambda: RealNVP.image((1, 4, 4), levels=LEVELS, hidden=6, blocks=1), (1, 4, 4), grey
    ),
    "maf": Animal(lambda: MAF(4, layers=2, hidden=(8,)), (4,)),
    "maf_bounded": Animal(
        lambda: MAF(4, layers=2, hidden=(8,), direct=True, update=bounded_scale), (4,)
    ),
    "maf_of_y": Animal(lambda: MAF(4, layers=2, hidden=(8,), **one_hot()), (4,), classes=CLASSES),
    "maf_mog": Animal(lambda: maf_mog(4, layers=2, hidden=(8,), components=2), (4,)),
    "iaf": Animal(lambda: IAF(4, hidden=(8,)), (4,)),
    "iaf_of_y": Animal(lambda: IAF(4, hidden=(8,), **one_hot()), (4,), classes=CLASSES),
    "glow": Animal(lambda: Glow((1, 4, 4), levels=LEVELS, steps=2, hidden=6), (1, 4, 4), grey),
    "glow_of_y": Animal(
        lambda: Glow((1, 4, 4), levels=LEVELS, steps=2, hidden=6, **one_hot()),
        (1, 4, 4),
        grey,
        CLASSES,
    ),
    "made": Animal(lambda: MADE((6,), (12,)), (6,), bits),
    "made_of_y": Animal(
        lambda: MADE((6,), (12,), likelihood=Gaussian(), **one_hot()), (6,), classes=CLASSES
    ),
    "made_levels": Animal(
        lambda: MADE((1, 2, 3), (12,), likelihood=Categorical(LEVELS)), (1, 2, 3), levels
    ),
    "made_direct": Animal(
        lambda: MADE((6,), (12,), orders=ORDERS, degrees=random_degrees, masks=2, direct=True),
        (6,),
        bits,
    ),
    "pixelcnn": Animal(lambda: PixelCNN((1, 3, 3), **PIXELS), (1, 3, 3), levels),
    "row_lstm": Animal(lambda: PixelRNN((1, 3, 3), lstm=RowLSTM, **PIXELS), (1, 3, 3), levels),
    "diagonal_bilstm": Animal(lambda: PixelRNN((1, 3, 3), **PIXELS), (1, 3, 3), levels),
    "gated_pixelcnn": Animal(
        lambda: GatedPixelCNN(
            (1, 3, 3), levels=LEVELS, p=12, layers=2, first_kernel=3, **embedded()
        ),
        (1, 3, 3),
        levels,
        CLASSES,
    ),
    "gated_pixelcnn_of_categories": Animal(
        lambda: GatedPixelCNN(
            (1, 3, 3), levels=LEVELS, level_features=3, p=12, layers=2, first_kernel=3
        ),
        (1, 3, 3),
        levels,
    ),
    "pixelcnn_pp": Animal(
        lambda: PixelCNNpp(
            (1, 4, 4), levels=LEVELS, components=2, features=8, blocks=1, **embedded()
        ),
        (1, 4, 4),
        levels,
        CLASSES,
    ),
    "wavenet": Animal(
        lambda: WaveNet(
            (12,), levels=LEVELS, residual=6, skip=7, dilations=(1, 2, 1), **embedded()
        ),
        (12,),
        levels,
        CLASSES,
    ),
}


def made(name: str, seed: int = 0) -> Any:
    """A fresh model with the same weights each time, as it comes: in train mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return copy.deepcopy(ZOO[name].build())  # of what several share, each has its own
