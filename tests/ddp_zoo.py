"""Run by ``test_processes.py``, alone or as one of two processes: ``ddp_zoo.py PROCESSES OUT``.

Trains every model of the zoo for a few steps and writes the weights and buffers of each process,
and what was logged, to a folder.
"""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from safetensors.torch import save_file
from torch import Tensor
from torch.optim import SGD

from gdm_lib.training import fit
from tests.zoo import ZOO, made


def same_for_all(shape: Any, low: float, high: float) -> Tensor:
    """What stands in for noise: it depends on the last dimension alone, so that an item gets the
    same in a whole batch as in a part of one."""
    last = shape[-1] if shape else 1
    return (low + (high - low) * (torch.arange(last) * 0.618 % 1)).expand(shape).clone()


def without_noise() -> None:
    def rand(*shape: Any, **_: Any) -> Tensor:
        return same_for_all(shape[0] if isinstance(shape[0], tuple | list) else shape, 0, 1)

    def randn(*shape: Any, **_: Any) -> Tensor:
        return same_for_all(shape[0] if isinstance(shape[0], tuple | list) else shape, -1, 1)

    def randint(*args: Any, **_: Any) -> Tensor:
        return torch.zeros(args[-1], dtype=torch.int64)

    torch.rand, torch.randn, torch.randint = rand, randn, randint
    torch.rand_like = lambda like, **_: same_for_all(like.shape, 0, 1)


def main(processes: int, out: str) -> None:
    strategy = "ddp" if processes > 1 else "auto"
    fabric = Fabric(accelerator="cpu", devices=processes, strategy=strategy)
    fabric.launch()
    assert fabric.world_size == processes
    models = {name: made(name) for name in ZOO}
    data = {name: ZOO[name].data(24) for name in ZOO}
    without_noise()
    logged = {}
    for name, model in models.items():
        x, y = data[name]
        history = fit(
            model,
            x if y is None else (x, y),
            steps=3,
            batch_size=8,
            optimizer=partial(SGD, lr=0.02),
            fabric=fabric,
            progress=False,
        )
        logged[name] = history.train
        state = {key: value.contiguous().clone() for key, value in model.state_dict().items()}
        save_file(state, Path(out) / f"{name}.{fabric.global_rank}")
    if fabric.is_global_zero:
        (Path(out) / "logged.json").write_text(json.dumps(logged))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
