"""The toy densities against integrals over grids, scipy's quadrature and their own samples."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from gdm_lib.data import toy2d

NAMES = sorted(toy2d.DENSITIES)

# Boxes that hold all but 1e-9 of the mass, and cells along each side. Midpoints of cells, so that
# no node lies on an edge of the checkerboard or of the strips.
BOXES = {
    "mixture_ring": (-4, 4, -4, 4, 400),
    "mixture_grid": (-5, 5, -5, 5, 600),
    "two_moons": (-2, 3, -1.5, 2, 500),
    "pinwheel": (-7, 7, -7, 7, 700),
    "swiss_roll": (-5, 5, -5, 5, 260),
    "checkerboard": (-5, 5, -5, 5, 200),
    "banana": (-7, 7, -4, 26, 800),
    "energy_1": (-6, 6, -6, 6, 500),
    "energy_2": (-5, 5, -5, 5, 500),
    "energy_3": (-5, 5, -7, 5, 500),
    "energy_4": (-5, 5, -8, 5, 500),
}


def grid(box):
    """Midpoints ``(M, 2)`` of a box's cells, and the area of one."""
    x_min, x_max, y_min, y_max, n = box
    centres = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    x, y = x_min + (x_max - x_min) * centres, y_min + (y_max - y_min) * centres
    return torch.cartesian_prod(x, y), (x_max - x_min) * (y_max - y_min) / n**2


@pytest.fixture(scope="module")
def densities():
    return {name: make() for name, make in toy2d.DENSITIES.items()}


def test_every_density_is_integrated():
    assert sorted(BOXES) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_mass_is_one_and_the_entropy_is_the_integral_of_minus_p_log_p(densities, name):
    points, area = grid(BOXES[name])
    log_p = densities[name].log_prob(points)
    p = log_p.exp()
    assert float(p.sum()) * area == pytest.approx(1, abs=2e-6)
    integral = -float(torch.special.xlogy(p, p).sum()) * area
    # At the hard edges of the strips the midpoint rule itself is only of second order.
    tolerance = 2e-5 if name in ("energy_3", "energy_4") else 1e-6
    assert densities[name].entropy == pytest.approx(integral, abs=tolerance)


@pytest.mark.parametrize("name", NAMES)
def test_entropy_agrees_with_monte_carlo(densities, name):
    x = densities[name].sample(50_000, generator=torch.Generator().manual_seed(1))
    surprise = -densities[name].log_prob(x)
    assert bool(surprise.isfinite().all())
    error = float(surprise.std()) / math.sqrt(len(x))
    assert abs(float(surprise.mean()) - densities[name].entropy) < 4 * error + 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_samples_fill_cells_as_the_density_says(densities, name):
    x_min, x_max, y_min, y_max, n = BOXES[name]
    points, area = grid((x_min, x_max, y_min, y_max, 10 * (n // 10)))
    cells = 20
    mass = densities[name].log_prob(points).exp() * area
    expected = mass.reshape(cells, -1, cells, len(mass) // cells // (10 * (n // 10)))
    expected = expected.sum((1, 3)).flatten().numpy()
    draws = 40_000
    x = densities[name].sample(draws, generator=torch.Generator().manual_seed(2)).double()
    column = ((x[:, 0] - x_min) / (x_max - x_min) * cells).floor().long().clamp(0, cells - 1)
    row = ((x[:, 1] - y_min) / (y_max - y_min) * cells).floor().long().clamp(0, cells - 1)
    seen = torch.bincount(column * cells + row, minlength=cells**2).numpy()
    full = expected * draws >= 10  # the rest go in one cell, for the chi-square to be one
    seen = np.append(seen[full], seen[~full].sum())
    expected = np.append(expected[full], max(1 - expected[full].sum(), 1e-9)) * draws
    if expected[-1] < 5:
        assert seen[-1] < 20
        seen, expected = seen[:-1], expected[:-1]
    statistic = ((seen - expected) ** 2 / expected).sum()
    assert stats.chi2.sf(statistic, len(seen) - 1) > 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_bounds_show_nearly_all_of_the_mass(densities, name):
    x = densities[name].sample(50_000, generator=torch.Generator().manual_seed(3))
    x_min, x_max, y_min, y_max = densities[name].bounds
    inside = (x[:, 0] >= x_min) & (x[:, 0] <= x_max) & (x[:, 1] >= y_min) & (x[:, 1] <= y_max)
    assert float(inside.float().mean()) > 0.999 - 3 * math.sqrt(0.001 / 50_000)


@pytest.mark.parametrize("name", NAMES)
def test_samples_repeat_under_a_seed_and_follow_the_default_dtype(densities, name):
    def draw(seed):
        return densities[name].sample(100, generator=torch.Generator().manual_seed(seed))

    assert torch.equal(draw(0), draw(0))
    assert not torch.equal(draw(0), draw(1))
    assert draw(0).dtype == torch.float32
    assert draw(0).shape == (100, 2)
    assert densities[name].sample(0).shape == (0, 2)


@pytest.mark.parametrize("name", NAMES)
def test_float32_and_gradients(densities, name):
    x = densities[name].sample(200, generator=torch.Generator().manual_seed(4))
    single = densities[name].log_prob(x)
    assert single.dtype == torch.float32
    assert single.shape == (200,)
    torch.testing.assert_close(
        single.double(), densities[name].log_prob(x.double()), atol=2e-4, rtol=0
    )
    if name == "checkerboard":  # flat: no gradient to speak of
        return
    y = x[:20].double().requires_grad_()
    assert torch.autograd.gradcheck(lambda y: densities[name].log_prob(y), y)


@pytest.mark.parametrize("name", ["two_moons", "swiss_roll"])
def test_noisy_curves_against_adaptive_quadrature_near_and_far(densities, name):
    density = densities[name]
    near = density.sample(4, generator=torch.Generator().manual_seed(5)).double()
    middle = density.nodes.mean(0)
    far = middle + 30 * density.noise * torch.tensor([[1.0, 0.0], [0.0, 1.0], [-0.6, -0.8]])
    for x in torch.cat([near, far]):
        # Relative to the nearest point of the curves, so that far away nothing underflows.
        floor = float((density.nodes - x).square().sum(1).min())

        def integrand(t, curve, x=x, floor=floor):
            gap = float((curve(torch.tensor(t, dtype=torch.float64)) - x).square().sum())
            return math.exp(-(gap - floor) / (2 * density.noise**2))

        ts = torch.linspace(0, 1, 401, dtype=torch.float64)
        total = 0.0
        for curve in density.curves:
            best = float(ts[(curve(ts) - x).square().sum(-1).argmin()])
            breaks = sorted({0.0, max(best - 0.02, 0), min(best + 0.02, 1), 1.0})
            for a, b in itertools.pairwise(breaks):
                total += integrate.quad(
                    integrand, a, b, args=(curve,), epsabs=1e-13, epsrel=1e-11, limit=400
                )[0]
        total /= len(density.curves)
        expected = math.log(total) - floor / (2 * density.noise**2)
        expected -= math.log(2 * math.pi * density.noise**2)
        assert float(density.log_prob(x[None])) == pytest.approx(expected, abs=1e-9)


def test_moons_are_scikit_learns_curves(densities):
    from sklearn.datasets import make_moons

    theirs, _ = make_moons(200, noise=None)
    gaps = torch.cdist(torch.from_numpy(theirs), densities["two_moons"].nodes).amin(1)
    assert float(gaps.max()) < 0.016  # half the spacing of the nodes


def test_closed_forms():
    assert toy2d.checkerboard().entropy == pytest.approx(math.log(32))
    assert toy2d.Banana(2.0, 3.0, 0.5).entropy == pytest.approx(math.log(2 * math.pi * math.e))
    assert toy2d.energy_2().entropy == pytest.approx(
        math.log(8) + 0.5 * math.log(2 * math.pi * math.e * 0.4**2)
    )
    one = toy2d.GaussianMixture(torch.zeros(1, 2), 0.3)
    assert one.entropy == pytest.approx(math.log(2 * math.pi * math.e * 0.3**2), abs=1e-12)
    # Far apart, and unequal: the entropy of the choice plus that of one Gaussian.
    weights = torch.tensor([1.0, 3.0])
    two = toy2d.GaussianMixture(torch.tensor([[0.0, 0.0], [9.0, 0.0]]), 0.3, weights)
    choice = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert two.entropy == pytest.approx(one.entropy + choice, abs=1e-9)
    share = (two.sample(40_000, generator=torch.Generator().manual_seed(0))[:, 0] > 4.5).float()
    assert float(share.mean()) == pytest.approx(0.75, abs=4 * math.sqrt(0.75 * 0.25 / 40_000))


def test_twist_leaves_the_entropy_of_the_pinwheel_alone():
    assert toy2d.Pinwheel(twist=0.0).entropy == toy2d.Pinwheel(twist=0.25).entropy
    points, area = grid(BOXES["pinwheel"])
    p = toy2d.Pinwheel(twist=0.6).log_prob(points).exp()
    assert -float(torch.special.xlogy(p, p).sum()) * area == pytest.approx(
        toy2d.pinwheel().entropy, abs=1e-5
    )


def test_energies_are_the_papers_table():
    z1, z2 = -1.3, 0.7
    w1 = math.sin(2 * math.pi * z1 / 4)
    w2 = 3 * math.exp(-0.5 * ((z1 - 1) / 0.6) ** 2)
    w3 = 3 / (1 + math.exp(-(z1 - 1) / 0.3))

    def bell(u):
        return math.exp(-0.5 * u**2)

    table = [
        0.5 * ((math.hypot(z1, z2) - 2) / 0.4) ** 2
        - math.log(bell((z1 - 2) / 0.6) + bell((z1 + 2) / 0.6)),
        0.5 * ((z2 - w1) / 0.4) ** 2,
        -math.log(bell((z2 - w1) / 0.35) + bell((z2 - w1 + w2) / 0.35)),
        -math.log(bell((z2 - w1) / 0.4) + bell((z2 - w1 + w3) / 0.35)),
    ]
    z = torch.tensor([[z1, z2]], dtype=torch.float64)
    energies = [toy2d.energy_1, toy2d.energy_2, toy2d.energy_3, toy2d.energy_4]
    for make, expected in zip(energies, table, strict=True):
        assert float(make().energy(z)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", ["checkerboard", "energy_2", "energy_3", "energy_4"])
def test_no_mass_outside_the_support(densities, name):
    outside = torch.tensor([[4.2, 0.0], [-4.2, 0.0]])
    assert densities[name].log_prob(outside).tolist() == [-math.inf, -math.inf]


def test_points_far_away_stay_finite(densities):
    far = torch.tensor([[50.0, -80.0]])
    for name in ["mixture_ring", "two_moons", "swiss_roll", "pinwheel", "banana", "energy_1"]:
        value = densities[name].log_prob(far)
        assert -math.inf < float(value) < -100


def test_centre_of_the_pinwheel_has_a_gradient():
    x = torch.zeros(1, 2, requires_grad=True)
    (gradient,) = torch.autograd.grad(toy2d.pinwheel().log_prob(x).sum(), x)
    assert bool(gradient.isfinite().all())


@pytest.mark.parametrize("x", [torch.zeros(2), torch.zeros(3, 3), torch.zeros(3, 2).long()])
def test_points_of_another_shape_are_refused(densities, x):
    with pytest.raises(ValueError, match=r"x must be floating point of shape \(B, 2\)"):
        densities["banana"].log_prob(x)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: toy2d.mixture_ring(std=0.0), "std must be positive"),
        (lambda: toy2d.two_moons(noise=-1.0), "noise must be positive"),
        (lambda: toy2d.NoisyCurves([], 0.1), "curves must hold"),
        (lambda: toy2d.Checkerboard(squares=3), "squares must be an even number"),
        (lambda: toy2d.Pinwheel(blades=0), "blades must be 1 or more"),
        (lambda: toy2d.GaussianMixture(torch.zeros(3), 1.0), "means must have shape"),
        (lambda: toy2d.GaussianMixture(torch.zeros(1, 2), 1.0, -torch.ones(1)), "weights must be"),
        (lambda: toy2d.StripEnergy([], [], (-4, 4, -4, 4)), "widths must be one for each"),
        (lambda: toy2d.banana().sample(-1), "n must be 0 or more"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
