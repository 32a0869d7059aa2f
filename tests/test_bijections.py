"""What holds for every bijection of the library, and for the density that it makes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from gdm_lib.autoregressive.made import MaskedMLP, random_degrees
from gdm_lib.bijections import (
    Affine,
    BatchNorm,
    Chain,
    Dequantise,
    Flatten,
    Flow,
    Inverse,
    Logit,
    MultiScale,
    OneHot,
    Permute,
    Squeeze,
    StandardNormal,
    check_inputs,
    join,
)
from gdm_lib.flows.glow import (
    ActNorm,
    ConvNet,
    Coupling,
    Glow,
    InvertibleConv,
    InvertibleConvLU,
    log_exponential,
)
from gdm_lib.flows.iaf import AutoregressiveStep, gated, iaf_chain, shift_and_scale
from gdm_lib.flows.maf import MAF, exp_scale
from gdm_lib.flows.nice import NICE, AdditiveCoupling, DiagonalScale, StandardLogistic
from gdm_lib.flows.planar_radial import Planar, Radial
from gdm_lib.flows.realnvp import (
    AffineCoupling,
    CheckerboardCoupling,
    RealNVP,
    ResNet,
)
from gdm_lib.nn import mlp
from gdm_lib.protocols import Bijection, LikelihoodModel
from tests.helpers import seeded

CONTEXT = 3


@dataclass
class Case:
    """A bijection on items of ``shape``; ``make`` is given the features of the context."""

    make: Callable[[int], nn.Module]
    shape: tuple[int, ...]
    conditional: bool = False
    domain: Callable[[Tensor], Tensor] = lambda x: x
    large: float = 1e4
    back: float = math.inf  # largest input that must come back: 1 / scale grows with exp(input)
    strict: bool = True  # about the whole shape, not only the number of features
    spread: float = 0.3  # of the parameters; less where depth would amplify float32's rounding


def case(make, shape, conditional=False, **kwargs) -> Case:
    return Case(make if conditional else lambda c: make(), shape, conditional, **kwargs)


CASES = {
    "affine": case(lambda: Affine(3), (3,), strict=False),
    "affine of an image": case(lambda: Affine(2), (2, 3, 3), strict=False),
    "permute": case(lambda: Permute((2, 0, 3, 1)), (4,), strict=False),
    "flatten": case(lambda: Flatten((2, 2, 2)), (2, 2, 2)),
    "squeeze": case(Squeeze, (2, 4, 2)),
    "logit": case(Logit, (5,), domain=torch.sigmoid, large=30.0, strict=False),
    "inverse": case(lambda c: Inverse(Planar(3, c)), (3,), True),
    "chain": case(
        lambda c: Chain(Planar(3, c), Permute.reverse(3), Affine(3), Radial(3, c)), (3,), True
    ),
    "planar": case(lambda c: Planar(4, c), (4,), True),
    "planar in 1-D": case(lambda: Planar(1), (1,)),
    "radial": case(lambda c: Radial(4, c), (4,), True),
    "radial in 1-D": case(lambda: Radial(1), (1,)),
    "additive coupling": case(
        lambda c: AdditiveCoupling(5, mlp((3 + c, 8, 2)), context_dim=c), (5,), True
    ),
    "additive coupling, odd": case(
        lambda c: AdditiveCoupling(4, mlp((2 + c, 8, 2)), odd=True, context_dim=c), (4,), True
    ),
    "diagonal scale": case(lambda: DiagonalScale(4), (4,)),
    "nice": case(lambda: NICE((1, 2, 3), hidden=(8,)).bijection, (1, 2, 3)),
    "affine coupling": case(
        lambda c: AffineCoupling(5, mlp((3 + c, 8, 4)), context_dim=c), (5,), True, strict=False
    ),
    "affine coupling, second": case(
        lambda c: AffineCoupling(5, mlp((2 + c, 8, 6)), second=True, context_dim=c),
        (5,),
        True,
        strict=False,
    ),
    "channel-wise coupling": case(
        lambda c: AffineCoupling(4, ResNet(2 + c, 6, 4, 1), context_dim=c),
        (4, 2, 2),
        True,
        strict=False,
    ),
    "checkerboard coupling": case(
        lambda c: CheckerboardCoupling((2, 4, 3), ResNet(2 + c, 6, 4, 1), context_dim=c),
        (2, 4, 3),
        True,
    ),
    "batch norm": case(lambda: BatchNorm(3), (3,), strict=False),
    "batch norm of an image, affine": case(
        lambda: BatchNorm(2, affine=True), (2, 3, 3), strict=False
    ),
    "real nvp": case(
        lambda c: RealNVP.vector(4, couplings=4, hidden=(8,), context_dim=c).bijection, (4,), True
    ),
    "multi-scale real nvp": case(
        lambda c: RealNVP.image(
            (1, 4, 4), scales=2, hidden=4, blocks=1, context_dim=c
        ).bijection.parts[1],
        (1, 4, 4),
        True,
        spread=0.1,
    ),
    "gated step": case(
        lambda c: AutoregressiveStep(MaskedMLP(4, (9, 7), 2, context_dim=c), gated),
        (4,),
        True,
        back=3.0,
    ),
    "shift and scale, no hidden layer": case(
        lambda c: AutoregressiveStep(MaskedMLP(4, (), 2, context_dim=c), shift_and_scale),
        (4,),
        True,
        large=10.0,
        back=3.0,
    ),
    "maf layer of random degrees and order": case(
        lambda c: AutoregressiveStep(
            MaskedMLP(
                4,
                (30, 20),
                2,
                orders=[[2, 0, 3, 1]],
                degrees=random_degrees,
                context_dim=c,
                activation=nn.Tanh,
                generator=seeded(),
            ),
            exp_scale,
        ),
        (4,),
        True,
    ),
    "iaf": case(lambda c: iaf_chain(4, hidden=(8,), context_dim=c), (4,), True, back=3.0),
    "actnorm": case(lambda: ActNorm(3), (3,), strict=False),
    "actnorm of an image": case(lambda: ActNorm(2), (2, 3, 3), strict=False),
    "1x1 convolution": case(lambda: InvertibleConv(4), (4, 2, 3), strict=False),
    "1x1 convolution of a vector": case(lambda: InvertibleConv(3), (3,), strict=False),
    "1x1 convolution, LU": case(lambda: InvertibleConvLU(4), (4, 2, 3), strict=False),
    "1x1 convolution of a vector, LU": case(lambda: InvertibleConvLU(3), (3,), strict=False),
    "glow coupling": case(
        lambda c: Coupling(4, ConvNet(2 + c, 6, 4), context_dim=c),
        (4, 2, 2),
        True,
        strict=False,
        back=3.0,
    ),
    "glow coupling, exponential": case(
        lambda c: Coupling(4, mlp((2 + c, 8, 4)), log_scale=log_exponential, context_dim=c),
        (4,),
        True,
        strict=False,
        large=30.0,
        back=3.0,
    ),
    "glow": case(
        lambda c: Glow((1, 4, 4), steps=2, hidden=6, context_dim=c).bijection,
        (1, 4, 4),
        True,
        large=30.0,
        back=3.0,
        spread=0.1,
    ),
    "maf": case(
        lambda c: MAF(4, layers=3, hidden=(12,), context_dim=c).bijection,
        (4,),
        True,
        large=3.0,
        spread=0.1,
    ),
}

EVERY = pytest.mark.parametrize("name", CASES)
CONDITIONAL = pytest.mark.parametrize("name", [n for n, c in CASES.items() if c.conditional])


def build(name: str, context_dim: int = 0, dtype: torch.dtype = torch.float64) -> nn.Module:
    """In evaluation, with random parameters and statistics: nothing is at its neutral start."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        bijection = CASES[name].make(context_dim).to(dtype)
        for p in bijection.parameters():
            p.data += CASES[name].spread * torch.randn(p.shape, dtype=dtype)
        for module in bijection.modules():
            if isinstance(module, BatchNorm):
                module.mean.normal_()
                module.var.uniform_(0.5, 2)
    return bijection.eval()


def items(name: str, n: int = 6, dtype: torch.dtype = torch.float64, scale: float = 1.0) -> Tensor:
    x = torch.randn((n, *CASES[name].shape), generator=seeded(1), dtype=torch.float64)
    return CASES[name].domain(scale * x).to(dtype)


def context_for(n: int, dim: int, dtype: torch.dtype = torch.float64) -> Tensor | None:
    if not dim:
        return None
    return torch.randn((n, dim), generator=seeded(2), dtype=torch.float64).to(dtype)


def variants() -> list:
    found = [(name, 0) for name in CASES]
    return found + [(name, CONTEXT) for name, c in CASES.items() if c.conditional]


FIXED = {"permute", "flatten", "squeeze", "logit", "batch norm"}  # have nothing to learn
EITHER_WAY = pytest.mark.parametrize(("name", "dim"), variants())


@EITHER_WAY
def test_keeps_the_contract(name, dim):
    bijection, x = build(name, dim), items(name)
    assert isinstance(bijection, Bijection)
    assert getattr(bijection, "context_dim", 0) == dim
    z, logdet = bijection(x, context_for(6, dim))
    assert logdet.shape == (6,)
    assert z.flatten(1).shape == x.flatten(1).shape
    back, logdet = bijection.inverse(z, context_for(6, dim))
    assert logdet.shape == (6,)
    assert back.shape == x.shape


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@EITHER_WAY
def test_inverse_undoes_forward_and_forward_undoes_inverse(name, dim, dtype, tolerance):
    bijection, x = build(name, dim, dtype), items(name, 50, dtype)
    context = context_for(50, dim, dtype)
    with torch.no_grad():
        z, logdet = bijection(x, context)
        back, minus = bijection.inverse(z, context)
        again, _ = bijection(back, context)
    assert (z.dtype, logdet.dtype, back.dtype, minus.dtype) == (dtype,) * 4
    torch.testing.assert_close(back, x, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(again, z, atol=tolerance, rtol=tolerance)
    scale = max(1.0, float(logdet.abs().max()))
    torch.testing.assert_close(minus, -logdet, atol=10 * tolerance * scale, rtol=0)


@EITHER_WAY
def test_logdet_is_that_of_the_jacobian(name, dim):
    bijection, x = build(name, dim), items(name, 3)
    context = context_for(3, dim)
    z, forward = bijection(x, context)
    _, backward = bijection.inverse(z, context)
    for i in range(3):
        own = None if context is None else context[i : i + 1]
        for f, at, told in ((bijection, x, forward), (bijection.inverse, z, backward)):
            jacobian = torch.autograd.functional.jacobian(
                lambda v, f=f, own=own: f(v, own)[0], at[i : i + 1]
            )
            size = at[i].numel()
            expected = torch.linalg.slogdet(jacobian.reshape(size, size)).logabsdet
            torch.testing.assert_close(told[i], expected, atol=1e-8, rtol=1e-8)


@EITHER_WAY
def test_every_parameter_gets_a_gradient_both_ways(name, dim):
    bijection, x = build(name, dim), items(name)
    context = context_for(6, dim)
    weights = torch.randn(6, x[0].numel(), generator=seeded(3), dtype=x.dtype)
    with torch.no_grad():
        z = bijection(x, context)[0]
    for f, at in ((bijection, x), (bijection.inverse, z)):
        bijection.zero_grad()
        out, logdet = f(at, context)
        ((out.flatten(1) * weights).sum() + logdet.sum()).backward() if out.requires_grad else None
        for parameter, p in bijection.named_parameters():
            assert p.grad is not None, parameter
            assert torch.isfinite(p.grad).all(), parameter
            assert p.grad.abs().sum() > 0, parameter


@pytest.mark.parametrize(("name", "dim"), [v for v in variants() if v[0] not in FIXED])
def test_gradients_of_the_inverse_are_those_of_the_function(name, dim):
    """Not only the value: by finite differences of the inverse along a random direction."""
    bijection = build(name, dim)
    parameters = list(bijection.parameters())
    context = context_for(6, dim)
    with torch.no_grad():
        z = bijection(items(name), context)[0]
    weights = torch.randn(6, z[0].numel(), generator=seeded(3), dtype=z.dtype)

    def value() -> Tensor:
        x, logdet = bijection.inverse(z, context)
        return (x.flatten(1) * weights).sum() + logdet.sum()

    slopes = torch.autograd.grad(value(), parameters)
    along = [torch.randn(p.shape, generator=seeded(4), dtype=p.dtype) for p in parameters]
    expected, h = [], 1e-6
    with torch.no_grad():
        for sign in (1, -2):
            for p, direction in zip(parameters, along, strict=True):
                p += sign * h * direction
            expected.append(value())
    got = sum((s * d).sum() for s, d in zip(slopes, along, strict=True))
    torch.testing.assert_close(got, (expected[0] - expected[1]) / (2 * h), rtol=1e-5, atol=1e-5)


@EITHER_WAY
def test_state_makes_a_round_trip(name, dim):
    first, x = build(name, dim), items(name)
    context = context_for(6, dim)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        second = CASES[name].make(dim).double().eval()
    second.load_state_dict(first.state_dict())
    for got, expected in zip(second(x, context), first(x, context), strict=True):
        assert torch.equal(got, expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@EVERY
def test_large_and_tiny_inputs_give_no_nan_and_come_back(name, dtype):
    bijection = build(name, 0, dtype)
    for scale in (0.0, 1e-30, 3.0, CASES[name].large):
        x = items(name, 8, dtype, scale).requires_grad_()
        z, logdet = bijection(x)
        assert torch.isfinite(z).all()
        assert torch.isfinite(logdet).all()
        (z.sum() + logdet.sum()).backward()
        assert torch.isfinite(x.grad).all()
        if scale > CASES[name].back:
            continue
        back, minus = bijection.inverse(z.detach())
        assert torch.isfinite(minus).all()
        size = max(1.0, float(x.detach().abs().max()))
        eps = torch.finfo(dtype).eps
        assert float((back - x).detach().abs().max()) < 1e4 * eps * size


@CONDITIONAL
def test_the_context_matters(name):
    bijection, x = build(name, CONTEXT), items(name)
    context = context_for(6, CONTEXT)
    with torch.no_grad():
        one, other = bijection(x, context)[0], bijection(x, context.roll(1, 0))[0]
    assert ((one - other).flatten(1).abs().amax(1) > 1e-6).all()


@EVERY
def test_items_do_not_see_each_other(name):
    bijection, x = build(name), items(name)
    with torch.no_grad():
        together = bijection(x)
        alone = [bijection(item[None]) for item in x]
    for i in (0, 1):
        torch.testing.assert_close(together[i], torch.cat([pair[i] for pair in alone]))


@EVERY
def test_a_context_that_nobody_asked_for_is_refused(name):
    bijection, x = build(name), items(name)
    for call in (bijection, bijection.inverse):
        with pytest.raises(ValueError, match=r"context must be None, got \(6, 3\).*context_dim"):
            call(bijection(x)[0] if call != bijection else x, context_for(6, CONTEXT))


@CONDITIONAL
@pytest.mark.parametrize("shape", [(6, CONTEXT + 1), (5, CONTEXT), (6,), (1, CONTEXT)])
def test_a_context_of_another_shape_is_refused(name, shape):
    bijection, x = build(name, CONTEXT), items(name)
    with torch.no_grad():
        z = bijection(x, context_for(6, CONTEXT))[0]
    for call, at in ((bijection, x), (bijection.inverse, z)):
        with pytest.raises(ValueError, match=rf"context must have shape \(6, {CONTEXT}\), got \("):
            call(at, torch.zeros(shape, dtype=torch.float64))
        with pytest.raises(
            ValueError, match=rf"context must have shape \(6, {CONTEXT}\), got None"
        ):
            call(at)


@EVERY
def test_items_of_another_shape_are_refused(name):
    bijection, x = build(name), items(name)
    wrong = [x[0], x.unsqueeze(-1).expand(*x.shape, 2)] if CASES[name].strict else []
    if name != "logit":
        wrong += [torch.cat([x, x], 1)] if name != "squeeze" else [x[:, :, :1]]
    for bad in wrong:
        with pytest.raises(ValueError, match=r"[xz] must (be a batch of|have even)"):
            bijection(bad)
    with pytest.raises(ValueError, match=r"[xz] must be floating point, got torch\.int64"):
        bijection(torch.zeros(x.shape, dtype=torch.int64))


# -- densities on the plane

PLANE = {
    "planar": lambda: Chain(Inverse(Planar(2)), Planar(2)),
    "radial": lambda: Chain(Inverse(Radial(2)), Radial(2)),
    "nice": lambda: NICE((2,), hidden=(8,)).bijection,
    "real nvp": lambda: RealNVP.vector(2, couplings=4, hidden=(8,)).bijection,
    "iaf": lambda: Inverse(iaf_chain(2, hidden=(8,))),
    "maf": lambda: MAF(2, layers=3, hidden=(8,), activation=nn.Tanh).bijection,
    "glow": lambda: Chain(
        ActNorm(2),
        InvertibleConvLU(2),
        Coupling(2, mlp((1, 8, 2))),
        InvertibleConv(2),
        Coupling(2, mlp((1, 8, 2))),
    ),
    "permuted affine": lambda: Chain(Affine(2), Permute((1, 0)), Affine(2)),
}


def on_the_plane(name: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        bijection = PLANE[name]().double()
        for p in bijection.parameters():
            p.data += 0.3 * torch.randn_like(p)
    return bijection.eval()


@pytest.mark.parametrize("name", PLANE)
@pytest.mark.parametrize("base", [StandardNormal, StandardLogistic])
def test_density_integrates_to_one_and_is_that_of_the_samples(name, base):
    """The mass of each cell of a grid, by the midpoint rule, against samples that fall there."""
    flow = Flow(on_the_plane(name), base((2,)).double())
    n = 20_000
    x = flow.sample(n, generator=seeded(5))
    low, high = x.min() - 3, x.max() + 3
    edges = torch.linspace(float(low), float(high), 801, dtype=torch.float64)
    middles = 0.5 * (edges[1:] + edges[:-1])
    with torch.no_grad():
        density = flow.log_prob(torch.cartesian_prod(middles, middles)).exp()
    mass = density.view(800, 800) * float(edges[1] - edges[0]) ** 2
    assert float(mass.sum()) == pytest.approx(1, abs=3e-3)
    coarse = mass.view(20, 40, 20, 40).sum((1, 3)).flatten()
    cells = torch.bucketize(x, edges[::40].contiguous()) - 1
    counts = torch.bincount(cells[:, 0] * 20 + cells[:, 1], minlength=400).double()
    often = coarse * n > 10
    expected = torch.cat([coarse[often] * n, (n - coarse[often].sum() * n)[None]])
    seen = torch.cat([counts[often], (n - counts[often].sum())[None]])
    if expected[-1] < 5:
        expected, seen = expected[:-1], seen[:-1]
    chi2 = float(((seen - expected) ** 2 / expected).sum())
    assert chi2 < stats.chi2(len(expected) - 1).ppf(0.9999)


# -- Flow, dequantisation and the parts that aren't bijections of the real numbers


def test_flow_is_a_likelihood_model_by_change_of_variables():
    """An affine flow is a Gaussian, whose density scipy knows."""
    affine = Affine(2).double()
    affine.log_scale.data = torch.tensor([0.5, -1.0]).double()
    affine.shift.data = torch.tensor([1.0, 2.0]).double()
    flow = Flow(affine, StandardNormal((2,)))
    assert isinstance(flow, LikelihoodModel)
    assert flow.bound is False
    x = torch.randn(5, 2, generator=seeded(), dtype=torch.float64)
    scale = (-affine.log_scale).exp().detach()
    expected = stats.norm((-affine.shift.detach() * scale).numpy(), scale.numpy()).logpdf(x.numpy())
    torch.testing.assert_close(flow.log_prob(x).detach(), torch.tensor(expected.sum(1)))
    terms = flow.loss(x)
    torch.testing.assert_close(terms["loss"].detach(), -torch.tensor(expected.sum(1)).mean())
    torch.testing.assert_close(terms["loss"].detach(), -terms["log_base"] - terms["log_det"])
    assert set(terms) == {"loss", "log_base", "log_det"}


def test_where_the_latent_overflows_the_density_is_zero_and_training_stops():
    torch.manual_seed(0)
    flow = MAF(3, layers=6, hidden=(8,), batch_norm=False)
    for p in flow.parameters():
        p.data = 3 * torch.randn(p.shape, generator=seeded(p.numel()))
    far = torch.tensor([[50.0, -50.0, 50.0], [math.nan, 0.0, 0.0]])
    assert flow.bijection(far[:1])[0].isnan().any()
    with torch.no_grad():
        log_prob = flow.log_prob(far)
    assert log_prob[0] == -math.inf
    assert log_prob[1].isnan()
    assert flow.loss(far[:1])["loss"].isnan()


def test_draws_come_with_their_density_and_a_gradient():
    flow = Flow(on_the_plane("planar"), StandardNormal((2,))).double()
    x, log_prob = flow.draw(7, generator=seeded())
    assert x.requires_grad
    torch.testing.assert_close(log_prob, flow.log_prob(x))
    assert torch.equal(x.detach(), flow.sample(7, generator=seeded()))


@pytest.mark.parametrize("levels", [2, 17, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dequantisation_never_leaves_its_bin(levels, dtype):
    x = (torch.arange(levels).repeat(4000)[:, None] / (levels - 1)).to(dtype)
    z, logdet = Dequantise(levels)(x, generator=seeded())
    assert ((z > 0) & (z < 1)).all()
    back, minus = Dequantise(levels).inverse(z)
    torch.testing.assert_close(back, x)
    assert torch.equal(logdet, -minus)
    assert float(logdet[0]) == pytest.approx(-math.log(levels), rel=1e-6)
    offset = z[:, 0] * levels - torch.arange(levels).repeat(4000)
    assert float(offset.mean()) == pytest.approx(0.5, abs=4 / math.sqrt(12 * 4000 * levels))
    assert not torch.equal(z, Dequantise(levels)(x, generator=seeded(1))[0])


def test_bits_per_dimension_are_right_by_construction():
    """A uniform density on [0, 1] gives every one of 17 levels the probability 1/17."""

    class Uniform(StandardNormal):
        def log_prob(self, x, y=None):
            return x.new_zeros(len(x))

    flow = Flow(Flatten((1, 4, 4)), Uniform((16,)), dequantise=Dequantise(17))
    x = torch.randint(0, 17, (5, 1, 4, 4), generator=seeded()) / 16
    terms = flow.loss(x, generator=seeded())
    assert flow.bound is True
    assert float(terms["bits_per_dim"]) == pytest.approx(math.log2(17), rel=1e-6)
    expected = torch.full((5,), -16 * math.log(17))
    torch.testing.assert_close(flow.log_prob(x), expected)


def test_bits_per_dimension_are_a_bound_on_those_of_the_levels():
    """Against the exact probability of each level, the integral of the density over its bin."""
    affine = Affine(1).double()
    affine.log_scale.data.fill_(0.4)
    affine.shift.data.fill_(-0.2)
    flow = Flow(Chain(Logit(0.05), affine), StandardNormal((1,)), dequantise=Dequantise(8)).double()
    x = torch.arange(8, dtype=torch.float64)[:, None] / 7
    edges = torch.arange(9, dtype=torch.float64)[:, None] / 8
    with torch.no_grad():
        cdf = torch.special.ndtr(flow.bijection(edges)[0])[:, 0]
        exact = (cdf[1:] - cdf[:-1]).log()
        repeated = x.repeat(20_000, 1)
        draws = flow.log_prob(repeated, generator=seeded()).view(-1, 8)
    gap = exact - draws.mean(0)
    assert (gap > 0).all()
    assert (gap < 1).all()
    inside = draws.exp().mean(0)  # without the logarithm, the average is exact
    error = draws.exp().std(0) / math.sqrt(20_000)
    assert ((inside - exact.exp()).abs() < 4 * error).all()


def test_samples_of_a_dequantising_flow_are_levels():
    flow = Flow(Logit(0.05), StandardNormal((3,)), dequantise=Dequantise(17))
    levels = flow.sample(50, generator=seeded()) * 16
    torch.testing.assert_close(levels, levels.round())
    assert levels.min() >= 0
    assert levels.max() <= 16


def test_same_generator_same_numbers_and_global_rng_untouched():
    flow = Flow(Logit(), StandardNormal((3,)), dequantise=Dequantise(17))
    x, state = torch.zeros(4, 3), torch.random.get_rng_state()
    for call in (
        lambda g: flow.sample(5, generator=g),
        lambda g: flow.draw(5, generator=g)[0],
        lambda g: flow.log_prob(x, generator=g),
        lambda g: flow.loss(x, generator=g)["loss"],
    ):
        assert torch.equal(call(seeded(1)), call(seeded(1)))
        assert not torch.equal(call(seeded(1)), call(seeded(2)))
    assert torch.equal(state, torch.random.get_rng_state())


def test_a_conditional_flow_takes_labels_through_an_embedding():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        flow = RealNVP.vector(2, hidden=(8,), batch_norm=False, context_dim=4, embed=OneHot(4))
        for p in flow.parameters():
            p.data += 0.2 * torch.randn_like(p)
    x, y = torch.zeros(4, 2), torch.arange(4)
    assert len(flow.log_prob(x, y).unique()) == 4
    own = flow.log_prob(x, y)
    flow.embed = None
    torch.testing.assert_close(flow.log_prob(x, torch.eye(4)), own)
    assert flow.sample(4, torch.eye(4)).shape == (4, 2)


def test_batch_norm_normalises_with_the_batch_and_tells_its_volume():
    norm = BatchNorm(3).double()
    x = 4 * torch.randn(50, 3, generator=seeded(), dtype=torch.float64) + 7
    z, logdet = norm(x)
    torch.testing.assert_close(z.mean(0), torch.zeros(3).double(), atol=1e-9, rtol=0)
    torch.testing.assert_close(z.var(0, correction=0), torch.ones(3).double(), atol=1e-4, rtol=0)
    expected = -0.5 * torch.log(x.var(0, correction=0) + norm.eps).sum()
    torch.testing.assert_close(logdet, expected.expand(50))


def test_batch_norm_running_statistics_are_an_average_over_recent_batches():
    norm = BatchNorm(2, momentum=0.25).double()
    batches = torch.randn(6, 20, 2, generator=seeded(), dtype=torch.float64) + 3
    mean, var = torch.zeros(2).double(), torch.ones(2).double()
    for batch in batches:
        norm(batch)
        mean = 0.75 * mean + 0.25 * batch.mean(0)
        var = 0.75 * var + 0.25 * batch.var(0, correction=0)
    torch.testing.assert_close(norm.mean, mean)
    torch.testing.assert_close(norm.var, var)
    norm.eval()
    x = batches[0]
    z, logdet = norm(x)
    torch.testing.assert_close(z, (x - mean) / torch.sqrt(var + norm.eps))
    torch.testing.assert_close(norm.mean, mean)
    torch.testing.assert_close(norm.inverse(z)[0], x)
    torch.testing.assert_close(logdet[0], -0.5 * torch.log(var + norm.eps).sum())


def test_batch_norm_gradient_flows_through_the_statistics():
    """What comes out doesn't change when the batch is moved or scaled, and neither does a loss."""
    norm = BatchNorm(1, eps=0).double()
    x = torch.randn(30, 1, generator=seeded(), dtype=torch.float64).requires_grad_()
    z, _ = norm(x)
    (z**3 + z).sum().backward()
    assert x.grad.abs().max() > 0.1
    assert float(x.grad.sum()) == pytest.approx(0, abs=1e-9)
    assert float((x.grad * x.detach()).sum()) == pytest.approx(0, abs=1e-9)


def test_of_images_statistics_are_one_for_each_channel():
    norm = BatchNorm(2).double()
    x = torch.randn(5, 2, 3, 4, generator=seeded(), dtype=torch.float64)
    _, logdet = norm(x)
    expected = -6 * torch.log(x.var((0, 2, 3), correction=0) + norm.eps).sum()
    torch.testing.assert_close(logdet[0], expected)


def test_logistic_prior_agrees_with_scipy_and_samples_it():
    prior = StandardLogistic((1,)).double()
    x = torch.linspace(-800, 800, 41, dtype=torch.float64)[:, None]
    expected = torch.tensor(stats.logistic.logpdf(x.numpy()))[:, 0]
    torch.testing.assert_close(prior.log_prob(x), expected)
    draws = prior.sample(20_000, generator=seeded())[:, 0].numpy()
    assert stats.kstest(draws, "logistic").pvalue > 1e-4
    assert stats.kstest(draws, "norm").pvalue < 1e-9


def test_normal_base_agrees_with_scipy():
    x = torch.randn(4, 2, 3, generator=seeded(), dtype=torch.float64) * 5
    expected = torch.tensor(stats.norm.logpdf(x.numpy()).sum((1, 2)))
    torch.testing.assert_close(StandardNormal((2, 3)).log_prob(x), expected)


def test_join_lays_a_context_over_an_image():
    x, context = torch.randn(2, 3, 4, 5), torch.randn(2, 6)
    joined = join(x, context)
    assert joined.shape == (2, 9, 4, 5)
    assert torch.equal(joined[:, 3:, 2, 4], context)
    assert torch.equal(join(x[:, :, 0, 0], context), torch.cat([x[:, :, 0, 0], context], 1))
    assert join(x, None) is x


def test_multiscale_gaussianises_half_the_channels_at_each_scale():
    """32x32x3: 3072 dimensions, of which 6x16x16 leave after the first scale."""
    multi = MultiScale([Squeeze(), Squeeze(), Chain()], [(12, 16, 16), (24, 8, 8), (12, 8, 8)])
    assert multi.sizes == [6 * 256, 12 * 64, 12 * 64]
    x = torch.randn(2, 3, 32, 32, generator=seeded())
    z, logdet = multi(x)
    assert z.shape == (2, 3072)
    assert torch.equal(logdet, torch.zeros(2))
    assert torch.equal(multi.inverse(z)[0], x)
    assert torch.equal(z[:, :1536], Squeeze()(x)[0][:, 6:].flatten(1))


def test_permutations():
    assert Permute.reverse(4).order.tolist() == [3, 2, 1, 0]
    assert torch.equal(Permute.shuffle(9, seeded()).order, Permute.shuffle(9, seeded()).order)
    x = torch.arange(4.0)[None]
    assert Permute((2, 0, 3, 1))(x)[0].tolist() == [[2, 0, 3, 1]]


def test_squeeze_puts_rows_first():
    x = torch.arange(16.0).view(1, 1, 4, 4)
    z, _ = Squeeze()(x)
    assert z[0, :, 0, 0].tolist() == [0, 1, 4, 5]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Logit(0)(torch.tensor([[0.0]])), r"x must lie in \[0, 1\]"),
        (lambda: Logit(0.05)(torch.tensor([[1.2]])), "up to|x must lie"),
        (lambda: Logit(0.05)(torch.tensor([[math.nan]])), r"x must lie in \[0, 1\]"),
        (lambda: Logit(0.5), r"alpha must lie in \[0, 0.5\), got 0.5"),
        (lambda: Dequantise(1), "levels must be at least 2, got 1"),
        (lambda: Dequantise(256)(torch.tensor([[1 / 16]])), "x must hold multiples of 1/255"),
        (lambda: Dequantise(17)(torch.tensor([[17 / 16]])), r"multiples of 1/16 in \[0, 1\]"),
        (lambda: Dequantise(17)(torch.tensor([[-1 / 16]])), r"multiples of 1/16 in \[0, 1\]"),
        (lambda: Permute((0, 2)), r"order must be a permutation of 0..1, got \[0, 2\]"),
        (lambda: Squeeze()(torch.zeros(1, 1, 3, 4)), "x must have even height and width"),
        (lambda: Squeeze().inverse(torch.zeros(1, 6, 2, 2)), "z must have a multiple of 4"),
        (lambda: Chain(Planar(2, 3), Planar(2, 4)), r"parts must agree on context_dim, got \[3, 4"),
        (lambda: OneHot(3)(torch.tensor([3])), "y must hold labels 0 to 2, got 3 to 3"),
        (lambda: OneHot(3)(torch.tensor([-1])), "y must hold labels 0 to 2, got -1 to -1"),
        (lambda: OneHot(3)(torch.zeros(2)), "y must be int64 labels of shape"),
        (
            lambda: Flow(Affine(2), StandardNormal((2,))).sample(2, torch.zeros(2, 1)),
            r"y must be None, got \(2, 1\): this model is not conditional",
        ),
        (
            lambda: Flow(Planar(2, 3), StandardNormal((2,))).log_prob(torch.zeros(2, 2)),
            "y must have one row for each of 2 items, got None",
        ),
        (lambda: check_inputs("z", torch.zeros(3), (3,)), r"z must be a batch of shape \(B, 3\)"),
        (lambda: AdditiveCoupling(1, nn.Identity()), "dim must be at least 2"),
        (lambda: AffineCoupling(1, nn.Identity()), "features must be at least 2"),
        (lambda: Planar(0), "dim must be at least 1, got 0"),
        (lambda: RealNVP.image((1, 6, 6), scales=3), "multiples of 4 for 3 scales"),
        (lambda: MultiScale([Squeeze()], []), "shapes must be one for each of 1 scales"),
        (lambda: BatchNorm(2)(torch.zeros(1, 2)), "x must have more than one item in training"),
    ],
)
def test_what_has_no_answer_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()
