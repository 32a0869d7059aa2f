"""What 1701.05517 claims of PixelCNN++, asserted."""

import itertools
import math
from decimal import Decimal, localcontext

import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F

from gdm_lib.autoregressive import pixelcnn_pp as paper
from gdm_lib.autoregressive.pixelcnn_pp import (
    DiscretizedLogisticMixture,
    GatedResNet,
    PixelCNNpp,
    ShiftedConv2d,
    ShiftedConvTranspose2d,
    Softmax,
    concat_elu,
)
from gdm_lib.likelihoods import Categorical
from gdm_lib.nn import ClassEmbedding
from gdm_lib.protocols import Likelihood, LikelihoodModel

SMALL = {"components": 2, "features": 6, "blocks": 1}
STRIDES = pytest.mark.parametrize("strides", [(), (1,), (2,), (2, 2), (1, 2)])
SHAPES = pytest.mark.parametrize("shape", [(1, 6, 5), (3, 5, 6)])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=dtype)


def levels(*shape: int, count: int = 4, seed: int = 0) -> Tensor:
    return torch.randint(count, shape, generator=seeded(seed))


def every(places: int, count: int) -> Tensor:
    return torch.tensor(list(itertools.product(range(count), repeat=places)))


def model(shape: tuple[int, ...] = (1, 6, 5), **changes: object) -> PixelCNNpp:
    """Small, in double precision, and with every path of the same loudness."""
    made = PixelCNNpp(shape, **{"levels": 4, **SMALL, **changes}).double()
    y = torch.arange(20) % 3 if made.context_dim else None
    made.initialise(levels(20, *shape, count=made.levels), y)
    return made.eval()


def convolutions(net: nn.Module) -> list[ShiftedConv2d | ShiftedConvTranspose2d]:
    return [m for m in net.modules() if isinstance(m, ShiftedConv2d | ShiftedConvTranspose2d)]


def test_keeps_the_contract():
    made = PixelCNNpp((1, 3, 3), levels=4, **SMALL)
    assert isinstance(made, LikelihoodModel)
    assert isinstance(made.likelihood, Likelihood)
    assert made.bound is False
    assert (paper.YEAR, paper.ARXIV) == (2017, "1701.05517")
    assert made.sample(2).shape == (2, 1, 3, 3)
    assert list(made.places((1, 2, 2))) == [(0, 0), (0, 1), (1, 0), (1, 1)]


# -- sections 2.1 and 2.2: the likelihood


@pytest.mark.parametrize("levels_", [2, 3, 256])
@pytest.mark.parametrize("loudness", [1, 30])
def test_probabilities_of_all_levels_sum_to_one(levels_, loudness):
    mixture = DiscretizedLogisticMixture(levels_, 10)
    params = loudness * normal(50, 30)
    log_p = torch.stack([mixture.log_prob(params, x.expand(50, 1)) for x in every(1, levels_)])
    torch.testing.assert_close(log_p.logsumexp(0), torch.zeros(50).double(), atol=1e-12, rtol=0)


@pytest.mark.parametrize("channels", [2, 3])
def test_probabilities_of_all_colours_sum_to_one(channels):
    mixture = DiscretizedLogisticMixture(4, 3, channels)
    params = 2 * normal(7, *mixture.params_shape((channels,)))
    log_p = torch.stack([mixture.log_prob(params, c.expand(7, -1)) for c in every(channels, 4)])
    torch.testing.assert_close(log_p.logsumexp(0), torch.zeros(7).double(), atol=1e-12, rtol=0)


def test_has_ten_parameters_a_component_for_three_colours_and_three_for_one():
    assert DiscretizedLogisticMixture(256, 10, 3).params_shape((3, 32, 32)) == (100, 32, 32)
    assert DiscretizedLogisticMixture(256, 5).params_shape((1, 8, 8)) == (15, 8, 8)


def equation_2(level: int, mean: float, log_scale: float, count: int) -> Decimal:
    """Difference of two sigmoids, in units of levels as the paper writes it, to the digits that
    the caller has set."""
    scale = Decimal(log_scale).exp() * (count - 1) / 2
    centre = (Decimal(mean) + 1) * (count - 1) / 2

    def below(edge: Decimal) -> Decimal:
        return 1 / (1 + ((centre - edge) / scale).exp())

    half = Decimal("0.5")
    upper = Decimal(1) if level == count - 1 else below(level + half)
    lower = Decimal(0) if level == 0 else below(level - half)
    return upper - lower


def mixture_params(means: list[float], log_scales: list[float], logits: list[float]) -> Tensor:
    """Parameters of one grey pixel, ``(1, 3 K)``, the smooth floor of the scales undone."""
    raw = [math.log(math.expm1(s + 7)) - 7 for s in log_scales]
    return torch.tensor([[*logits, *means, *raw]], dtype=torch.float64)


@pytest.mark.parametrize("count", [2, 5, 256])
def test_equation_2_in_sixty_digits(count):
    means, log_scales, logits = [-0.7, 0.1, 1.3], [-3.0, -1.0, 0.5], [0.3, -0.4, 1.0]
    params = mixture_params(means, log_scales, logits)
    weights = torch.softmax(torch.tensor(logits, dtype=torch.float64), 0).tolist()
    mixture = DiscretizedLogisticMixture(count, 3)
    for level in {0, 1, count // 2, count - 2, count - 1}:
        with localcontext(prec=60):
            each = [equation_2(level, m, s, count) for m, s in zip(means, log_scales, strict=True)]
            mass = sum(Decimal(w) * p for w, p in zip(weights, each, strict=True))
            expected = float(mass.ln())
        got = mixture.log_prob(params, torch.tensor([[level]])).item()
        assert got == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize("mean", [-1.0, 0.99, 1.5])
def test_the_tails_are_exact_where_a_difference_of_sigmoids_is_zero(mean):
    mixture = DiscretizedLogisticMixture(256, 1)
    params = mixture_params([mean], [-5.0], [0.0])
    for level in (3, 128, 250):
        with localcontext(prec=400):
            expected = float(equation_2(level, mean, -5.0, 256).ln())
        got = mixture.log_prob(params, torch.tensor([[level]])).item()
        assert got == pytest.approx(expected, rel=1e-11)


def test_colours_depend_on_those_before_as_in_equation_3():
    """A product of three grey pixels whose means are shifted by hand, in their order."""
    count, params = 8, normal(1, 10)
    mixture, grey = DiscretizedLogisticMixture(count, 1, 3), DiscretizedLogisticMixture(count, 1)
    _, r, g, b, *raw, alpha, beta, gamma = params[0]
    for x in ([0, 7, 3], [5, 2, 0], [7, 7, 7]):
        red, green, _ = (2 * v / (count - 1) - 1 for v in x)
        means = [
            r,
            g + torch.tanh(alpha) * red,
            b + torch.tanh(beta) * red + torch.tanh(gamma) * green,
        ]
        expected = sum(
            grey.log_prob(torch.stack([torch.zeros_like(m), m, s])[None], torch.tensor([[v]]))
            for m, s, v in zip(means, raw, x, strict=True)
        )
        torch.testing.assert_close(mixture.log_prob(params, torch.tensor([x])), expected)


def test_components_are_shared_by_the_colours_of_a_pixel():
    """A mixture of two whole pixels is not the product of three mixtures."""
    mixture, single = DiscretizedLogisticMixture(6, 2, 3), DiscretizedLogisticMixture(6, 1, 3)
    params = normal(1, 20)
    first, second = params.view(1, 10, 2).unbind(2)
    weights = torch.log_softmax(params[:, :2], 1)
    x = torch.tensor([[1, 4, 2]])
    each = torch.stack([single.log_prob(first, x), single.log_prob(second, x)], 1)
    torch.testing.assert_close(mixture.log_prob(params, x), (weights + each).logsumexp(1))


@pytest.mark.parametrize(("count", "channels"), [(2, 1), (256, 1), (5, 3)])
def test_gradients_are_those_of_finite_differences(count, channels):
    mixture = DiscretizedLogisticMixture(count, 3, channels)
    params = normal(6, *mixture.params_shape((channels,))).requires_grad_()
    x = levels(6, channels, count=count)
    x[0], x[1] = 0, count - 1
    assert torch.autograd.gradcheck(lambda p: mixture.log_prob(p, x), params)


@pytest.mark.parametrize("count", [2, 256])
@pytest.mark.parametrize("raw", [-50.0, -7.0, 0.0, 3.0])
def test_gradients_live_in_the_far_tails_in_single_precision(count, raw):
    mixture = DiscretizedLogisticMixture(count, 1)
    for mean, level in itertools.product((-1e4, -3.0, 3.0, 1e4), {0, 1, count // 2, count - 1}):
        params = torch.tensor([[0.0, mean, raw]], requires_grad=True)
        log_p = mixture.log_prob(params, torch.tensor([[level]]))
        log_p.backward()
        assert torch.isfinite(log_p).all()
        assert params.grad is not None
        assert torch.isfinite(params.grad).all()
        at_home = (mean < 0 and level == 0) or (mean > 0 and level == count - 1)
        if not at_home:  # there the mass is 1, and nothing is left to gain
            assert params.grad[0, 1].item() * (2 * level / (count - 1) - 1 - mean) > 0


def test_scales_have_a_floor():
    mixture = DiscretizedLogisticMixture(256, 1)
    x = torch.tensor([[128]])
    low, lower = (mixture.log_prob(torch.tensor([[0.0, 0.2, s]]), x) for s in (-100.0, -1e6))
    torch.testing.assert_close(low, lower)
    floor = mixture_params([0.2], [-6.9999], [0.0])
    assert low.item() == pytest.approx(mixture.log_prob(floor, x).item(), rel=1e-3)


@pytest.mark.parametrize(
    "likelihood",
    [
        DiscretizedLogisticMixture(9, 2),
        DiscretizedLogisticMixture(3, 1),
        DiscretizedLogisticMixture(4, 3, 3),
        Softmax(9),
        Softmax(4, 3),
    ],
)
@pytest.mark.parametrize("at", [(), (2, 3)])
def test_samples_follow_the_probabilities(likelihood, at):
    channels, count = likelihood.channels, likelihood.levels
    params = normal(*likelihood.params_shape((channels,)), seed=2)
    everything = every(channels, count)
    repeated = params.expand(len(everything), -1)
    expected = likelihood.log_prob(repeated, everything).exp()
    n = 12_000
    spread = params.view(1, -1, *(1 for _ in at)).expand(n // math.prod(at), -1, *at)
    drawn = likelihood.sample(spread, generator=seeded(5))
    assert drawn.dtype == torch.int64
    assert drawn.shape == (n // math.prod(at), channels, *at)
    places = torch.tensor([count**c for c in reversed(range(channels))])
    codes = (drawn.movedim(1, -1) * places).sum(-1).flatten()
    counts = torch.bincount(codes, minlength=len(everything)).double()
    often = n * expected > 5
    observed = torch.cat([counts[often], counts[~often].sum()[None]])
    wanted = n * torch.cat([expected[often], expected[~often].sum()[None]])
    if wanted[-1] == 0:
        observed, wanted = observed[:-1], wanted[:-1]
    assert stats.chisquare(observed.numpy(), wanted.numpy()).pvalue > 1e-3


def test_samples_can_be_repeated():
    mixture, params = DiscretizedLogisticMixture(256, 4, 3), normal(100, 40)
    one, same, other = (mixture.sample(params, generator=seeded(s)) for s in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    "likelihood",
    [
        DiscretizedLogisticMixture(256, 10),
        DiscretizedLogisticMixture(5, 2, 2),
        DiscretizedLogisticMixture(4, 3, 3),
        Softmax(7),
        Softmax(3, 3),
    ],
)
def test_mean_is_the_sum_over_all_levels(likelihood):
    everything = every(likelihood.channels, likelihood.levels)
    params = 2 * normal(3, *likelihood.params_shape((likelihood.channels,)))
    p = torch.stack([likelihood.log_prob(params, x.expand(3, -1)).exp() for x in everything])
    expected = torch.einsum("lb,lc->bc", p, everything.double())
    torch.testing.assert_close(likelihood.mean(params), expected)
    image = params[..., None, None].expand(-1, -1, 2, 5)
    spread = expected[..., None, None].expand(-1, -1, 2, 5)
    torch.testing.assert_close(likelihood.mean(image), spread)


def test_softmax_of_a_grey_pixel_is_the_categorical():
    params, x = normal(4, 9, 2, 3), levels(4, 1, 2, 3, count=9)
    expected = Categorical(9).log_prob(params, x[:, 0])
    torch.testing.assert_close(Softmax(9).log_prob(params, x), expected)


@pytest.mark.parametrize("kind", [DiscretizedLogisticMixture, Softmax])
def test_what_no_pixel_can_be_is_refused_by_name(kind):
    likelihood = kind(4)
    params = torch.zeros(2, *likelihood.params_shape((1, 3, 3)))
    x = levels(2, 1, 3, 3)
    for bad, told in [
        (x + 4, "x must hold levels 0 to 3, got 4 to"),
        (x - 4, "x must hold levels 0 to 3, got -4"),
        (x.float(), "x must hold int64 levels"),
        (x.expand(-1, 3, -1, -1), "data_shape must start with 1 channels, got .3, 3, 3."),
        (x[:, :, 1:], "params must have shape"),
    ]:
        with pytest.raises(ValueError, match=told):
            likelihood.log_prob(params, bad)
    with pytest.raises(ValueError, match="levels must be at least 2"):
        kind(1)


# -- section 2 and the code: weight normalisation, and its initialisation by data


def test_concat_elu_is_the_elu_of_both_signs():
    x = torch.tensor([[-2.0, 0.0, 3.0]])
    a, b = math.expm1(-2), math.expm1(-3)
    torch.testing.assert_close(concat_elu(x), torch.tensor([[a, 0.0, 3.0, 2.0, 0.0, b]]))


@pytest.mark.parametrize(
    "conv",
    [
        ShiftedConv2d(3, 4, (2, 3), (0, 1)),
        ShiftedConv2d(3, 4, (2, 2), stride=2),
        ShiftedConvTranspose2d(3, 4, (2, 3), (0, 1), 2),
    ],
)
def test_the_length_of_a_weight_does_not_depend_on_its_direction(conv):
    axes = (0, 2, 3) if isinstance(conv, nn.ConvTranspose2d) else (1, 2, 3)
    length, direction = (
        getattr(conv.parametrizations.weight, name) for name in ("original0", "original1")
    )
    with torch.no_grad():
        length.copy_(torch.arange(1.0, 5.0).view(length.shape))
        direction.mul_(7)
    torch.testing.assert_close(conv.weight.square().sum(axes).sqrt(), torch.arange(1.0, 5.0))


@SHAPES
@STRIDES
def test_after_initialisation_every_convolution_has_mean_0_and_its_gain(shape, strides):
    made = PixelCNNpp(
        shape, levels=4, strides=strides, context_dim=3, embed=ClassEmbedding(3, 3), **SMALL
    ).double()
    x, y = levels(30, *shape), torch.arange(30) % 3
    made.train()
    made.initialise(x, y)
    assert made.training, "as it was"
    seen = dict[nn.Module, Tensor]()
    for conv in convolutions(made):
        conv.register_forward_hook(lambda m, _, out: seen.update({m: out}))
    made.eval()(x, y)
    assert len(seen) == len(convolutions(made))
    for conv, out in seen.items():
        channels = out.transpose(0, 1).flatten(1)
        zero = torch.zeros(len(channels)).double()
        torch.testing.assert_close(channels.mean(1), zero, atol=1e-9, rtol=0)
        torch.testing.assert_close(channels.std(1, correction=0), zero + conv.gain)
    gains = {conv.gain for conv in seen}
    assert gains == {1.0, 0.1}, "the residual branches start small"


def test_initialisation_leaves_directions_alone_and_survives_what_is_constant():
    made = PixelCNNpp((1, 1, 1), levels=4, strides=(), **SMALL)
    before = [c.parametrizations.weight.original1.clone() for c in convolutions(made)]
    made.initialise(levels(10, 1, 1, 1))
    for conv, direction in zip(convolutions(made), before, strict=True):
        assert torch.equal(conv.parametrizations.weight.original1, direction)
        assert conv.weight.abs().max() < 10
    assert not any(conv._forward_hooks for conv in convolutions(made))


# -- section 2.3: shifts, streams, resolutions


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("kernel", "end"),
    [((2, 3), (0, 1)), ((2, 2), (0, 0)), ((2, 3), (-1, 1)), ((1, 3), (-1, 1)), ((2, 1), (0, -1))],
)
def test_a_shifted_convolution_sees_its_kernel_and_no_more(kernel, end, stride):
    conv = ShiftedConv2d(1, 1, kernel, end, stride=stride).double()
    x = normal(1, 1, 7, 6).requires_grad_()
    out = conv(x)
    assert out.shape == (1, 1, -(-7 // stride), -(-6 // stride))
    for i, j in itertools.product(*map(range, out.shape[2:])):
        (slope,) = torch.autograd.grad(out[0, 0, i, j], x, retain_graph=True)
        expected = torch.zeros(7, 6).double()
        for a, b in itertools.product(*map(range, kernel)):
            row = i * stride + end[0] - kernel[0] + 1 + a
            column = j * stride + end[1] - kernel[1] + 1 + b
            if 0 <= row < 7 and 0 <= column < 6:
                expected[row, column] = conv.weight[0, 0, a, b]
        torch.testing.assert_close(slope[0, 0], expected)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("kernel", "end"), [((2, 3), (0, 1)), ((2, 2), (0, 0))])
def test_growing_spreads_each_pixel_from_itself_on(kernel, end, stride):
    """Down and right, so that nothing later than a pixel reaches it; ``u``, which knows nothing of
    the row, also to the left."""
    grow = ShiftedConvTranspose2d(1, 1, kernel, end, stride).double()
    z = normal(1, 1, 4, 3).requires_grad_()
    height, width = 4 * stride, 3 * stride
    out = grow(z, (height, width))
    for i, j in itertools.product(range(height), range(width)):
        (slope,) = torch.autograd.grad(out[0, 0, i, j], z, retain_graph=True)
        expected = torch.zeros(4, 3).double()
        for a, b in itertools.product(range(4), range(3)):
            row, column = i - a * stride, j - b * stride + end[1]
            if 0 <= row < kernel[0] and 0 <= column < kernel[1]:
                expected[a, b] = grow.weight[0, 0, row, column]
        torch.testing.assert_close(slope[0, 0], expected)


def leans(made: PixelCNNpp, shape: tuple[int, ...]) -> Tensor:
    """How far the parameters of pixel p lean on pixel q: ``(H W, H W)``."""
    places = shape[1] * shape[2]
    weights = normal(made.likelihood.params_shape(shape)[0], seed=1)
    image = normal(1, *shape)
    slopes = torch.autograd.functional.jacobian(
        lambda v: torch.einsum("bphw,p->hw", made.features(v), weights), image
    )
    return slopes.abs().sum((2, 3)).reshape(places, places)


@SHAPES
@STRIDES
def test_every_pixel_sees_all_before_it_and_none_from_itself_on(shape, strides):
    made = model(shape, strides=strides, blocks=3)
    seen = leans(made, shape)
    before = torch.ones_like(seen, dtype=torch.bool).tril(-1)
    assert (seen[~before] == 0).all()
    assert (seen[before] > 0).all()


def test_u_sees_the_rows_above_only():
    made, x = model((1, 5, 5)), normal(1, 1, 5, 5)

    def stream(v: Tensor) -> Tensor:
        marked = torch.cat([v, torch.ones_like(v)], 1)
        return made.u(made.first_u(marked), (), None)[0][-1].sum(1)

    seen = torch.autograd.functional.jacobian(stream, x)[0, :, :, 0, 0].abs().sum(1)
    rows = seen.sum(-1)  # (row of the output, row of the input)
    assert (rows.triu() == 0).all()
    assert (seen[torch.ones(5, 5).tril(-1).bool()] > 0).all()


def test_padding_is_told_from_grey():
    """By a channel of ones: to the first layers an image of zeros would else look like none."""
    made, seen = model((1, 4, 4)), list[Tensor]()
    made.first_u.register_forward_hook(lambda _, args, out: seen.append(out[0]))
    made.features(torch.zeros(1, 1, 4, 4).double())
    assert not torch.allclose(seen[0][:, 0, 1], seen[0][:, 3, 1])
    assert not torch.allclose(seen[0][:, 3, 0], seen[0][:, 3, 1])


@pytest.mark.parametrize(
    "changes",
    [
        {"strides": ()},
        {"strides": (2,)},
        {"strides": (1, 1)},
        {},
        {"strides": (2,), "shortcuts": False},
        {"likelihood": Softmax(2)},
    ],
)
def test_probabilities_of_all_images_sum_to_one(changes):
    made, x = model((1, 3, 3), levels=2, **changes), every(9, 2).view(-1, 1, 3, 3)
    with torch.no_grad():
        log_p = made.log_prob(x)
    assert log_p.std() > 0.1, "a uniform model would pass"
    assert log_p.logsumexp(0).item() == pytest.approx(0, abs=1e-10)


def test_layers_are_computed_at_their_resolution():
    made = model((1, 12, 8))
    sizes = list[tuple[int, int]]()
    for layer in made.ul.modules():
        if isinstance(layer, GatedResNet):
            layer.register_forward_hook(lambda _, args, out: sizes.append(tuple(out.shape[2:])))
    made.features(normal(1, 1, 12, 8))
    down, low = [(12, 8), (6, 4), (3, 2)], [(3, 2)]
    assert sizes == [*down, *low, (6, 4), (6, 4), (12, 8), (12, 8)]


def test_without_downsampling_there_are_as_many_weights():
    def count(strides: tuple[int, ...]) -> int:
        return sum(p.numel() for p in PixelCNNpp((1, 8, 8), strides=strides, **SMALL).parameters())

    assert count((2, 2)) == count((1, 1)) > count((2,)) > count(())


# -- section 2.4: short-cuts


def test_shortcuts_join_the_layers_that_mirror_each_other():
    """Each layer up is given what its mirror put out; with the way between them cut, its gradient
    still gets there. Without short-cuts it does not."""
    for shortcuts in (True, False):
        made = model((1, 8, 8), shortcuts=shortcuts)
        for stream in (made.u, made.ul):
            kept = list[Tensor]()
            stream.down[0].register_forward_hook(lambda _, args, out, k=kept: k.append(out))
            stream.grow.register_forward_hook(lambda _, args, out: torch.zeros_like(out))
            x = normal(1, 6, 8, 8).requires_grad_()
            others = made.u(x, (), None) if stream is made.ul else ()
            others = [[v.detach() for v in layers] for layers in others]
            kept.clear()
            out = stream(x, others, None)[0][-1]
            (slope,) = torch.autograd.grad(out.sum(), kept[0], allow_unused=True)
            assert (slope is not None and slope.abs().sum() > 0) == shortcuts


def test_short_cuts_run_from_the_last_layer_down_to_the_first_up():
    made = model((1, 8, 8), strides=(2,))
    given, made_by = list[Tensor](), list[Tensor]()
    outer = made.u
    for layer in outer.down:
        layer.register_forward_hook(lambda _, args, out: made_by.append(out))
    for layer in outer.up:
        layer.register_forward_hook(lambda _, args, out: given.append(args[1][0]))
    x = normal(1, 6, 8, 8)
    outer(x, (), None)
    for a, b in zip(given, [*reversed(made_by), x], strict=True):
        assert torch.equal(a, b)


def test_without_short_cuts_detail_is_lost():
    """All that a pixel then knows has passed through the coarsest pixel above and to its left."""
    shape = (1, 8, 8)
    seen = leans(model(shape, shortcuts=False, blocks=3), shape).reshape(8, 8, 8, 8)
    for i, j in itertools.product(range(8), range(8)):
        a, b = i - i % 4, j - j % 4
        assert (seen[i, j, a + 1 :] == 0).all()
        assert (seen[i, j, a, b:] == 0).all()
    assert (seen[7, 7, :4] > 0).all()


# -- section 2.5: dropout


def test_dropout_acts_in_training_only():
    made, x = model(), levels(4, 1, 6, 5)
    assert torch.equal(made(x), made(x))
    made.train()
    assert not torch.allclose(made(x), made(x))
    still = model(dropout=0.0).train()
    assert torch.equal(still(x), still(x))


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.5, 1.0])
def test_dropout_keeps_the_expectation(rate):
    layer = GatedResNet(2, (2, 2), (0, 0), dropout=rate).dropout.train()
    out = layer(torch.ones(200, 500))
    kept = out[out != 0]
    torch.testing.assert_close(kept, torch.ones_like(kept) / max(1 - rate, 0.1))
    dropped = (out == 0).double().mean().item()
    assert dropped == pytest.approx(rate, abs=5 * math.sqrt(rate * (1 - rate) / 1e5))


def test_generation_has_no_dropout():
    made = model().train()
    one, other = (made.sample(2, generator=seeded(3)) for _ in range(2))
    assert torch.equal(one, other)
    assert made.training


# -- the gated layer, its context


def test_a_gated_layer_is_its_formula():
    layer = GatedResNet(4, (2, 3), (0, 1), beside=5, context_dim=3, dropout=0.0).double()
    x, beside, context = normal(2, 4, 5, 6), normal(2, 5, 5, 6, seed=1), normal(2, 3, seed=2)

    def conv(name: str, v: Tensor) -> Tensor:
        module = getattr(layer, name)
        padded = v if name == "from_beside" else F.pad(v, (1, 1, 1, 0))
        return F.conv2d(padded, module.weight, module.bias)

    h = conv("first", concat_elu(x)) + conv("from_beside", concat_elu(beside))
    h = conv("second", concat_elu(h)) + (context @ layer.from_context.weight.T)[..., None, None]
    expected = x + h[:, :4] * torch.sigmoid(h[:, 4:])
    torch.testing.assert_close(layer(x, [beside], context), expected)


def test_the_class_reaches_every_pixel():
    made = model((1, 4, 5), context_dim=3, embed=ClassEmbedding(3, 3))
    x = levels(1, 1, 4, 5)
    a, b = (made(x, torch.tensor([label])) for label in (0, 1))
    assert ((a - b).abs().amax(1) > 1e-8).all()


# -- sampling with caches


class Recorder:
    """A rule that draws, and remembers the parameters it saw."""

    def __init__(self, made: PixelCNNpp) -> None:
        self.likelihood, self.generator = made.likelihood, seeded(3)
        self.params: list[Tensor] = []

    def __call__(self, params: Tensor, place: tuple[int, ...]) -> Tensor:
        self.params.append(params.clone())
        return self.likelihood.sample(params, generator=self.generator)


@pytest.mark.parametrize(
    ("shape", "changes", "dtype"),
    [
        ((1, 6, 6), {"blocks": 2}, torch.float64),
        ((1, 6, 6), {}, torch.float32),
        ((3, 5, 7), {}, torch.float64),
        ((3, 5, 4), {"context_dim": 3, "embed": ClassEmbedding(3, 3)}, torch.float32),
        ((1, 7, 5), {"strides": (1, 2)}, torch.float64),
        ((1, 5, 6), {"strides": (2, 1), "shortcuts": False}, torch.float64),
        ((1, 4, 4), {"strides": (), "blocks": 2}, torch.float64),
        ((1, 5, 3), {"likelihood": Softmax(4)}, torch.float64),
        ((3, 4, 5), {"context_dim": 3, "embed": ClassEmbedding(3, 3)}, torch.float64),
        ((1, 1, 5), {}, torch.float64),
        ((1, 5, 1), {}, torch.float64),
    ],
)
def test_the_cached_sampler_is_the_naive_one_at_every_step(shape, changes, dtype):
    made = model(shape, **changes).to(dtype)
    y = torch.tensor([0, 2, 1]) if made.context_dim else None
    naive, cached = Recorder(made), Recorder(made)
    expected = made.generate_naive(naive, 3, y)
    assert torch.equal(made.generate(cached, 3, y), expected)
    assert len(cached.params) == shape[1] * shape[2]
    atol = 1e-5 if dtype == torch.float32 else 1e-10
    for a, b in zip(naive.params, cached.params, strict=True):
        torch.testing.assert_close(b, a, rtol=0, atol=atol)


def test_coarse_layers_run_at_every_second_row_and_column_only(monkeypatch):
    """One matrix product for each pixel of each layer's own grid."""
    made = model((1, 8, 8))
    rows = list[int]()
    product = torch.addmm

    def counted(*args: Tensor) -> Tensor:
        rows.append(1)
        return product(*args)

    monkeypatch.setattr(torch, "addmm", counted)
    made.sample(1, generator=seeded())
    # The first layer and the head; then with 3 products each a layer at every resolution on the
    # way down, on the way up two more, or one at the coarsest; and those of the strides.
    fine, half, quarter = 64, 16, 4
    layers = 3 * (3 * fine + 3 * half + 2 * quarter)
    assert len(rows) == 2 * fine + layers + half + quarter


# -- what is refused


def test_bad_arguments_are_refused_by_name():
    with pytest.raises(ValueError, match=r"data_shape must be \(C, H, W\), got \(3, 3\)"):
        PixelCNNpp((3, 3))
    with pytest.raises(ValueError, match=r"strides each 1 or 2 .* got 1 and \(3,\)"):
        PixelCNNpp((1, 6, 6), strides=(3,), **SMALL)
    with pytest.raises(ValueError, match="blocks must be at least 1"):
        PixelCNNpp((1, 6, 6), **{**SMALL, "blocks": 0})
    with pytest.raises(ValueError, match="data_shape must start with 1 channels"):
        PixelCNNpp((3, 6, 6), likelihood=Softmax(256), **SMALL)
    with pytest.raises(ValueError, match="components and channels at least 1, got 4, 0 and 1"):
        PixelCNNpp((1, 6, 6), levels=4, components=0)


def test_bad_input_is_refused_by_name():
    made, x = model((1, 4, 4), context_dim=3, embed=ClassEmbedding(3, 3)), levels(2, 1, 4, 4)
    y = torch.tensor([0, 2])
    for image, label, told in [
        (x[:, :, 1:], y, r"x must be a batch of shape \(B, 1, 4, 4\)"),
        (x + 4, y, "x must hold levels 0 to 3"),
        (x, y + 1, "y must hold labels 0 to 2, got 1 to 3"),
        (x, None, "y must have one row for each of 2 items"),
    ]:
        with pytest.raises(ValueError, match=told):
            made.log_prob(image, label)
        with pytest.raises(ValueError, match=told):
            made.initialise(image, label)
    spatial = PixelCNNpp((1, 4, 4), levels=4, context_dim=3, **SMALL)
    with pytest.raises(ValueError, match="has no context for each place"):
        spatial.log_prob(x, torch.zeros(2, 3, 4, 4))
