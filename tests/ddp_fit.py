"""Run by ``test_training.py``, alone or as one of two processes: ``ddp_fit.py PROCESSES OUT``.

Fits a small deterministic density and writes its weights and history to ``OUT``.
"""

import json
import sys

import torch
from lightning_fabric import Fabric
from safetensors.torch import save_file
from torch import Tensor, nn

from gdm_lib.training import fit


class Density(nn.Module):
    """A Gaussian whose mean is a small network of half the vector: exact, without noise."""

    bound = False

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3))

    def loss(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        error = (x[:, 3:] - self.net(x[:, :3])).square().sum(1)
        return {"loss": 0.5 * error.mean(), "first": error.detach().mean()}


def main(processes: int, out: str) -> None:
    fabric = Fabric(
        accelerator="cpu", devices=processes, strategy="ddp" if processes > 1 else "auto"
    )
    fabric.launch()
    assert fabric.world_size == processes
    torch.manual_seed(0)
    model = Density()
    data = torch.randn(50, 6, generator=torch.Generator().manual_seed(1))
    history = fit(
        model,
        data,
        steps=20,
        batch_size=8,
        ema=0.9,
        clip_grad_norm=0.5,
        valid=data[:9],  # one item is left for the second batch: one process has none
        valid_every=10,
        checkpoint=out + ".checkpoint",
        fabric=fabric,
        progress=False,
    )
    assert type(model) is Density
    assert history.ema is not None
    if fabric.is_global_zero:
        tensors = dict(model.state_dict())
        tensors |= {f"ema.{name}": value for name, value in history.ema.state_dict().items()}
        logged = {"train": history.train, "valid": history.valid}
        save_file(tensors, out, {"logged": json.dumps(logged)})


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
