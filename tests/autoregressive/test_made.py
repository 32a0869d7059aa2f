"""What 1502.03509 claims of MADE, asserted."""

import itertools

import pytest
import torch
from scipy import stats
from torch import nn

from gdm_lib.autoregression import sequential, sequential_naive
from gdm_lib.autoregressive import made as paper
from gdm_lib.autoregressive.made import (
    MADE,
    MaskedMLP,
    mask,
    random_degrees,
    random_orders,
    spread_degrees,
)
from gdm_lib.bijections import OneHot
from gdm_lib.likelihoods import (
    Bernoulli,
    Categorical,
    DiscretizedLogisticMixture,
    Gaussian,
    Softmax,
)
from gdm_lib.protocols import LikelihoodModel
from tests.helpers import loud, seeded

ORDER = [2, 0, 4, 1, 3]
DEGREES = pytest.mark.parametrize("degrees", [spread_degrees, random_degrees])


def every_bit_string(dim: int) -> torch.Tensor:
    return torch.tensor(list(itertools.product([0.0, 1.0], repeat=dim)), dtype=torch.float64)


def test_keeps_the_contract():
    model = MADE((1, 2, 3), (8,))
    assert isinstance(model, LikelihoodModel)
    assert model.bound is False
    assert paper.ARXIV == "1502.03509"
    assert model.sample(4).shape == (4, 1, 2, 3)


def test_masks_are_equations_8_and_9():
    places, units = torch.tensor([1, 2, 3]), torch.tensor([1, 2, 2, 1])
    hidden = [[1, 0, 0], [1, 1, 0], [1, 1, 0], [1, 0, 0]]
    output = [[0, 0, 0, 0], [1, 0, 0, 1], [1, 1, 1, 1]]
    assert mask(places, units, strict=False).tolist() == hidden
    assert mask(units, places, strict=True).tolist() == output


@pytest.mark.parametrize("activation", [nn.Tanh, nn.Softplus])
@pytest.mark.parametrize("hidden", [(), (40,), (40, 50, 30)])
@DEGREES
def test_jacobian_is_zero_exactly_where_the_order_says(hidden, degrees, activation):
    net = MaskedMLP(
        5, hidden, 2, orders=[ORDER], degrees=degrees, activation=activation, generator=seeded()
    )
    loud(net, 0.8)
    x = torch.randn(1, 5, generator=seeded(2), dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda v: net(v), x)[0, :, :, 0]
    place = torch.tensor(ORDER).argsort()
    before = place[:, None] > place
    for p in range(2):
        assert (jacobian[p][~before] == 0).all()
        assert (jacobian[p][before] != 0).all(), "a path that the masks should leave is cut"


def test_degrees_reach_every_value_and_respect_the_layer_below():
    for degrees in (spread_degrees, random_degrees):
        net = MaskedMLP(6, (300, 300), degrees=degrees, generator=seeded())
        for layer in (1, 2):
            assert net.degrees(layer).unique().tolist() == [1, 2, 3, 4, 5]
    counts = torch.bincount(spread_degrees(100, 1, 5))[1:]
    assert counts.tolist() == [20] * 5


def test_random_degrees_of_a_layer_start_at_the_lowest_of_the_layer_before():
    """A unit below it would see nothing (section 4.1)."""
    for seed in range(20):
        net = MaskedMLP(50, (2, 20), degrees=random_degrees, generator=seeded(seed))
        assert net.degrees(2).min() >= net.degrees(1).min()


@pytest.mark.parametrize("orders", [None, [[2, 0, 3, 1]], [[0, 1, 2, 3], [3, 1, 0, 2]]])
def test_probabilities_of_all_bit_strings_sum_to_one(orders):
    model = loud(MADE((4,), (12, 9), orders=orders), 0.8)
    total = model.log_prob(every_bit_string(4)).logsumexp(0)
    assert float(total.detach()) == pytest.approx(0, abs=1e-10)


def test_log_prob_is_the_product_of_the_conditionals():
    """Conditionals from ratios of marginals, by summing the joint: equation 2."""
    model = loud(MADE((4,), (12,), orders=[[2, 0, 3, 1]]), 0.8)
    every = every_bit_string(4)
    with torch.no_grad():
        joint = model.log_prob(every).exp()
        params = torch.sigmoid(model.net(every)[:, 0])
    seen: list[int] = []
    for i in (2, 0, 3, 1):
        for row, x in enumerate(every):
            same = (every[:, seen] == x[seen]).all(1)
            one = joint[same & (every[:, i] == 1)].sum() / joint[same].sum()
            torch.testing.assert_close(params[row, i], one)
        seen.append(i)


def test_several_orders_average_their_probabilities():
    model = loud(MADE((4,), (12,), orders=random_orders(4, 3, seeded())), 0.8)
    x = every_bit_string(4)
    each = torch.stack([model.log_prob_of_order(x, k).exp() for k in range(3)])
    torch.testing.assert_close(model.log_prob(x).exp(), each.mean(0))
    assert (each.std(0) > 1e-4).any(), "the orders differ"


def test_training_draws_among_the_orders():
    model = loud(MADE((4,), (12,), orders=random_orders(4, 3, seeded())), 0.8)
    x = every_bit_string(4)
    seen = {float(model.loss(x, generator=seeded(i))["loss"].detach()) for i in range(30)}
    assert len(seen) == 3


@pytest.mark.parametrize("orders", [[[2, 0, 3, 1]], [[0, 1, 2, 3], [3, 1, 0, 2]]])
def test_samples_follow_the_model(orders):
    model = loud(MADE((4,), (12,), orders=orders), 0.8)
    n = 20_000
    p = model.log_prob(every_bit_string(4)).exp().detach()
    code = model.sample(n, generator=seeded()) @ (2.0 ** torch.arange(3, -1, -1).double())
    counts = torch.bincount(code.long(), minlength=16).double()
    chi2 = float(((counts - n * p) ** 2 / (n * p)).sum())
    assert chi2 < stats.chi2(15).ppf(0.9999)


def test_gaussian_conditionals_integrate_to_one_and_are_sampled():
    model = loud(MADE((2,), (12,), likelihood=Gaussian(), activation=nn.Tanh), 0.5)
    x = model.sample(20_000, generator=seeded())
    edges = torch.linspace(float(x.min()) - 3, float(x.max()) + 3, 501, dtype=torch.float64)
    middles = 0.5 * (edges[1:] + edges[:-1])
    with torch.no_grad():
        density = model.log_prob(torch.cartesian_prod(middles, middles)).exp().view(500, 500)
    mass = density * float(edges[1] - edges[0]) ** 2
    assert float(mass.sum()) == pytest.approx(1, abs=2e-3)
    for axis in (0, 1):
        cdf = mass.sum(1 - axis).cumsum(0)
        at = torch.searchsorted(edges, x[:, axis].contiguous()) - 1
        assert stats.kstest(cdf[at].numpy(), "uniform").statistic < 0.02


def test_every_parameter_gets_a_gradient():
    model = MADE((5,), (30, 20), likelihood=Gaussian(), context_dim=3)
    model.loss(torch.randn(6, 5), torch.randn(6, 3))["loss"].backward()
    for name, p in model.named_parameters():
        assert p.grad.abs().sum() > 0, name


def test_a_context_reaches_every_conditional_the_first_too():
    net = loud(MaskedMLP(4, (16, 16), 1, context_dim=2, activation=nn.Softplus), 0.8)
    x, context = torch.zeros(1, 4).double(), torch.zeros(1, 2).double()
    jacobian = torch.autograd.functional.jacobian(lambda c: net(x, c), context)[0, 0, :, 0]
    assert (jacobian != 0).all()
    jacobian = torch.autograd.functional.jacobian(lambda v: net(v, context), x)[0, 0, :, 0]
    assert torch.equal(jacobian != 0, torch.ones(4, 4).tril(-1).bool())


def test_labels_condition_through_an_embedding():
    model = loud(MADE((3,), (12,), context_dim=2, embed=OneHot(2)), 0.8)
    x = every_bit_string(3)
    both = [model.log_prob(x, torch.full((8,), k)).exp().detach() for k in (0, 1)]
    for p in both:
        assert float(p.sum()) == pytest.approx(1)
    assert not torch.allclose(*both, atol=1e-2)
    draws = model.sample(8000, torch.arange(2).repeat(4000), generator=seeded())
    code = (draws @ (2.0 ** torch.arange(2, -1, -1).double())).long()
    for k in (0, 1):
        counts = torch.bincount(code[k::2], minlength=8).double()
        chi2 = float(((counts - 4000 * both[k]) ** 2 / (4000 * both[k])).sum())
        assert chi2 < stats.chi2(7).ppf(0.9999)


@pytest.mark.parametrize("orders", [1, 2])
@pytest.mark.parametrize("direct", [False, True])
def test_a_checkpoint_brings_its_degrees_and_so_its_masks(orders, direct):
    def make(seed: int) -> MADE:
        return MADE(
            (5,), (20, 20), degrees=random_degrees, generator=seeded(seed), direct=direct,
            orders=random_orders(5, orders, seeded(seed)),
        )  # fmt: skip

    first, second = loud(make(0), 0.8), make(1).double()
    x = every_bit_string(5)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.log_prob(x), second.log_prob(x))
    assert float(second.log_prob(x).logsumexp(0).detach()) == pytest.approx(0, abs=1e-10)
    assert torch.equal(first.sample(5, generator=seeded(3)), second.sample(5, generator=seeded(3)))


@pytest.mark.parametrize("dim", [1, 2])
def test_one_and_two_variables(dim):
    model = loud(MADE((dim,), (4,)), 0.8)
    total = model.log_prob(every_bit_string(dim)).logsumexp(0)
    assert float(total.detach()) == pytest.approx(0, abs=1e-10)
    assert model.sample(3, generator=seeded()).shape == (3, dim)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: MADE((3,), orders=[[0, 1]]), r"orders must be permutations of 0..2, got \[\[0, 1"),
        (lambda: MADE((3,), orders=[[0, 1, 1]]), "orders must be permutations of 0..2"),
        (lambda: MADE((3,)).log_prob(torch.zeros(2, 4)), r"x must be a batch of shape \(B, 3\)"),
        (lambda: MADE((3,)).log_prob(torch.full((2, 3), 0.5)), "x must hold only 0 and 1"),
        (lambda: MADE((3,)).loss(torch.zeros(2, 3), torch.zeros(2, 1)), "y must be None"),
        (
            lambda: MADE((3,), context_dim=2).log_prob(torch.zeros(2, 3)),
            "y must have one row for each of 2 items, got None",
        ),
        (
            lambda: MADE((3,), context_dim=2).sample(4, torch.zeros(4, 3)),
            r"y must give a context of 2 features, \(B, 2\), got \(4, 3\)",
        ),
    ],
)  # fmt: skip
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_bernoulli_is_the_default():
    assert isinstance(MADE((3,)).likelihood, Bernoulli)


# -- as the authors' code has it


@pytest.mark.parametrize("hidden", [(), (40,), (40, 30)])
@DEGREES
def test_direct_connections_leave_the_jacobian_strictly_triangular(hidden, degrees):
    net = MaskedMLP(
        5, hidden, 2, orders=[ORDER], degrees=degrees, direct=True, activation=nn.Tanh,
        generator=seeded(),
    )  # fmt: skip
    loud(net, 0.8)
    x = torch.randn(1, 5, generator=seeded(2), dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda v: net(v), x)[0, :, :, 0]
    place = torch.tensor(ORDER).argsort()
    before = place[:, None] > place
    assert torch.equal(jacobian != 0, before.expand(2, 5, 5))
    with torch.no_grad():
        for layer in net.layers:
            layer.weight.zero_()
    linear = torch.autograd.functional.jacobian(lambda v: net(v), x)[0, :, :, 0]
    assert torch.equal(linear != 0, before.expand(2, 5, 5)), "the direct weights alone do it"


@pytest.mark.parametrize("masks", [1, 3])
def test_with_direct_connections_and_several_masks_probabilities_sum_to_one(masks):
    model = MADE(
        (4,), (12, 9), orders=random_orders(4, 2, seeded()), degrees=random_degrees,
        direct=True, masks=masks, generator=seeded(1),
    )  # fmt: skip
    loud(model, 0.8)
    assert model.net.orders == 2 * masks
    total = model.log_prob(every_bit_string(4)).logsumexp(0)
    assert float(total.detach()) == pytest.approx(0, abs=1e-10)


def test_training_draws_among_the_masks_of_one_order():
    model = loud(MADE((6,), (9,), degrees=random_degrees, masks=4, generator=seeded()), 0.8)
    assert len({tuple(model.net.degrees(1, k).tolist()) for k in range(4)}) == 4
    assert len({tuple(model.net.degrees(0, k).tolist()) for k in range(4)}) == 1
    x = every_bit_string(6)
    seen = {float(model.loss(x, generator=seeded(i))["loss"].detach()) for i in range(40)}
    assert len(seen) == 4


def test_many_masks_take_little_memory():
    model = MADE((50,), (100,), degrees=random_degrees, masks=300)
    weights = sum(p.numel() for p in model.parameters())
    assert sum(b.numel() * b.element_size() for b in model.buffers()) < 40 * weights


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("hidden", [(), (9,), (9, 7)])
@pytest.mark.parametrize("context_dim", [0, 3])
def test_the_incremental_sampler_is_the_naive_one(direct, hidden, context_dim):
    net = MaskedMLP(
        5, hidden, 2, orders=[ORDER, ORDER[::-1]], degrees=random_degrees, direct=direct,
        context_dim=context_dim, generator=seeded(),
    )  # fmt: skip
    loud(net, 0.8)
    start = torch.zeros(6, 5, dtype=torch.float64)
    context = torch.randn(6, 3, generator=seeded(1)).double() if context_dim else None
    noise = torch.randn(5, 6, generator=seeded(2)).double()

    def rule(params: torch.Tensor, place: tuple[int, ...]) -> torch.Tensor:
        mean, log_scale = params.unbind(1)
        return mean + torch.tanh(log_scale).exp() * noise[place[0]]

    with torch.no_grad():
        for order in (0, 1):
            fast, slow = (
                solve(net, rule, start, context, order) for solve in (sequential, sequential_naive)
            )
            torch.testing.assert_close(fast, slow)


@pytest.mark.parametrize("hidden", [(), (64,), (64, 64)])
@DEGREES
def test_a_context_reaches_the_first_variable_of_every_net(hidden, degrees):
    """With ReLU, and degrees as they fall: the first conditional has no other input."""
    for seed in range(50):
        torch.manual_seed(seed)
        net = MaskedMLP(64, hidden, degrees=degrees, context_dim=2, generator=seeded(seed))
        with torch.no_grad():
            out = net(torch.zeros(2, 64), torch.eye(2))[:, 0]
        assert (out[0] != out[1]).all()
        for layer in range(1, len(hidden) + 1):
            assert net.degrees(layer).min() == 0


def test_a_checkpoint_from_before_the_context_reached_the_output_is_the_same_network():
    old = MaskedMLP(5, (8,), context_dim=2)
    nn.init.zeros_(old.context_to_output.weight)
    state = {k: v for k, v in old.state_dict().items() if k != "context_to_output.weight"}
    new = MaskedMLP(5, (8,), context_dim=2)
    new.load_state_dict(state)
    x, context = torch.randn(3, 5, generator=seeded()), torch.randn(3, 2, generator=seeded(1))
    assert torch.equal(new(x, context), old(x, context))


@pytest.mark.parametrize(
    "likelihood", [Categorical(3), DiscretizedLogisticMixture(3, 2), Softmax(3)]
)
def test_levels_are_a_density_too(likelihood):
    model = loud(MADE((1, 3), (12,), likelihood=likelihood, direct=True), 0.5)
    every = torch.tensor(list(itertools.product(range(3), repeat=3)))[:, None]
    p = model.log_prob(every).exp().detach()
    assert float(p.sum()) == pytest.approx(1)
    x = model.sample(20_000, generator=seeded())
    assert x.shape == (20_000, 1, 3)
    assert x.dtype == torch.int64
    counts = torch.bincount((x[:, 0] @ torch.tensor([9, 3, 1])), minlength=27).double()
    chi2 = float(((counts - 20_000 * p) ** 2 / (20_000 * p)).sum())
    assert chi2 < stats.chi2(26).ppf(0.9999)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: MADE((3,), orders=[0, 1, 2]), r"got \[0, 1, 2\]; one order alone is \[order\]"),
        (lambda: MADE((3,), orders=[]), "orders must be permutations"),
        (lambda: MADE((3,), masks=0), "masks must be at least 1, got 0"),
        (lambda: MADE((3,), masks=2), "masks must be 1 with spread_degrees.*random_degrees"),
        (
            lambda: MADE((3, 2), likelihood=DiscretizedLogisticMixture(4, channels=3)),
            "likelihood must be of one variable.*channels=1",
        ),
        (
            lambda: MADE((3,), likelihood=Categorical(4)).log_prob(torch.zeros(2, 3)),
            "x must hold int64 levels 0 to 3",
        ),
    ],
)
def test_what_cannot_be_made_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()
