"""No autoregressive model is made of what it can't be made of."""

from typing import Any

import pytest

from gdm_lib.autoregressive import GatedPixelCNN, PixelCNN, PixelCNNpp, PixelRNN, WaveNet
from gdm_lib.likelihoods import (
    Categorical,
    DiscretizedLogisticMixture,
    MixtureOfGaussians,
    Softmax,
)
from gdm_lib.nn import ClassEmbedding
from tests.inputs.follow import refusal

MASKED = {"data_shape": (1, 3, 3), "levels": 3, "h": 4, "layers": 1, "head": 4, "kernel": 3}
GATED = {"data_shape": (1, 3, 3), "levels": 3, "p": 4, "layers": 1, "first_kernel": 3}
PP = {"data_shape": (1, 4, 4), "levels": 3, "components": 2, "features": 4, "blocks": 1}
SOUND = {"data_shape": (6,), "levels": 3, "residual": 4, "skip": 4, "dilations": (1,)}
IMAGE: list[Any] = [9, (3, 3), (0, 3, 3), (1, 0, 3), (1, 3, 3.0), (-1, 3, 3), None, (1, 1, 3, 3)]
FEW: list[Any] = [0, -1, 2.0, None, True, "4"]
LEVELS: list[Any] = [1, 0, -1, 2.0, None]
DEPTH: list[Any] = [-1, 1.0, None]
CONTEXT: list[Any] = [-1, 2.0, True, None]

WRONG: dict[Any, tuple[dict[str, Any], dict[str, list[Any]]]] = {
    PixelCNN: (
        MASKED,
        {"data_shape": IMAGE, "levels": LEVELS, "h": FEW, "layers": DEPTH, "head": FEW,
         "kernel": [2, 0, -1, 3.0, (3, 3)]},
    ),
    PixelRNN: (
        MASKED,
        {"data_shape": IMAGE, "levels": LEVELS, "h": FEW, "layers": DEPTH, "head": FEW,
         "kernel": [2, 0, -1, 3.0, (3, 3)]},
    ),
    GatedPixelCNN: (
        GATED,
        {"data_shape": IMAGE, "levels": LEVELS, "p": FEW, "layers": DEPTH, "head": FEW[:3],
         "kernel": [2, 0, -1, 3.0], "first_kernel": [1, 2, -1, 3.0], "context_dim": CONTEXT},
    ),
    PixelCNNpp: (
        PP,
        {"data_shape": IMAGE, "levels": LEVELS, "components": FEW, "features": FEW, "blocks": FEW,
         "strides": [2, (3,), (0,), (1.0,), None], "dropout": [-0.1, 1.1, None, "some"],
         "context_dim": CONTEXT},
    ),
    WaveNet: (
        SOUND,
        {"data_shape": [9, (3, 3), (0,), (3.0,), (-1,), None, ()], "levels": LEVELS,
         "residual": FEW, "skip": FEW, "dilations": [(), (0,), 2, (1.5,), (-1,), None],
         "context_dim": CONTEXT},
    ),
    Categorical: ({"levels": 3}, {"levels": LEVELS}),
    Softmax: ({"levels": 3}, {"levels": LEVELS, "channels": FEW}),
    MixtureOfGaussians: ({}, {"components": FEW}),
    DiscretizedLogisticMixture: (
        {"levels": 3}, {"levels": LEVELS, "components": FEW, "channels": FEW},
    ),
    ClassEmbedding: ({"classes": 3, "features": 4}, {"classes": FEW, "features": FEW}),
}  # fmt: skip


@pytest.mark.parametrize(
    ("model", "name"), [(model, name) for model, (_, wrong) in WRONG.items() for name in wrong]
)
def test_the_argument_is_named(model, name):
    right, wrong = WRONG[model]
    model(**right)
    for value in wrong[name]:
        message = refusal(lambda value=value: model(**{**right, name: value}))
        assert message.startswith(f"{name} ") or message.startswith(f"{name}["), message


@pytest.mark.parametrize(
    ("model", "right"), [(GatedPixelCNN, GATED), (PixelCNNpp, PP), (WaveNet, SOUND)]
)
def test_an_embedding_that_nothing_would_hear_is_refused(model, right):
    embed = ClassEmbedding(3, 5)
    message = refusal(lambda: model(**right, embed=embed))
    assert message.startswith("context_dim must be as many features as embed puts out")
    model(**right)  # embed left out
    model(**right, embed=embed, context_dim=5)
