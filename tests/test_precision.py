"""Sixteen bits: networks compute in them, and what needs 32 (noise, log-determinants, the terms of
a likelihood, statistics) is computed in 32, and returned and logged in 32."""

import copy
import math
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from gdm_lib.bijections import BatchNorm, Dequantise, Flow, StandardNormal
from gdm_lib.flows import MAF, NICE, Glow, RealNVP
from gdm_lib.flows.glow import InvertibleConv, InvertibleConvLU
from gdm_lib.flows.nice import StandardLogistic
from gdm_lib.likelihoods import (
    Bernoulli,
    Categorical,
    DiscretizedLogisticMixture,
    Gaussian,
    IsotropicGaussian,
    MixtureOfGaussians,
    Softmax,
)
from gdm_lib.nn import exact, gaussian, through, uniform
from gdm_lib.training import fit
from tests.helpers import normal, seeded
from tests.zoo import ZOO, made

# A weight of 8 digits is off by up to 1 in 500, one of 11 by up to 1 in 4000.
TOLERANCE = {torch.bfloat16: (1e-2, 3e-2), torch.float16: (1.5e-3, 5e-3)}

WAYS: dict[str, Any] = {
    "autocast": torch.bfloat16,
    "bfloat16 weights": torch.bfloat16,
    "bfloat16 weights and data": torch.bfloat16,
    "float16 weights": torch.float16,
    "float16 weights and data": torch.float16,
}


def one_loss(name: str) -> Any:
    """A model in train mode that has seen a batch."""
    model = made(name)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model.loss(*ZOO[name].data(16, seed=5))
    return model


def fixed(call: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return call()


def lowered(model: nn.Module, x: Tensor, way: str) -> tuple[Any, Tensor, Any]:
    """The model, its data and the context in which to run them."""
    model, dtype = copy.deepcopy(model), WAYS[way]
    if way == "autocast":
        return model, x, torch.autocast("cpu", dtype)
    data = x.to(dtype) if "data" in way and x.is_floating_point() else x
    return model.to(dtype), data, nullcontext()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ZOO)
def test_every_model_agrees_with_itself_in_32_bits(name, way):
    model, (x, y) = one_loss(name), ZOO[name].data(16)
    small, data, context = lowered(model, x, way)
    rtol, atol = TOLERANCE[WAYS[way]]
    close = {"rtol": rtol, "atol": atol}
    with context:
        found = fixed(lambda: small.log_prob(data, y))
        terms = fixed(lambda: small.loss(data, y))
        drawn = small.sample(4, None if y is None else y[:4], generator=seeded())
    wanted = fixed(lambda: model.log_prob(x, y))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted, **close)
    for key, value in fixed(lambda: model.loss(x, y)).items():
        assert terms[key].dtype == torch.float32, key
        torch.testing.assert_close(terms[key], value, **close)
    assert drawn.dtype == x.dtype
    assert not drawn.is_floating_point() or bool(drawn.isfinite().all())
    terms["loss"].backward()
    gradients = [p.grad for p in small.parameters() if p.grad is not None]
    assert gradients
    assert all(bool(g.isfinite().all()) for g in gradients)


@pytest.mark.parametrize("name", ZOO)
def test_models_of_64_bits_stay_so(name):
    model, (x, y) = made(name).double(), ZOO[name].data(8)
    x = x.double() if x.is_floating_point() else x
    assert model.log_prob(x, y).dtype == torch.float64
    assert all(value.dtype == torch.float64 for value in model.loss(x, y).values())
    drawn = model.sample(2, None if y is None else y[:2], generator=seeded())
    assert drawn.dtype == x.dtype


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "name", [n for n in ZOO if isinstance(made(n), Flow) and not ZOO[n].classes]
)
def test_latents_come_back(name, way):
    model, (x, _) = one_loss(name), ZOO[name].data(16)
    small, data, context = lowered(model, x, way)
    with context, torch.no_grad():
        z = small.encode(data, generator=seeded())
        back = small.decode(z)
    assert z.dtype == back.dtype == torch.float32
    torch.testing.assert_close(back, data.float(), rtol=0, atol=0.05)


# Noise


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_noise_has_the_digits_of_32_bits(dtype):
    like = torch.zeros(3, dtype=dtype)
    u, g = uniform((200_000,), like, seeded()), gaussian((200_000,), like, seeded())
    assert u.dtype == g.dtype == torch.float32
    assert float(u.max()) < 1
    assert len(u.unique()) > 190_000
    assert len(g.unique()) > 190_000
    assert uniform((2,), like.double()).dtype == torch.float64
    assert gaussian((2,), like.double()).dtype == torch.float64


def test_noise_is_what_torch_draws():
    like = torch.zeros(())
    assert torch.equal(uniform((3, 2), like, seeded()), torch.rand(3, 2, generator=seeded()))
    assert torch.equal(gaussian((3, 2), like, seeded()), torch.randn(3, 2, generator=seeded()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("levels", [2, 17, 256])
def test_grey_levels_of_16_bits_are_spread_over_their_whole_bin(levels, dtype):
    level = torch.arange(levels).repeat_interleave(400).reshape(-1, 1)
    x = (level / (levels - 1)).to(dtype)
    z, logdet = Dequantise(levels)(x, generator=seeded())
    assert z.dtype == logdet.dtype == torch.float32
    u = z * levels - level
    assert float(u.min()) >= 0
    assert float(u.max()) < 1
    assert abs(float(u.mean()) - 0.5) < 0.02
    assert abs(float(u.std()) - 1 / math.sqrt(12)) < 0.02
    torch.testing.assert_close(Dequantise(levels).inverse(z)[0], level / (levels - 1))


@pytest.mark.parametrize("base", [StandardNormal, StandardLogistic])
def test_a_base_of_16_bits_draws_and_tells_in_32(base):
    half = base((50_000,)).half()
    drawn = half.sample(1, generator=seeded())
    assert drawn.dtype == torch.float32
    assert len(drawn.unique()) > 40_000
    assert half.log_prob(drawn.half()).dtype == torch.float32
    torch.testing.assert_close(half.log_prob(drawn), base((50_000,)).log_prob(drawn))


LIKELIHOODS: dict[str, Any] = {
    "bernoulli": (Bernoulli(), lambda d: d > 0),
    "gaussian": (Gaussian(), lambda d: d),
    "isotropic": (IsotropicGaussian(0.3), lambda d: d),
    "mixture": (MixtureOfGaussians(3), lambda d: d),
    "categorical": (Categorical(4), lambda d: d.abs().long().clamp(max=3)),
    "logistics": (DiscretizedLogisticMixture(8, 2), lambda d: d.abs().long().clamp(max=7)),
    "softmax": (Softmax(8), lambda d: d.abs().long().clamp(max=7)),
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", LIKELIHOODS)
def test_likelihoods_compute_in_32_bits_from_parameters_of_16(name, dtype):
    likelihood, to_data = LIKELIHOODS[name]
    shape = (1, 6, 6)
    params = normal(4, *likelihood.params_shape(shape)).to(dtype)
    x = to_data(normal(4, *shape, seed=1).float())
    x = x.float() if x.dtype == torch.bool else x
    wide = params.float()
    small = copy.deepcopy(likelihood).to(dtype)
    own = copy.deepcopy(small).float()  # the parameters of its own, rounded
    given = x.to(dtype) if x.is_floating_point() else x
    found = small.log_prob(params, given)
    assert found.dtype == torch.float32
    wanted = own.log_prob(wide, given.float() if given.is_floating_point() else given)
    torch.testing.assert_close(found, wanted)
    drawn = small.sample(params, generator=seeded())
    assert torch.equal(drawn, own.sample(wide, generator=seeded()))
    torch.testing.assert_close(small.mean(params), own.mean(wide))


# Log-determinants, and what is linear


@pytest.mark.parametrize("make", [InvertibleConv, InvertibleConvLU])
@pytest.mark.parametrize("way", ["autocast", "bfloat16", "float16"])
def test_convolutions_mix_and_unmix_in_32_bits(make, way):
    conv, x = make(6, seeded()), normal(5, 6, 3, 3).float()
    conv = conv if way == "autocast" else conv.to(getattr(torch, way))
    with torch.autocast("cpu", torch.bfloat16) if way == "autocast" else nullcontext():
        z, logdet = conv(x)
        back, back_logdet = conv.inverse(z)
    assert z.dtype == torch.float32
    torch.testing.assert_close(back, x, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(back_logdet, -logdet)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_statistics_stay_in_32_bits(dtype):
    norm = BatchNorm(2, momentum=1e-3).to(dtype)
    assert norm.mean.dtype == norm.var.dtype == torch.float32
    x = (normal(64, 2) + 3).to(dtype)
    for _ in range(3000):
        norm(x)
    torch.testing.assert_close(norm.mean, x.float().mean(0), rtol=0.06, atol=0)
    assert norm.double().to(dtype).mean.dtype == torch.float32
    exactly = norm.mean.clone()
    assert torch.equal(norm.to(dtype).float().mean, exactly)
    assert norm.double().mean.dtype == torch.float64


def test_a_network_is_given_what_its_weights_can_take():
    net = nn.Linear(2, 3).bfloat16()
    assert through(net, torch.zeros(1, 2)).dtype == torch.float32
    assert through(nn.Identity(), torch.zeros(1, dtype=torch.float16)).dtype == torch.float32
    x = torch.zeros(2)
    assert exact(x) is x
    assert exact(x.double()).dtype == torch.float64
    assert exact(torch.zeros(2, dtype=torch.int64)).dtype == torch.int64


# Training


def logged(model: nn.Module, x: Tensor, precision: Any) -> dict[str, list[float]]:
    fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
    return fit(model, x, steps=4, batch_size=16, fabric=fabric, progress=False).train


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
@pytest.mark.parametrize("model", [MAF, NICE, RealNVP])
def test_what_is_logged_has_32_bits_and_the_values_of_32(model, precision):
    grey = torch.randint(256, (64, 1, 8, 8), generator=seeded()) / 255
    makes = {
        MAF: (lambda: MAF(4), normal(64, 4).float()),
        NICE: (lambda: NICE((1, 8, 8), hidden=(16,), dequantise=Dequantise(256)), grey),
        RealNVP: (lambda: RealNVP.image((1, 8, 8), hidden=8), grey),
    }
    runs = []
    for kind in ("32-true", precision):
        torch.manual_seed(0)
        make, x = makes[model]
        runs.append(logged(make(), x, kind))
    wanted, found = runs
    for term, values in found.items():
        rounded = torch.tensor(values).bfloat16().tolist()
        assert any(value not in (0.0, short) for value, short in zip(values, rounded, strict=True))
        torch.testing.assert_close(
            torch.tensor(values), torch.tensor(wanted[term]), rtol=0.02, atol=0.05
        )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("make", [RealNVP.image, Glow])
def test_bits_per_dimension_of_bytes_are_those_of_32_bits(make, dtype):
    """An untrained flow on uniform bytes: 16-bit noise would make its bins points."""
    torch.manual_seed(0)
    model = make((1, 8, 8), hidden=8)
    x = torch.randint(256, (64, 1, 8, 8), generator=seeded()) / 255
    wanted = fixed(lambda: model.loss(x))["bits_per_dim"]
    found = fixed(lambda: copy.deepcopy(model).to(dtype).loss(x.to(dtype)))["bits_per_dim"]
    assert abs(float(wanted - found)) < 0.02
