"""Models of the VAE chapters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from gdm_lib.vae.vae import VAE
    from gdm_lib.vae.vqvae import VQVAE

__all__ = [  # noqa: RUF022  (in the order of the chapters)
    "mnist_2d",
    "glyph_letters",
    "vqvae_letters",
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
