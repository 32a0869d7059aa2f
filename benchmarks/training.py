"""What the training loop costs beside the bare loop that it replaces."""

from __future__ import annotations

import torch
from torch.optim import Adam

from benchmarks import Result, in_turn
from gdm_lib.training import fit
from gdm_lib.vae.vae import VAE

__all__ = ["BENCHMARKS", "fit_loop"]

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
    return [Result("fit_loop", ours_s, "bare torch loop", torch.__version__, bare_s, target=0.9)]


BENCHMARKS = {"fit_loop": fit_loop}
