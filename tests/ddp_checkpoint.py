"""Run by ``test_fit_processes.py``: two processes that were given different things.

``ddp_checkpoint.py OUT``: each process writes ``OUT.RANK``, what every case of ``cases`` ended in.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from gdm_lib.bijections import BatchNorm
from gdm_lib.training import fit

X = torch.randn(16, 3, generator=torch.Generator().manual_seed(1))


class Mean(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.w, self.layers = nn.Parameter(torch.zeros(3)), nn.ModuleList(layers)

    def loss(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        for layer in self.layers:
            out = layer(x)
            x = out[0] if isinstance(out, tuple) else out
        return {"loss": (self.w - x).square().mean()}


class Poison(torch.optim.SGD):
    """Its third step breaks the weights."""

    taken = 0

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        super().step(closure)
        self.taken += 1
        if self.taken == 3:
            self.param_groups[0]["params"][0].data.fill_(float("nan"))


def cases(rank: int, folder: Path, fabric: Fabric) -> dict[str, Callable[[], Any]]:
    """What to do, by name."""
    ours, whole, damaged = folder / f"own.{rank}", folder / "whole", folder / f"damaged.{rank}"

    def run(model: nn.Module | None = None, data: Any = X, **settings: Any) -> list[float]:
        model = model or Mean()
        settings = {"steps": 8, "batch_size": 4, "fabric": fabric, "progress": False} | settings
        fit(model, data, **settings)
        return model.w.tolist()

    def missing() -> Any:
        run(steps=4, checkpoint=ours)  # only the first process writes
        return run(checkpoint=ours, resume=True)

    def other() -> Any:
        run(steps=4, checkpoint=folder / "own.0")
        run(steps=6, checkpoint=folder / "own.1")
        return run(checkpoint=ours, resume=True)

    def spoilt() -> Any:
        run(steps=4, checkpoint=whole)
        content = whole.read_bytes()
        damaged.write_bytes(
            content[:-4] + bytes(4 * rank) + content[-4 * (1 - rank) :] * (1 - rank)
        )
        return run(checkpoint=damaged, resume=True)

    def resumed() -> Any:
        expected = run()
        run(steps=4, checkpoint=whole)
        return run(checkpoint=whole, resume=True) == expected

    return {
        "missing": missing,
        "other": other,
        "spoilt": spoilt,
        "resumed": resumed,
        "seed": lambda: run(seed=rank),
        "steps": lambda: run(steps=8 + rank),
        "items": lambda: run(data=X[: 16 - 4 * rank]),
        "empty": lambda: run(data=X[: 16 - 16 * rank]),
        "unwritable": lambda: run(checkpoint=folder),
        "weights": lambda: run(optimizer=lambda parameters: Poison(parameters, lr=0.1)),
        "torch's batch norm": lambda: run(Mean(nn.BatchNorm1d(3))),
        "instance norm": lambda: run(
            Mean(nn.Unflatten(1, (1, 3)), nn.InstanceNorm1d(1, track_running_stats=True))
        ),
        "batch norm": lambda: len(run(Mean(BatchNorm(3)))),
        "loader": lambda: run(data=DataLoader(TensorDataset(X), 4), batch_size=None),
    }


def main(out: str) -> None:
    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp")
    fabric.launch()
    told: dict[str, Any] = {}
    for name, case in cases(fabric.global_rank, Path(out).parent, fabric).items():
        try:
            told[name] = case()
        except Exception as error:
            told[name] = f"{type(error).__name__}: {error}"
    Path(f"{out}.{fabric.global_rank}").write_text(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1])
