"""Every model can be pickled, copied, saved, sent, cast and compiled."""

import copy
import io
import multiprocessing
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gdm_lib import _tensorfile
from tests import persisted
from tests.helpers import seeded, shaken
from tests.persisted import density
from tests.zoo import ZOO, made

EVERY = pytest.mark.parametrize("name", ZOO)


def moved(name: str) -> tuple[Any, Tensor, Tensor | None]:
    """A model whose weights and statistics are not those that it is made with, and data."""
    x, y = ZOO[name].data(6)
    model = made(name)
    model.loss(x, y)  # what looks at its first batch has done so
    return shaken(model, 0.1).eval(), x, y


def assert_same(model: nn.Module, twin: nn.Module, x: Tensor, y: Tensor | None) -> None:
    for name, value in model.state_dict().items():
        assert torch.equal(twin.state_dict()[name], value), name
    assert torch.equal(density(twin, x, y), density(model, x, y))
    first, second = (
        m.sample(3, None if y is None else y[:3], generator=seeded()) for m in (model, twin)
    )
    assert torch.equal(first, second)


@EVERY
def test_pickled(name):
    model, x, y = moved(name)
    assert_same(model, pickle.loads(pickle.dumps(model)), x, y)


@EVERY
def test_copied(name):
    model, x, y = moved(name)
    twin = copy.deepcopy(model)
    assert_same(model, twin, x, y)
    before = density(model, x, y)
    with torch.no_grad():
        for p in twin.parameters():
            p.add_(0.5)
    assert torch.equal(density(model, x, y), before), "the copy shares the weights"


@EVERY
def test_trained_after_a_pickle(name):
    """What comes out is a model like any other: all its parameters get gradients."""
    model, x, y = moved(name)
    twin = pickle.loads(pickle.dumps(model))
    grads = []
    for m in (model, twin):
        torch.manual_seed(0)
        m.loss(x, y)["loss"].backward()
        grads.append({k: p.grad for k, p in m.named_parameters()})
    for k, grad in grads[0].items():
        assert (grad is None) == (grads[1][k] is None), k
        assert grad is None or torch.equal(grads[1][k], grad), k


@EVERY
def test_saved_whole(name, tmp_path):
    model, x, y = moved(name)
    torch.save(model, tmp_path / "model.pt")
    assert_same(model, torch.load(tmp_path / "model.pt", weights_only=False), x, y)


@EVERY
def test_saved_as_a_state(name):
    model, x, y = moved(name)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    twin = made(name, seed=1)
    assert not torch.equal(density(twin, x, y), density(model, x, y))
    twin.load_state_dict(torch.load(file, weights_only=True))
    assert_same(model, twin, x, y)


@EVERY
def test_saved_as_safetensors(name, tmp_path):
    model, x, y = moved(name)
    path = Path(tmp_path / "model.safetensors")
    _tensorfile.write(path, model.state_dict(), {})
    twin = made(name, seed=1)
    _tensorfile.load_state(twin, _tensorfile.read(path)[0], path)
    assert_same(model, twin, x, y)


def test_sent_to_another_process():
    """All in one, because a process takes seconds to start."""
    sent = {name: moved(name) for name in ZOO}
    expected = {name: density(*asked) for name, asked in sent.items()}
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=persisted.answer, args=(sent, queue))
    process.start()
    found = queue.get(timeout=120)
    process.join()
    assert process.exitcode == 0
    for name, values in expected.items():
        torch.testing.assert_close(torch.tensor(found[name]), values, msg=name)


@EVERY
def test_in_double_precision(name, monkeypatch):
    """The same values to single precision, given the same noise."""
    for kind in ("rand", "randn"):
        drawn = getattr(torch, kind)

        def single(*shape: Any, dtype: Any = None, drawn: Any = drawn, **options: Any) -> Tensor:
            return drawn(*shape, dtype=torch.float32, **options).to(dtype)

        monkeypatch.setattr(torch, kind, single)
    model, x, y = moved(name)
    expected = density(model, x, y)
    model.to(torch.float64)
    found = density(model, x.double() if x.is_floating_point() else x, y)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found.float(), expected, rtol=1e-4, atol=1e-4)
    drawn = model.sample(3, None if y is None else y[:3])
    assert drawn.dtype == (torch.float64 if x.is_floating_point() else torch.int64)


VALUES = "what x holds is looked at: bits, levels or grey values that are none are refused"
LABELS = "what y holds is looked at: labels out of range are refused"
LOOP = "its density goes variable by variable"
NOT_WHOLE = {
    "vae": VALUES,
    "flow_vae": VALUES,
    "vae_levels": VALUES,
    "vqvae": VALUES,
    "vqvae_averaged": VALUES,
    "vqvae_of_y": VALUES,
    "vqvae2": VALUES,
    "vqvae2_of_three_levels": VALUES,
    "vqvae2_with_priors": VALUES,
    "vqvae2_top_prior": VALUES,
    "nice_of_y": LABELS,
    "nice_levels": VALUES,
    "realnvp_of_y": LABELS,
    "realnvp_image": VALUES,
    "maf_of_y": LABELS,
    "iaf": LOOP,
    "iaf_of_y": LOOP,
    "glow": VALUES,
    "glow_of_y": VALUES,
    "made": VALUES,
    "made_of_y": LABELS,
    "made_levels": VALUES,
    "made_direct": VALUES,
    "pixelcnn": VALUES,
    "row_lstm": VALUES,
    "diagonal_bilstm": VALUES,
    "gated_pixelcnn": VALUES,
    "gated_pixelcnn_of_categories": VALUES,
    "pixelcnn_pp": VALUES,
    "wavenet": VALUES,
}
"""Models whose density isn't one graph, and why; they are compiled in pieces."""


@EVERY
@pytest.mark.filterwarnings("ignore")
def test_compiled(name):
    """For any size of batch, as it is done from the second size on that comes."""
    model, _, _ = moved(name)
    torch._dynamo.reset()
    whole = name not in NOT_WHOLE
    compiled = torch.compile(model.log_prob, fullgraph=whole, dynamic=True, backend="eager")
    for n in (6, 4):
        x, y = ZOO[name].data(n)
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(0)
            found = compiled(x, y)
        torch.testing.assert_close(found, density(model, x, y))
