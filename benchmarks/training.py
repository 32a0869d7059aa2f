"""What the training loops cost beside the bare loops that they replace."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim import Adam

from benchmarks import Result, in_turn
from gdm_lib.adversarial import Adversarial
from gdm_lib.training import fit, fit_adversarial
from gdm_lib.vae.vae import VAE

__all__ = ["BENCHMARKS", "fit_adversarial_loop", "fit_loop"]

STEPS = 200


def fit_loop() -> list[Result]:
    """``fit`` against a bare loop, 200 steps of the paper's VAE on images of MNIST's size."""
    x = (torch.rand(1000, 1, 28, 28, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    model = VAE.mlp((1, 28, 28), 20)

    def bare() -> None:
        optimizer = Adam(model.parameters(), lr=1e-3)
        for step in range(STEPS):
            if step % 10 == 0:
                order = torch.randperm(len(x))
            rows = order[step % 10 * 100 :][:100]
            optimizer.zero_grad()
            model.loss(x[rows])["loss"].backward()
            optimizer.step()

    def ours() -> None:
        fit(model, x, steps=STEPS, batch_size=100, progress=False)

    ours_s, bare_s = in_turn(ours, bare)
    return [Result("fit_loop", ours_s, "bare torch loop", torch.__version__, bare_s, target=0.95)]


def fit_adversarial_loop() -> list[Result]:
    """``fit_adversarial`` against a bare loop: 200 steps of a small DCGAN on 16x16 images."""
    x = torch.randn(1024, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    generator = nn.Sequential(
        nn.Linear(32, 32 * 16), nn.ReLU(), nn.Unflatten(1, (32, 4, 4)),
        nn.ConvTranspose2d(32, 16, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(16, 1, 4, 2, 1),
    )  # fmt: skip
    discriminator = nn.Sequential(
        nn.Conv2d(1, 16, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(16, 32, 4, 2, 1),
        nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(32 * 16, 1),
    )  # fmt: skip
    model = Adversarial(generator, discriminator, 32)

    def bare() -> None:
        sides = (model.discriminator, model.generator)
        optimizers = [Adam(side.parameters(), lr=2e-4, betas=(0.5, 0.999)) for side in sides]
        for step in range(STEPS):
            if step % 16 == 0:
                order = torch.randperm(len(x))
            rows = order[step % 16 * 64 :][:64]
            optimizers[0].zero_grad()
            model.discriminator_loss(x[rows])["loss"].backward()
            optimizers[0].step()
            optimizers[1].zero_grad()
            model.generator_loss(64)["loss"].backward()
            optimizers[1].step()

    def ours() -> None:
        fit_adversarial(model, x, steps=STEPS, batch_size=64, progress=False)

    ours_s, bare_s = in_turn(ours, bare)
    peer = "bare torch loop of two optimizers"
    return [Result("fit_adversarial_loop", ours_s, peer, torch.__version__, bare_s, target=0.95)]


BENCHMARKS = {"fit_loop": fit_loop, "fit_adversarial_loop": fit_adversarial_loop}
