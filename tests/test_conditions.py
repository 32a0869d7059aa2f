"""``y`` is what a caller has, the same in every method of every model."""

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gdm_lib.autoregressive import MADE
from gdm_lib.bijections import Dequantise, Flow, OneHot
from gdm_lib.flows import IAF, MAF, NICE, Glow, RealNVP, maf_mog
from gdm_lib.flows.nice import inpaint
from gdm_lib.nn import ClassEmbedding
from tests.helpers import seeded, shaken
from tests.zoo import CLASSES, LEVELS, ZOO, made

CONDITIONAL = [name for name in ZOO if ZOO[name].classes]
UNTOLD = {("vqvae_of_y", "encode"): "its codes leave out what y says, and need no y"}
PUBLIC = ("loss", "log_prob", "sample", "encode", "decode", "draw", "complete", "generate")


def flows(**options: Any) -> dict[str, Flow]:
    """Every flow that takes a condition, with it."""
    return {
        "nice": NICE((4,), hidden=(8,), **options),
        "nice_levels": NICE((1, 2, 2), hidden=(8,), dequantise=Dequantise(LEVELS), **options),
        "realnvp": RealNVP.vector(4, hidden=(8,), couplings=2, **options),
        "realnvp_image": RealNVP.image((1, 4, 4), levels=LEVELS, hidden=4, blocks=1, **options),
        "maf": MAF(4, layers=2, hidden=(8,), **options),
        "maf_mog": maf_mog(4, layers=1, hidden=(8,), components=2, **options),
        "iaf": IAF(4, hidden=(8,), **options),
        "glow": Glow((1, 4, 4), levels=LEVELS, steps=1, hidden=4, **options),
    }


def built(name: str, options: dict[str, Any]) -> Flow:
    """One of them, with the same weights each time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return shaken(flows(**options)[name], 0.2).eval()


def data_of(flow: Flow, n: int) -> Tensor:
    shape = (n, *flow.data_shape)
    if flow.dequantise is None:
        return torch.randn(shape, generator=seeded())
    return torch.randint(LEVELS, shape, generator=seeded()) / (LEVELS - 1)


@pytest.mark.parametrize("name", ZOO)
def test_public_methods_call_it_y(name):
    model = made(name)
    for method in (*PUBLIC, "posterior", "importance_log_prob", "log_prob_of_order"):
        if not hasattr(model, method):
            continue
        names = inspect.signature(getattr(model, method)).parameters
        assert "context" not in names, method
        if method in PUBLIC and ZOO[name].classes and (name, method) not in UNTOLD:
            assert "y" in names, method


@pytest.mark.parametrize("name", flows())
@pytest.mark.parametrize(
    ("options", "y"),
    [
        (lambda: {"context_dim": 3, "embed": OneHot(3)}, torch.tensor([0, 2, 1, 1])),
        (lambda: {"context_dim": 5, "embed": ClassEmbedding(3, 5)}, torch.tensor([0, 2, 1, 1])),
        (lambda: {"context_dim": 2}, torch.linspace(-1, 1, 8).view(4, 2)),
    ],
    ids=["labels", "learned", "context"],
)
def test_encode_and_decode_take_what_log_prob_and_sample_take(name, options, y):
    flow = built(name, options())
    x = data_of(flow, 4)
    with torch.no_grad():
        z = flow.encode(x, y, generator=seeded(1))
        torch.testing.assert_close(flow.decode(z, y), x, rtol=1e-3, atol=1e-3)
        other = flow.encode(x, y.roll(1, 0), generator=seeded(1))
        assert not torch.allclose(other, z, atol=1e-4)
        log_prob = flow.log_prob(x, y, generator=seeded(1))
        assert not torch.allclose(
            log_prob, flow.log_prob(x, y.roll(1, 0), generator=seeded(1)), atol=1e-4
        )
        drawn, log_q = flow.draw(4, y, generator=seeded(2))
        assert drawn.shape == x.shape
        assert log_q.shape == (4,)
    flow.loss(x, y)["loss"].backward()


@pytest.mark.parametrize("name", CONDITIONAL)
def test_k_samples_of_each_condition(name):
    """The way that is documented: item ``i`` has the condition of row ``i``."""
    model = shaken(made(name), 0.1).eval()
    y = torch.tensor([2, 0])
    drawn = model.sample(6, y.repeat_interleave(3, 0), generator=seeded())
    assert drawn.shape == (6, *ZOO[name].shape)
    with pytest.raises(ValueError, match=r"y must have one row for each of 6 items, got 2") as told:
        model.sample(6, y)
    assert "for 3 items of each condition take y.repeat_interleave(3, 0)" in str(told.value)
    with pytest.raises(ValueError, match=r"for 6 items of each .* y.repeat_interleave\(6, 0\)"):
        model.sample(6, y[:1])
    for n, rows in ((5, y), (1, y), (0, y)):
        with pytest.raises(ValueError, match=f"one row for each of {n} items, got 2$"):
            model.sample(n, rows)


@pytest.mark.parametrize("name", CONDITIONAL)
def test_each_row_of_y_conditions_its_own_item(name):
    model, (x, _) = shaken(made(name), 0.3).eval(), ZOO[name].data(6)
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    with torch.no_grad():
        torch.manual_seed(0)
        together = model.log_prob(x, labels)
        torch.manual_seed(0)
        swapped = model.log_prob(x, labels.roll(1))
        assert not torch.allclose(together, swapped, atol=1e-5)
        if not model.bound:  # else a batch of its own has other noise
            for i in range(6):
                alone = model.log_prob(x[i : i + 1], labels[i : i + 1])
                torch.testing.assert_close(alone[0], together[i], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", CONDITIONAL)
@pytest.mark.parametrize("method", ["log_prob", "loss", "sample", "encode", "decode", "draw"])
def test_bad_conditions_are_refused_by_name_in_every_method(name, method):
    model, (x, y) = made(name), ZOO[name].data(4)
    if not hasattr(model, method) or (name, method) in UNTOLD:
        pytest.skip("it has no such method, or one without y")
    first: Any = x
    if method in ("sample", "draw"):
        first = 4
    if method == "decode":
        first = model.encode(x) if (name, "encode") in UNTOLD else model.encode(x, y)
    call = getattr(model, method)
    for bad in (
        None, y.tolist(), 1, y[0], y[:3], y[:0], y + CLASSES, y - CLASSES, y.float() + 0.5,
        y[:, None].repeat(1, 2), torch.full((4,), torch.nan), y.bool(), y.to(torch.complex64), "y",
    ):  # fmt: skip
        with pytest.raises((ValueError, TypeError), match=r"^y must"):
            call(first, bad)
    with pytest.raises((ValueError, TypeError), match=r"y must be None"):
        made("maf").log_prob(torch.zeros(4, 4), y)
    for kind in (torch.int32, torch.int16, torch.uint8):
        call(first, y.to(kind))


def test_a_context_that_is_none_is_refused_by_name():
    flow = MAF(4, context_dim=3)
    x = torch.zeros(2, 4)
    for bad, told in (
        (torch.tensor([0, 1]), r"y must be a context of floating point.*embed=OneHot\(3\)"),
        (torch.zeros(2, 2), r"y must give a context of 3 features, \(B, 3\), got \(2, 2\)"),
        (torch.zeros(2), r"y must give a context of 3 features"),
        (torch.zeros(2, 3, 1), r"y must give a context of 3 features"),
        (torch.zeros(3, 3), "y must have one row for each of 2 items, got 3"),
    ):
        with pytest.raises(ValueError, match=told):
            flow.log_prob(x, bad)
    one_hot = MAF(4, context_dim=3, embed=OneHot(3))  # the cure
    assert one_hot.log_prob(x, torch.tensor([0, 1])).shape == (2,)
    assert flow.log_prob(x, torch.zeros(2, 3, dtype=torch.float64)).dtype == torch.float32


@pytest.mark.parametrize(
    "make", [MAF, IAF, maf_mog, RealNVP.vector, lambda d, **o: NICE((d,), **o),
             lambda d, **o: MADE((d,), **o)]
)  # fmt: skip
def test_an_embed_without_use_is_refused_when_the_model_is_made(make):
    with pytest.raises(ValueError, match="context_dim must be as many features as embed puts out"):
        make(4, embed=OneHot(3))
    with pytest.raises(TypeError, match=r"embed must be a module, got the class OneHot; make one"):
        make(4, context_dim=3, embed=OneHot)
    with pytest.raises(TypeError, match="context_dim must be a whole number"):
        make(4, context_dim=3.0, embed=OneHot(3))


def test_nice_learns_a_density_for_each_label():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = NICE((2,), hidden=(16,), context_dim=2, embed=OneHot(2))
        y = torch.arange(2).repeat(200)
        x = 0.3 * torch.randn(400, 2) + 3.0 * y[:, None]
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        for _ in range(150):
            optimizer.zero_grad()
            model.loss(x, y)["loss"].backward()
            optimizer.step()
        drawn = model.sample(400, y)
    for k in (0, 1):
        assert float(drawn[y == k].mean()) == pytest.approx(3.0 * k, abs=0.4)
    with torch.no_grad():
        assert (model.log_prob(x, y) > model.log_prob(x, 1 - y)).float().mean() > 0.97


def test_inpainting_of_a_conditional_flow():
    model = shaken(NICE((4,), hidden=(8,), context_dim=2, embed=OneHot(2)), 0.3).eval()
    x, observed = torch.zeros(2, 4), torch.tensor([True, True, False, False])
    filled = [
        inpaint(model, x, observed, y, steps=5, generator=seeded())
        for y in (torch.tensor([0, 1]), torch.tensor([1, 1]))
    ]
    assert not torch.equal(filled[0][0], filled[1][0])
    assert torch.equal(filled[0][1], filled[1][1])
    with pytest.raises(ValueError, match="y must have one row for each of 2 items, got None"):
        inpaint(model, x, observed)


def test_an_embed_may_be_any_network():
    """``y`` is what it takes: here a vector of numbers."""
    model = MAF(3, context_dim=4, embed=nn.Linear(2, 4))
    y = torch.randn(5, 2, generator=seeded())
    x = model.sample(5, y)
    z = model.encode(x, y)
    torch.testing.assert_close(model.decode(z, y), x, rtol=1e-3, atol=1e-3)
