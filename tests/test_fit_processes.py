"""Processes that were given different things: every one says so, and none trains on alone."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric

from gdm_lib.training import fit
from tests.ddp_checkpoint import Mean, X


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    out = tmp_path_factory.mktemp("processes") / "told"
    root = str(Path(__file__).parents[1])
    env = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": root}
    script = str(Path(__file__).with_name("ddp_checkpoint.py"))
    subprocess.run(
        [sys.executable, "-W", "ignore", script, str(out)],
        env=env, check=True, timeout=240, capture_output=True,
    )  # fmt: skip
    return [json.loads(Path(f"{out}.{rank}").read_text()) for rank in (0, 1)]


ALONE = "RuntimeError: process {} can't go on, and no other does without it"


@pytest.mark.parametrize(
    ("case", "messages"),
    [
        ("missing", ["ValueError: checkpoint must be the same on all 2 processes, and is step 4",
                     "ValueError: checkpoint must be the same on all 2 processes, and is no file"]),
        ("other", ["ValueError: checkpoint must be the same on all 2 processes, and is step 4",
                   "ValueError: checkpoint must be the same on all 2 processes, and is step 6"]),
        ("spoilt", [ALONE.format(1), "ValueError: checkpoint"]),
        ("seed", ["ValueError: seed must be the same on all 2 processes, and is 0 on process 0",
                  "ValueError: seed must be the same on all 2 processes, and is 1 on process 1"]),
        ("steps", ["ValueError: steps must be the same on all 2 processes, and is 8",
                   "ValueError: steps must be the same on all 2 processes, and is 9"]),
        ("items", ["ValueError: items must be the same", "ValueError: items must be the same"]),
        ("empty", [ALONE.format(1), "ValueError: data must have at least one item"]),
        ("unwritable", ["ValueError: checkpoint", ALONE.format(0)]),
        ("weights", ["NonFiniteLossError: In step 4, term \"loss\" is nan"] * 2),
        ("torch's batch norm", ["ValueError: model.layers.0 is an nn.BatchNorm1d, whose"] * 2),
        ("instance norm", ["ValueError: model.layers.1 is an nn.InstanceNorm1d, whose"] * 2),
        ("loader", ["ValueError: data can't be a DataLoader on 2 processes"] * 2),
    ],
)  # fmt: skip
def test_two_processes_agree_before_anything_starts(
    told: list[dict[str, Any]], case: str, messages: list[str]
) -> None:
    for process, message in zip(told, messages, strict=True):
        assert str(process[case]).startswith(message), process[case]


def test_what_two_processes_share_goes_on(told: list[dict[str, Any]]) -> None:
    for process in told:
        assert process["resumed"] is True
        assert process["batch norm"] == 3
        assert "gdm_lib.bijections.BatchNorm" in process["torch's batch norm"]
        assert "SyncBatchNorm" not in process["torch's batch norm"]  # it needs a GPU


def test_a_fabric_that_was_not_launched_is_refused() -> None:
    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp")
    with pytest.raises(ValueError, match=r"fabric has 2 processes to start: call fabric.launch"):
        fit(Mean(), X, steps=1, batch_size=4, fabric=fabric, progress=False)
    assert not torch.distributed.is_initialized()
