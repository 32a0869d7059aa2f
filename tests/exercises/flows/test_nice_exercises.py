"""Each checker of the NICE chapter accepts the solution and names the fault of wrong answers."""

import math

import torch
import torch.nn.functional as F

from gdm_lib.exercises.flows import nice as exercises
from gdm_lib.exercises.testing import assert_checker
from gdm_lib.flows.nice import AdditiveCoupling, StandardLogistic


def interleave(even, odd):
    return torch.stack([even, odd], 2).flatten(1)


# -- coupling_inverse


def coupling_inverse(y, net):
    x = y.clone()
    x[:, 1::2] -= net(y[:, ::2])
    return x


def test_coupling_inverse():
    def wrong_places(y, net):
        return interleave(y[:, 1::2] - net(y[:, ::2]), y[:, ::2])

    assert_checker(
        exercises.coupling_inverse,
        coupling_inverse,
        {
            r"`y` unchanged": lambda y, net: y.clone(),
            r"forward direction\. The inverse": lambda y, net: interleave(
                y[:, ::2], y[:, 1::2] + net(y[:, ::2])
            ),
            r"change the even": lambda y, net: interleave(y[:, ::2] - net(y[:, 1::2]), y[:, 1::2]),
            r"subtract from the half that was kept": lambda y, net: interleave(
                y[:, ::2] - net(y[:, ::2]), y[:, 1::2]
            ),
            r"feed net the odd": lambda y, net: interleave(y[:, ::2], y[:, 1::2] - net(y[:, 1::2])),
            r"one after the other": lambda y, net: torch.cat(
                [y[:, ::2], y[:, 1::2] - net(y[:, ::2])], 1
            ),
            r"each other's places": wrong_places,
            r"first and the second half": lambda y, net: torch.cat(
                [y[:, :2], y[:, 2:] - net(y[:, :2])], 1
            ),
            r"changed half alone": lambda y, net: y[:, 1::2] - net(y[:, ::2]),
            r"net takes a tensor of shape \(B, 2\)": lambda y, net: y - net(y),
        },
    )


def test_the_solution_inverts_the_library_s_coupling():
    coupling = AdditiveCoupling(4, torch.nn.Linear(2, 2))
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(coupling_inverse(coupling(x)[0], coupling.net), x)


# -- logistic_log_prob


def logistic_log_prob(h):
    return -(F.softplus(h) + F.softplus(-h)).sum(1)


def test_logistic_log_prob():
    def normal(h):
        return -0.5 * (h**2 + math.log(2 * math.pi)).sum(1)

    def overflows(h):
        return -(torch.log(1 + h.exp()) + torch.log(1 + (-h).exp())).sum(1)

    def clamped(h):
        return logistic_log_prob(h.clamp(-700, 700))

    assert_checker(
        exercises.logistic_log_prob,
        logistic_log_prob,
        {
            r"standard normal's": normal,
            r"sign is flipped": lambda h: -logistic_log_prob(h),
            r"log\(1 \+ exp\(-h\)\) is missing": lambda h: -F.softplus(h).sum(1),
            r"log\(1 \+ exp\(h\)\) is missing": lambda h: F.logsigmoid(h).sum(1),
            r"mean over the dimensions": lambda h: logistic_log_prob(h) / h.shape[1],
            r"one value per dimension": lambda h: -(F.softplus(h) + F.softplus(-h)),
            r"over the batch too": lambda h: logistic_log_prob(h).sum(),
            r"average over all": lambda h: -(F.softplus(h) + F.softplus(-h)).mean(),
            r"batch axis": lambda h: -(F.softplus(h) + F.softplus(-h)).sum(0),
            r"density itself": lambda h: logistic_log_prob(h).exp(),
            r"in bits": lambda h: logistic_log_prob(h) / math.log(2),
            r"exp overflows": overflows,
            r"far from zero is wrong": clamped,
            r"no gradient reaches `h`": lambda h: logistic_log_prob(h.detach()),
        },
    )


def test_the_solution_is_the_library_s_prior():
    h = 3 * torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(logistic_log_prob(h), StandardLogistic((5,)).log_prob(h))


# -- inpaint_step


def inpaint_step(x, slope, noise, observed, rate):
    moved = (x + rate * (slope + noise)).clamp(0, 1)
    return torch.where(observed == 1, x, moved)


def test_inpaint_step():
    def step(move, clip=(0, 1)):
        def answer(x, slope, noise, observed, rate):
            return torch.where(observed == 1, x, move(x, slope, noise, rate).clamp(*clip))

        return answer

    assert_checker(
        exercises.inpaint_step,
        inpaint_step,
        {
            r"nothing moves": lambda x, s, e, o, r: x.clone(),
            r"upside down": lambda x, s, e, o, r: inpaint_step(x, s, e, 1 - o, r),
            r"observed values move too": lambda x, s, e, o, r: (x + r * (s + e)).clamp(0, 1),
            r"clip the observed": lambda x, s, e, o, r: inpaint_step(x, s, e, o, r).clamp(0, 1),
            r"leave \[0, 1\]": step(lambda x, s, e, r: x + r * (s + e), (-9, 9)),
            r"downhill": step(lambda x, s, e, r: x - r * (s + e)),
            r"subtract the noise": step(lambda x, s, e, r: x + r * (s - e)),
            r"noise is not scaled": step(lambda x, s, e, r: x + r * s + e),
            r"Langevin": step(lambda x, s, e, r: x + r * s + math.sqrt(2 * r) * e),
            r"the noise is missing": step(lambda x, s, e, r: x + r * s),
            r"the slope is missing": step(lambda x, s, e, r: x + r * e),
            r"the rate is missing": step(lambda x, s, e, r: x + s + e),
            r"the step alone": step(lambda x, s, e, r: r * (s + e)),
        },
    )


# -- volume_floor


def volume_floor(density, cell):
    falling = density.sort(descending=True).values
    area = cell * torch.arange(1, len(falling) + 1)
    return 1 + torch.log((falling * area).sum() * cell)


def test_volume_floor():
    def of(area):
        def answer(p, cell):
            falling = p.sort(descending=True).values
            rank = torch.arange(1, len(p) + 1, dtype=p.dtype)
            return 1 + (falling * area(rank, cell)).sum().mul(cell).log()

        return answer

    def rising(p, cell):
        return 1 + ((p.sort().values * torch.arange(1, len(p) + 1)).sum() * cell**2).log()

    def unsorted(p, cell):
        return 1 + ((p * torch.arange(1, len(p) + 1)).sum() * cell**2).log()

    def log_inside(p, cell):
        falling = p.sort(descending=True).values
        return 1 + (falling * torch.log(cell * torch.arange(1, len(p) + 1))).sum() * cell

    assert_checker(
        exercises.volume_floor,
        volume_floor,
        {
            r"from low to high": rising,
            r"not sorted": unsorted,
            r"one factor `cell`": of(lambda rank, cell: rank),
            r"both factors": lambda p, cell: volume_floor(p, cell) - 2 * math.log(cell),
            r"the 1 of the formula": lambda p, cell: volume_floor(p, cell) - 1,
            r"E\[A\] itself": lambda p, cell: (volume_floor(p, cell) - 1).exp(),
            r"average the logarithm": log_inside,
            r"over the grid": lambda p, cell: 1 + p.new_tensor(cell * (len(p) + 1) / 2).log(),
            r"is left out": of(lambda rank, cell: (rank - 1) * cell),
            r"entropy of p": lambda p, cell: -(p * p.log()).sum() * cell,
            r"result is in bits": lambda p, cell: volume_floor(p, cell) / math.log(2),
            r"to base 2": lambda p, cell: 1 + (volume_floor(p, cell) - 1) / math.log(2),
        },
    )


def test_the_floor_of_a_gaussian_is_its_entropy():
    side = torch.linspace(-8, 8, 801, dtype=torch.float64)
    x, y = torch.meshgrid(side, side, indexing="ij")
    p = torch.exp(-0.5 * (x**2 + (y / 0.5) ** 2)).flatten() / math.pi
    floor = volume_floor(p, float(side[1] - side[0]) ** 2)
    assert abs(float(floor) - (1 + math.log(math.pi))) < 1e-3
