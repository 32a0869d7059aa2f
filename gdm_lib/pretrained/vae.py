"""Models of the VAE chapters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from gdm_lib.vae.vae import VAE
    from gdm_lib.vae.vqvae import VQVAE
    from gdm_lib.vae.vqvae2 import VQVAE2

__all__ = [  # noqa: RUF022  (in the order of the chapters)
    "mnist_2d",
    "glyph_letters",
    "vqvae_letters",
    "vqvae_speech",
    "vqvae_fine_letters",
    "vqvae2_letters",
    "vqvae2_tiles",
]


def mnist_2d() -> VAE:
    """The paper's network for MNIST (section 5), with the two latents of its figure 4."""
    from gdm_lib.vae.vae import VAE

    return VAE.mlp((1, 28, 28), 2, hidden=(500,))


def glyph_letters() -> VAE:
    """Letters of ``data.glyphs.LETTERS`` in 24 latents."""
    from gdm_lib.vae.vae import VAE

    return VAE.mlp((1, 32, 32), 24, hidden=(384,), activation=nn.ReLU)


def vqvae_letters() -> VQVAE:
    """The letters of ``data.glyphs.COLOUR_LARGE_GLYPHS`` in 8x8 codes; ``y`` is the letter, which
    the prior is told, and the decoder is not."""
    from gdm_lib.autoregressive.gated_pixelcnn import GatedPixelCNN
    from gdm_lib.nn import ClassEmbedding
    from gdm_lib.vae.vqvae import VQVAE

    model = VQVAE.image((3, 32, 32), count=256, dim=64, width=64, decay=0.99, restart=20)
    model.prior = GatedPixelCNN(
        (1, *model.grid),
        levels=256,
        p=56,
        layers=5,
        level_features=32,
        context_dim=20,
        embed=ClassEmbedding(20, 20),
    )
    return model


def vqvae_speech() -> VQVAE:
    """Spoken digits of six voices, 0.55 s at 8 kHz, in 55 codes; ``y`` ``(B, 2)`` is the digit and
    the speaker, an index into ``data.fsdd.SPEAKERS``. The decoder is told the speaker alone, the
    prior both."""
    from gdm_lib.autoregressive.wavenet import WaveNet, dilations
    from gdm_lib.vae.vqvae import VQVAE, LabelEmbedding

    wavenet = WaveNet((4400,), residual=32, skip=64, dilations=dilations(1, 8), context_dim=16)
    model = VQVAE.sound(
        wavenet,
        strides=(2, 2, 2, 2, 5),
        count=128,
        dim=64,
        width=96,
        decay=0.99,
        restart=20,
        context_dim=16,
        embed=LabelEmbedding((0, 6), 16),
    )
    model.prior = WaveNet(
        model.grid,
        levels=128,
        residual=48,
        skip=96,
        dilations=dilations(2, 5),
        context_dim=32,
        embed=LabelEmbedding((10, 6), 32),
    )
    return model


def vqvae_fine_letters() -> VQVAE:
    """The same letters in one grid of 16x16 codes, with the networks of ``vqvae2_letters``, but for
    its top; ``y`` is the letter, which the prior is told."""
    from gdm_lib.autoregressive.gated_pixelcnn import GatedPixelCNN
    from gdm_lib.likelihoods import IsotropicGaussian
    from gdm_lib.nn import ClassEmbedding
    from gdm_lib.vae.vqvae import VQVAE, ResidualBlock, VectorQuantiser

    count, dim, width = 64, 32, 48
    model = VQVAE(
        nn.Sequential(
            nn.Conv2d(3, width, 4, 2, 1),
            ResidualBlock(width, width // 2),
            nn.ReLU(),
            nn.Conv2d(width, dim, 1),
        ),
        nn.Sequential(
            nn.Conv2d(dim, width, 3, padding=1),
            ResidualBlock(width, width // 2),
            nn.ReLU(),
            nn.ConvTranspose2d(width, 3, 4, 2, 1),
        ),
        VectorQuantiser(count, dim, decay=0.99, restart=20),
        IsotropicGaussian(),
        data_shape=(3, 32, 32),
        grid=(16, 16),
    )
    model.prior = GatedPixelCNN(
        (1, *model.grid),
        levels=count,
        p=48,
        layers=5,
        first_kernel=5,
        head=64,
        level_features=16,
        context_dim=20,
        embed=ClassEmbedding(20, 20),
    )
    return model


def vqvae2_letters() -> VQVAE2:
    """The same letters in 8x8 and 16x16 codes; ``y`` is the letter, which the priors are told."""
    from gdm_lib.vae.vqvae2 import VQVAE2

    model = VQVAE2.image(
        (3, 32, 32),
        count=64,
        dim=32,
        width=48,
        inner=24,
        blocks=1,
        stride=2,
        restart=20,
        level_dropout=0.3,
    )
    model.priors = _two_priors(model.grids, 64, 20, p=40)
    return model


def vqvae2_tiles() -> VQVAE2:
    """The tiles of ``data.dcss`` in 8x8 and 16x16 codes; ``y`` is the category, which the priors
    are told, and the decoder is not."""
    from gdm_lib.vae.vqvae2 import VQVAE2

    model = VQVAE2.image(
        (3, 32, 32),
        count=256,
        dim=32,
        width=64,
        inner=32,
        blocks=1,
        stride=2,
        restart=20,
        level_dropout=0.3,
    )
    model.priors = _two_priors(model.grids, 256, 6, p=44)
    return model


def _two_priors(
    grids: Sequence[Sequence[int]], count: int, classes: int, *, p: int
) -> nn.ModuleList:
    """The priors of a top and a bottom of ``count`` entries each; both are told the class."""
    from gdm_lib.nn import ClassEmbedding
    from gdm_lib.vae.vqvae2 import BottomPrior, TopPrior

    top, bottom = grids
    features = 32 if count > 64 else 16
    return nn.ModuleList(
        [
            TopPrior(
                (1, *top),
                levels=count,
                p=40,
                layers=6,
                every=3,
                heads=4,
                stack=2,
                kernel=3,
                first_kernel=5,
                head=64,
                level_features=features,
                context_dim=24,
                embed=ClassEmbedding(classes, 24),
            ),
            BottomPrior(
                (1, *bottom),
                [(count, *top)],
                levels=count,
                p=p,
                layers=4,
                blocks=2,
                classes=classes,
                kernel=3,
                first_kernel=5,
                head=64,
                level_features=features,
            ),
        ]
    )
