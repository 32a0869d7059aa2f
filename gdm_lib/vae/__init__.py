"""Variational autoencoders.

A paper's models can be had from here, ``from gdm_lib.vae import VAE``, and all
that it has from its own module.
"""

from typing import TYPE_CHECKING

from gdm_lib._lazy import lazily

if TYPE_CHECKING:
    from gdm_lib.vae.vae import VAE as VAE
    from gdm_lib.vae.vqvae import VQVAE as VQVAE
    from gdm_lib.vae.vqvae2 import VQVAE2 as VQVAE2
    from gdm_lib.vae.vqvae2 import BottomPrior as BottomPrior
    from gdm_lib.vae.vqvae2 import TopPrior as TopPrior

__getattr__, __dir__ = lazily(
    __name__,
    {
        "vae": ["VAE"],
        "vqvae": ["VQVAE"],
        "vqvae2": ["VQVAE2", "BottomPrior", "TopPrior"],
    },
)
