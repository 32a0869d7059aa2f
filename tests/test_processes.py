"""Every model trained by two processes is the one that a single process trains."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gdm_lib.bijections import BatchNorm
from gdm_lib.flows.glow import ActNorm
from gdm_lib.nn import moments, several_processes
from tests.helpers import normal
from tests.zoo import ZOO, made


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Folders of what one process and two made of every model."""
    root = str(Path(__file__).parents[1])
    path = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
    env = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": path}
    command = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("ddp_zoo.py"))]
    folders = {n: tmp_path_factory.mktemp(f"processes{n}") for n in (1, 2)}
    for n, folder in folders.items():
        subprocess.run(
            [*command, str(n), str(folder)], env=env, check=True, timeout=240, capture_output=True
        )
    return folders


@pytest.mark.parametrize("name", ZOO)
def test_two_processes_train_like_one(name, runs):
    """Weights, and the buffers of both processes: running averages, what actnorm has seen."""
    one = load_file(runs[1] / f"{name}.0")
    start = made(name).state_dict()
    assert any(not torch.equal(one[key], start[key]) for key in start)
    for rank in (0, 1):
        two = load_file(runs[2] / f"{name}.{rank}")
        for key, value in one.items():
            torch.testing.assert_close(two[key], value, rtol=1e-5, atol=2e-6, msg=key)
    first, second = (load_file(runs[2] / f"{name}.{rank}") for rank in (0, 1))
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", ZOO)
def test_what_two_processes_log_is_what_one_logs(name, runs):
    one, two = (json.loads((runs[n] / "logged.json").read_text())[name] for n in (1, 2))
    for term, values in one.items():
        torch.testing.assert_close(
            torch.tensor(two[term]), torch.tensor(values), rtol=1e-5, atol=1e-5
        )


def test_the_zoo_has_what_shares_statistics():
    kinds = {type(part) for name in ZOO for part in made(name).modules()}
    assert {BatchNorm, ActNorm} <= kinds


@pytest.mark.parametrize("shape", [(40, 3), (10, 3, 2, 5)])
def test_moments_of_one_process_are_those_of_its_batch(shape):
    x = (4 * normal(*shape) + 3).requires_grad_()
    assert not several_processes()
    mean, var = moments(x)
    over = [0, *range(2, x.ndim)]
    torch.testing.assert_close(mean, x.mean(over))
    torch.testing.assert_close(var, x.var(over, correction=0))
