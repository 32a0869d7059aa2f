"""The exported model is the torch model: held against ONNX's own reference evaluator."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch import nn

from gdm_lib import pretrained
from gdm_lib.widgets import export


def run(file, *arrays):
    evaluator = ReferenceEvaluator(onnx.load_from_string(file))
    return evaluator.run(None, dict(zip(evaluator.input_names, arrays, strict=True)))[0]


@pytest.fixture(scope="module")
def digits():
    model = pretrained.load("vae/mnist_2d")
    return model, export(model.decode_mean, (2,))


@pytest.mark.parametrize("batch", [1, 2, 11])
def test_reference_weights_take_half_the_room_and_give_the_same_pictures(digits, batch):
    model, file = digits
    z = torch.randn(batch, 2, generator=torch.Generator().manual_seed(batch))
    with torch.no_grad():
        expected = model.decode_mean(z).numpy()
    assert np.abs(run(file, z.numpy()) - expected).max() < 1e-5
    decoder = sum(p.numel() for p in model.decoder.parameters())
    assert 2 * decoder < len(file) < 2 * decoder + 5_000


def test_weights_that_16_bits_do_not_hold_stay_whole():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 3)).eval()
    file = export(model, (8,))
    assert len(file) > 4 * sum(p.numel() for p in model.parameters())
    x = torch.randn(5, 8)
    with torch.no_grad():
        assert np.abs(run(file, x.numpy()) - model(x).numpy()).max() < 1e-5


def test_the_batch_stays_free_where_the_model_asks_for_its_length():
    class Bent(nn.Module):
        def __init__(self):
            super().__init__()
            self.shift = nn.Parameter(torch.tensor([1.0, -1.0]))

        def forward(self, z):
            return (z + self.shift).reshape(len(z), 1, 2) + z.new_zeros(len(z))[:, None, None]

    model = Bent()
    file = export(model, (2,))
    for batch in (1, 2, 5):
        z = torch.randn(batch, 2)
        with torch.no_grad():
            assert np.abs(run(file, z.numpy()) - model(z).numpy()).max() < 1e-6


def test_several_arguments_with_one_free_batch():
    class Truncated(nn.Module):
        def __init__(self):
            super().__init__()
            self.mean = nn.Parameter(torch.tensor([1.0, -1.0, 0.5]))

        def decode(self, z, psi):
            return self.mean + psi[:, None] * (z - self.mean)

    model = Truncated()
    file = export(model.decode, (3,), ())
    z, psi = torch.randn(4, 3), torch.rand(4)
    with torch.no_grad():
        assert np.abs(run(file, z.numpy(), psi.numpy()) - model.decode(z, psi).numpy()).max() < 1e-6


def test_convolutions_and_normalisation():
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Unflatten(1, (4, 2, 2)),
        nn.ConvTranspose2d(4, 6, 4, 2, 1),
        nn.BatchNorm2d(6),
        nn.LeakyReLU(0.2),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(6, 3, 3, padding=1),
        nn.Tanh(),
    )
    model(torch.randn(32, 16))
    model.half().float().eval()
    file = export(model, (16,))
    kept = onnx.load_from_string(file).graph.initializer
    large = [tensor for tensor in kept if np.prod(tensor.dims) >= 16]
    assert {tensor.data_type for tensor in large} == {onnx.TensorProto.FLOAT16}
    z = torch.randn(3, 16)
    with torch.no_grad():
        assert np.abs(run(file, z.numpy()) - model(z).numpy()).max() < 1e-5


def test_the_file_tells_nothing_of_the_machine(digits):
    file = onnx.load_from_string(digits[1])
    assert not any(node.metadata_props or node.doc_string for node in file.graph.node)
    assert b"/gdm_lib" not in digits[1]


def test_bad_input_is_named():
    with pytest.raises(TypeError, match="function: expected a torch module, or a method of one"):
        export(lambda z: z, (2,))
    with pytest.raises(ValueError, match="function: torch could not export it"):
        export(nn.Linear(3, 4), (2,))
