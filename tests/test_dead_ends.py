"""Models that could be made and then not used, and arguments of another kind than they must be:
each is refused by name when the model is made, or works, and what the message advises works."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from gdm_lib.autoregressive import MADE
from gdm_lib.bijections import (
    Affine,
    BatchNorm,
    Dequantise,
    OneHot,
    StandardNormal,
)
from gdm_lib.flows import IAF, MAF, NICE, FlowVAE, Glow, RealNVP, maf_mog
from gdm_lib.flows.iaf import iaf_chain
from gdm_lib.flows.planar_radial import FlowEncoder, Planar, Radial, free_energy
from gdm_lib.likelihoods import (
    Bernoulli,
    Categorical,
    DiscretizedLogisticMixture,
    Gaussian,
    MixtureOfGaussians,
    Softmax,
)
from gdm_lib.nn import ClassEmbedding, mlp
from gdm_lib.vae import VAE, VQVAE2
from gdm_lib.vae.vae import Decoder, Encoder
from tests.helpers import seeded, shaken
from tests.zoo import ZOO, made

Call = Callable[[], Any]

REFUSED: list[tuple[Call, str, Call | None]] = [
    # What is asked for, what is said of it, and what the message advises.
    (lambda: MAF(3, hidden=64), r"hidden must be .*got 64; one alone is \(64,\)", None),
    (lambda: maf_mog(3, hidden=64), r"hidden must be .*one alone is \(64,\)", None),
    (lambda: IAF(3, hidden=64), r"hidden must be .*one alone is \(64,\)", None),
    (lambda: iaf_chain(3, hidden=64), r"hidden must be .*one alone is \(64,\)", None),
    (lambda: MADE((3,), 64), r"hidden must be .*one alone is \(64,\)", lambda: MADE((3,), (64,))),
    (lambda: NICE((3,), hidden=64), r"hidden must be .*one alone is \(64,\)", None),
    (lambda: RealNVP.vector(3, hidden=64), r"hidden must be .*one alone is \(64,\)", None),
    (lambda: VAE.mlp((3,), 2, hidden=64), r"hidden must be .*one alone is \(64,\)", None),
    (lambda: FlowEncoder((3,), 2, 0, 64), r"hidden must be .*one alone is \(64,\)", None),
    (lambda: Encoder((3,), 2, 64), r"hidden must be .*one alone is \(64,\)", None),
    (lambda: Decoder(2, (3,), 64), r"hidden must be .*one alone is \(64,\)", None),
    (lambda: mlp(3), "sizes must be a sequence of ints, got 3", None),
    (lambda: MAF(3, hidden=(8, 0)), r"hidden\[1\] must be at least 1, got 0", None),
    (lambda: MAF(3, hidden=(8.0,)), r"hidden\[0\] must be a whole number .* got 8.0", None),
    (lambda: MAF(3, hidden=None), "hidden must be a sequence of ints, such as", None),
    (lambda: NICE(6), r"data_shape must be .*got 6; one alone is \(6,\)", lambda: NICE((6,))),
    (lambda: MADE(6), r"data_shape must be .*one alone is \(6,\)", lambda: MADE((6,))),
    (lambda: VAE.mlp(6, 2), r"data_shape must be .*one alone is \(6,\)", None),
    (lambda: FlowEncoder(6, 2, 3), r"data_shape must be .*one alone is \(6,\)", None),
    (lambda: StandardNormal(3), r"shape must be .*one alone is \(3,\)", None),
    (lambda: MAF((3,)), r"dim must be a whole number.*got \(3,\); take dim\[0\]", lambda: MAF(3)),
    (lambda: IAF((3,)), r"dim must be a whole number.*got \(3,\)", lambda: IAF(3)),
    (lambda: RealNVP.vector((3,)), r"dim must be a whole number.*got \(3,\)", None),
    (lambda: Planar((3,)), r"dim must be a whole number.*got \(3,\)", lambda: Planar(3)),
    (lambda: Radial(2.0), "dim must be a whole number.*got 2.0", lambda: Radial(2)),
    (lambda: MAF(0), "dim must be at least 1, got 0", None),
    (lambda: MAF(True), "dim must be a whole number", None),
    (lambda: MAF(3, layers=-1), "layers must be at least 0, got -1", None),
    (lambda: IAF(3, steps=2.0), "steps must be a whole number", None),
    (lambda: RealNVP.vector(1), "dim must be at least 2, got 1", lambda: RealNVP.vector(2)),
    (lambda: NICE((1,)), r"data_shape must have at least 2 .* take MAF\(1\) or IAF\(1\)",
     lambda: (MAF(1).sample(2), IAF(1).sample(2))),
    (lambda: NICE(()), "data_shape must have at least 2", None),
    (lambda: NICE((1, 1, 1)), "data_shape must have at least 2", None),
    (lambda: MADE((3,), orders=[0, 1, 2]), r"orders must be .*one order alone is \[order\]",
     lambda: MADE((3,), orders=[[0, 1, 2]])),
    (lambda: MADE((3,), orders=torch.arange(3)), "orders must be permutations", None),
    (lambda: MADE((3,), orders=[[0, 1, 2], [0, 1]]), "orders must be permutations", None),
    (lambda: MADE((3,), orders=3), "orders must be permutations of 0..2, got 3", None),
    (lambda: MADE((3,), orders=[[1, 2, 3]]), "orders must be permutations of 0..2", None),
    (lambda: MAF(3, order=[[0, 1, 2]]), "order must be a permutation of 0..2", None),
    (lambda: MAF(3, order=2), "order must be a permutation of 0..2, got 2", None),
    (lambda: Glow((1, 7, 7)), r"shape must be .*multiples of 4 .*got \(1, 7, 7\); pad",
     lambda: Glow((1, 8, 8))),
    (lambda: Glow((28, 28, 1)), r"channels come first: \(1, 28, 28\)", lambda: Glow((1, 28, 28))),
    (lambda: Glow((32, 32, 3)), r"channels come first: \(3, 32, 32\)", lambda: Glow((3, 32, 32))),
    (lambda: Glow((28, 28)), r"shape must be \(C, H, W\), got \(28, 28\); a grey image has C = 1",
     lambda: Glow((1, 28, 28))),
    (lambda: Glow(28), "shape must be a sequence of ints", None),
    (lambda: Glow((1, 4, 4), scales=0), "scales must be at least 1, got 0", None),
    (lambda: Glow((1, 4, 4), hidden=(8,)), r"hidden must be a whole number.*got \(8,\)", None),
    (lambda: Glow((1, 4, 4), levels=4.0), "levels must be a whole number", None),
    (lambda: RealNVP.image((1, 7, 7)), "shape must be .*multiples of 2 .* pad", None),
    (lambda: RealNVP.image((28, 28, 1)), r"channels come first: \(1, 28, 28\)", None),
    (lambda: RealNVP.image((1, 2, 2)), "at least 4 for 2 scales", lambda: RealNVP.image((1, 4, 4))),
    (lambda: RealNVP.image((1, 4, 4), scales=0), "scales must be at least 1, got 0", None),
    (lambda: RealNVP.image((1, 4, 4), hidden=(8,)), "hidden must be a whole number", None),
    (lambda: RealNVP.image((1, 4, 4), blocks=-1), "blocks must be at least 0, got -1", None),
    (lambda: VAE.mlp((6,), (2,)), r"latent_dim must be a whole number.*got \(2,\)", None),
    (lambda: VAE.mlp((6,), 0), "latent_dim must be at least 1, got 0", None),
    (lambda: VAE.mlp((6,), 2, samples=1.0), "samples must be a whole number", None),
    (lambda: VAE.mlp((6,), 2, likelihood=Bernoulli),
     "likelihood must be a module, got the class Bernoulli; make one",
     lambda: VAE.mlp((6,), 2, likelihood=Bernoulli())),
    (lambda: MADE((6,), likelihood=Gaussian), "likelihood must be .*the class Gaussian", None),
    (lambda: MADE((3, 2), likelihood=DiscretizedLogisticMixture(4, channels=3)),
     "likelihood must be of one variable.*channels=1",
     lambda: MADE((3, 2), likelihood=DiscretizedLogisticMixture(4, channels=1)).sample(2)),
    (lambda: VAE.mlp((3, 2, 2), 2, likelihood=DiscretizedLogisticMixture(4)),
     "make the likelihood with channels=3",
     lambda: VAE.mlp((3, 2, 2), 2, likelihood=DiscretizedLogisticMixture(4, 2, 3)).sample(2)),
    (lambda: OneHot((3,)), "classes must be a whole number", lambda: OneHot(3)),
    (lambda: ClassEmbedding(0, 3), "classes must be at least 1, got 0", None),
    (lambda: ClassEmbedding(3, 0), "features must be at least 1, got 0", None),
    (lambda: Dequantise(2.5), "levels must be a whole number", None),
    (lambda: BatchNorm((3,)), "features must be a whole number", lambda: BatchNorm(3)),
    (lambda: Affine(-3), "features must be at least 1, got -3", None),
    (lambda: Categorical(4.0), "levels must be a whole number", None),
    (lambda: Categorical(1), "levels must be at least 2, got 1", None),
    (lambda: Softmax(1), "levels must be at least 2, got 1", None),
    (lambda: MixtureOfGaussians(2.0), "components must be a whole number", None),
    (lambda: MixtureOfGaussians(0), "components must be at least 1, got 0", None),
    (lambda: DiscretizedLogisticMixture(4, 0), "components must be at least 1, got 0", None),
    (lambda: DiscretizedLogisticMixture(4, 2, 0), "channels must be at least 1, got 0", None),
    (lambda: made("glow").sample(2, temperature=-1.0), "temperature must be .* got -1.0", None),
    (lambda: made("glow").sample(2, temperature=math.nan), "temperature must be .* got nan", None),
    (lambda: made("glow").sample(2, temperature="1"), "temperature must be .* got '1'", None),
    (lambda: free_energy(MAF(2), torch.Tensor.sum, 0), "n must be at least 1, got 0", None),
]  # fmt: skip


@pytest.mark.parametrize(("call", "message", "cure"), REFUSED)
def test_refused_by_name(call, message, cure):
    with pytest.raises((ValueError, TypeError), match=message):
        call()
    if cure is not None:
        cure()


def test_a_model_of_no_layers_is_its_base():
    x = torch.randn(5, 3, generator=seeded())
    base = StandardNormal((3,)).log_prob(x)
    for model in (MAF(3, layers=0), IAF(3, steps=0), RealNVP.vector(3, couplings=0)):
        torch.testing.assert_close(model.log_prob(x), base)
        assert model.sample(2).shape == (2, 3)


@pytest.mark.parametrize(
    "likelihood",
    [Categorical(4), DiscretizedLogisticMixture(4, 2), Softmax(4)],
    ids=["categorical", "logistic", "softmax"],
)
def test_likelihoods_of_levels_make_models_of_levels(likelihood):
    """They were taken, and then no input was."""
    shape = (1, 2, 3)
    x = torch.randint(4, (5, *shape), generator=seeded())
    encoder = FlowEncoder(shape, 2, 3, (8,))
    decoder = Decoder(2, likelihood.params_shape(shape), (8,))
    for model in (
        VAE.mlp(shape, 2, hidden=(8,), likelihood=likelihood),
        FlowVAE(encoder, Planar(2, 3), decoder, likelihood, latent_dim=2),
        MADE(shape, (8,), likelihood=likelihood),
    ):
        model.loss(x)["loss"].backward()
        assert model.log_prob(x).shape == (5,)
        drawn = model.sample(5)
        assert drawn.dtype == torch.int64
        assert drawn.shape == x.shape
        assert torch.isfinite(model.log_prob(drawn)).all()
        for bad in (x.float(), x / 3, x + 4, x.to(torch.uint8)):
            with pytest.raises(ValueError, match=r"x must hold (int64 )?levels 0 to 3"):
                model.log_prob(bad)


def test_a_vae_of_levels_learns_them():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = VAE.mlp((4,), 2, hidden=(16,), likelihood=Categorical(3))
        x = torch.randint(3, (200, 1)).expand(200, 4).contiguous()
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        for _ in range(200):
            optimizer.zero_grad()
            model.loss(x)["loss"].backward()
            optimizer.step()
        drawn = model.sample(300)
    assert float((drawn == drawn[:, :1]).all(1).float().mean()) > 0.8


FLOATS = [name for name in ZOO if ZOO[name].data(2)[0].is_floating_point()]


@pytest.mark.parametrize("name", FLOATS)
def test_data_of_another_precision_is_taken_in_that_of_the_weights(name):
    model, (x, y) = shaken(made(name), 0.1).eval(), ZOO[name].data(4)

    def density(model: Any, data: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(0)
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(0)
            return model.log_prob(data, y)

    expected = density(model, x)
    found = density(model, x.double())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(density(model, x.half()), expected, rtol=0.05, atol=0.1)
    model.loss(x.double(), y)["loss"].backward()
    model.double()
    assert density(model, x).dtype == torch.float64


@pytest.mark.parametrize("name", ZOO)
def test_none_at_all(name):
    """Samples of none, and densities of none, have the shapes of others."""
    model, (x, y) = made(name), ZOO[name].data(4)
    few = None if y is None else y[:0]
    drawn = model.sample(0, few)
    assert drawn.shape == (0, *x.shape[1:])
    assert drawn.dtype == x.dtype
    assert model.log_prob(x[:0], few).shape == (0,)
    if hasattr(model, "draw"):
        points, log_q = model.draw(0, few)
        assert points.shape == (0, *x.shape[1:])
        assert log_q.shape == (0,)
    if hasattr(model, "encode"):
        z = model.encode(x[:0], few) if hasattr(model, "draw") else model.encode(x[:0])
        z = z[0] if isinstance(z, tuple) and not isinstance(model, VQVAE2) else z  # mean, log_var
        assert len(z[0] if isinstance(z, tuple) else z) == 0
        told = hasattr(model, "draw") or getattr(model, "context_dim", 0)
        decoded = model.decode(z, few) if told else model.decode(z)
        assert len(decoded) == 0
    if hasattr(model, "importance_log_prob"):
        assert model.importance_log_prob(x[:0], 3).shape == (0,)
    with pytest.raises(ValueError, match="x must have at least one item"):
        model.loss(x[:0], few)


@pytest.mark.parametrize("name", FLOATS)
def test_nan_comes_out_or_is_refused(name):
    """Never a number, and the items beside it have theirs."""
    model, (x, y) = shaken(made(name), 0.1).eval(), ZOO[name].data(4)
    broken = x.clone()
    broken.view(4, -1)[1, 0] = math.nan
    bits = isinstance(getattr(model, "likelihood", None), Bernoulli)
    with torch.no_grad():
        if bits or getattr(model, "dequantise", None) is not None:
            with pytest.raises(ValueError, match=r"x must .*nan"):
                model.log_prob(broken, y)
        else:
            assert model.log_prob(broken, y).isnan().tolist() == [False, True, False, False]


@pytest.mark.parametrize("name", FLOATS)
def test_weights_that_are_nan_give_nan(name):
    model, (x, y) = made(name).eval(), ZOO[name].data(4)
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(math.nan)
        assert model.log_prob(x, y).isnan().all()


def test_a_density_that_overflows_is_still_zero():
    model = MAF(3, layers=2, hidden=(8,), batch_norm=False)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(20)
        found = model.log_prob(torch.full((2, 3), 1e6))
    assert (found == -math.inf).all() or found.isfinite().all()
    far = torch.full((2, 3), 3e38)
    assert not model.log_prob(far).isnan().any()


def test_samples_and_chunk():
    for name in ("vae", "vae_gaussian", "vae_levels", "flow_vae"):
        model, (x, _) = made(name), ZOO[name].data(3)
        for value in (0, -1, 2.0, True, (3,)):
            for call, argument in (
                (lambda v, m=model, x=x: m.log_prob(x, samples=v), "samples"),
                (lambda v, m=model, x=x: m.importance_log_prob(x, v), "samples"),
                (lambda v, m=model, x=x: m.importance_log_prob(x, 4, chunk=v), "chunk"),
            ):
                with pytest.raises((ValueError, TypeError), match=f"^{argument} must be"):
                    call(value)
        found = [
            model.importance_log_prob(x, 5, chunk=c, generator=seeded()).shape for c in (1, 2, 9)
        ]
        assert found == [(3,)] * 3
