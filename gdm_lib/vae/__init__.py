"""Variational autoencoders.

A paper's models can be had from here, ``from gdm_lib.vae import VAE``, and all
that it has from its own module.
"""

from typing import TYPE_CHECKING

from gdm_lib._lazy import lazily

if TYPE_CHECKING:
    from gdm_lib.vae.vae import VAE as VAE
    from gdm_lib.vae.vqvae import VQVAE as VQVAE

__getattr__, __dir__ = lazily(
    __name__,
    {
        "vae": ["VAE"],
        "vqvae": ["VQVAE"],
    },
)
