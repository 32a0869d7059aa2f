"""Run by ``test_fit_adversarial.py``, alone or as one of two: ``... PROCESSES OUT``.

A WGAN-GP (1704.00028) that is a function of its data: latents and interpolation weights are columns
of ``y``, so that one process and two compute the same.
"""

import json
import sys

import torch
from lightning_fabric import Fabric
from safetensors.torch import save_file
from torch import Tensor, nn

from gdm_lib.training import fit_adversarial


class Game(nn.Module):
    """``y`` is ``(B, 3)``: two latents and the weight of the interpolation."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2))
        self.discriminator = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))

    def discriminator_loss(self, real: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        assert y is not None
        with torch.no_grad():
            made = self.generator(y[:, :2])
        between = (y[:, 2:] * real + (1 - y[:, 2:]) * made).requires_grad_()
        (slope,) = torch.autograd.grad(
            self.discriminator(between).sum(), between, create_graph=True
        )
        penalty = (slope.norm(dim=1) - 1).square().mean()
        gap = self.discriminator(made).mean() - self.discriminator(real).mean()
        return {"loss": gap + 10 * penalty, "penalty": penalty.detach()}

    def generator_loss(self, n: int, y: Tensor | None = None) -> dict[str, Tensor]:
        assert y is not None
        assert len(y) == n
        return {"loss": -self.discriminator(self.generator(y[:, :2])).mean()}


def main(processes: int, out: str) -> None:
    fabric = Fabric(
        accelerator="cpu", devices=processes, strategy="ddp" if processes > 1 else "auto"
    )
    fabric.launch()
    assert fabric.world_size == processes
    torch.manual_seed(0)
    model = Game()
    data = torch.randn(48, 2, generator=torch.Generator().manual_seed(1))
    noise = torch.rand(48, 3, generator=torch.Generator().manual_seed(2))
    history = fit_adversarial(
        model,
        (data, noise),
        steps=10,
        batch_size=16,
        critic_steps=3,
        accumulate=2,
        ema=0.9,
        clip_grad_norm=0.5,
        measure=lambda model: {"mean": model.generator(noise[:, :2]).mean()},
        measure_every=1,
        checkpoint=out + ".checkpoint",
        fabric=fabric,
        progress=False,
    )
    assert history.ema is not None
    if fabric.is_global_zero:
        tensors = dict(model.state_dict())
        tensors |= {f"ema.{name}": value for name, value in history.ema.state_dict().items()}
        save_file(tensors, out, {"logged": json.dumps(history.train | history.measured)})


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
