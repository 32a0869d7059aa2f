"""Models of the VAE chapters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from gdm_lib.vae.vae import VAE

__all__ = ["mnist_2d", "glyph_letters"]  # noqa: RUF022  (in the order of the chapters)


def mnist_2d() -> VAE:
    """The paper's network for MNIST (section 5), with the two latents of its figure 4."""
    from gdm_lib.vae.vae import VAE

    return VAE.mlp((1, 28, 28), 2, hidden=(500,))


def glyph_letters() -> VAE:
    """Letters of ``data.glyphs.LETTERS`` in 24 latents."""
    from gdm_lib.vae.vae import VAE

    return VAE.mlp((1, 32, 32), 24, hidden=(384,), activation=nn.ReLU)
