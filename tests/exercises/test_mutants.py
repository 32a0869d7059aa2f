"""No checker lets a mutant of a right answer through that isn't as right.

A sample of the mutants is tried; ``MUTANTS=all`` tries them all, which takes some minutes.
"""

import os

import pytest
import torch

from gdm_lib.exercises import check
from gdm_lib.exercises.expect import expect_close
from gdm_lib.exercises.vae import vae
from tests.exercises.answers import Answered, answered
from tests.exercises.mutants import Draw, build, holes, mutants, same

LIMIT = None if os.environ.get("MUTANTS") == "all" else 30


@pytest.mark.parametrize(
    "made",
    [
        pytest.param(made, id=name.removeprefix("gdm_lib.exercises."))
        for name, made in answered().items()
    ],
)
def test_no_mutant_passes_that_is_not_as_right(made: Answered):
    assert made.inputs is not None, "its file of answers has no inputs"
    draws = [made.inputs(Draw(seed)) for seed in range(40)]
    tried, found = holes(made.checker, made.sources, draws, gradients=made.gradients, limit=LIMIT)
    assert tried >= 20, "a checker is proved by at least 20 mutants"
    assert not found, "\n\n".join(found)


# -- the mutator itself

MEAN = """
def log_mean_exp(x):
    top = x.amax(dim=0)
    return top + (x - top).exp().mean(dim=0).log()
"""


def test_the_mutator_makes_the_mistakes_that_readers_make():
    made = "\n".join(mutants(MEAN, {"x.shape[0]": 3}))
    for piece in (
        "x.amax()",
        "x.amax(dim=1)",
        "x.amin(dim=0)",
        "top - (x - top)",
        "(x + top)",
        "(x - top).mean(dim=0)",
        ".exp().sum(dim=0)",
        ".log2()",
        "mean(dim=0)\n",
        "x.data.mul_(2)",
        ".detach()",
        "[None]",
    ):
        assert piece in made, piece
    halves = mutants("def f(x, n):\n    return x[:, :n] if n < 2 else x", {"n": 1})
    assert "def f(x, n):\n    return x[:, :n] if n <= 2 else x" in halves
    assert "def f(x, n):\n    return x[:, :1] if n < 2 else x" in halves
    assert "def f(x, n):\n    return x[:n, :] if n < 2 else x" in halves
    assert "def f(x, n):\n    return x" in halves


def test_a_weak_checker_has_holes():
    def log_mean_exp(answer):
        x = torch.tensor([[0.5, -1.0], [2.0, 0.25], [-0.75, 1.5]], dtype=torch.float64)
        want = x.logsumexp(0) - torch.log(torch.tensor(3.0))
        expect_close(answer(x), want, "the result")

    def draw(seed):
        d = Draw(seed)
        x = d.normal(d.size(), d.size())
        return (x + 1000 * d.normal(1, x.shape[1]),)

    tried, found = holes(log_mean_exp, [(MEAN, {"torch": torch})], [draw(i) for i in range(9)])
    assert tried >= 20
    text = "\n".join(found)
    assert "x.amax()" in text
    assert ".squeeze()" in text
    assert "x.amax(dim=-0)" not in text  # the same in other words
    assert "amin" not in text  # caught


def test_same_sees_values_gradients_and_spoilt_inputs():
    def right(x):
        return 2 * x

    draws = [(torch.ones(2, dtype=torch.float64),)]
    assert same(lambda x: x + x, right, draws, gradients=True) == ""
    assert same(lambda x: x * 3, right, draws)
    assert same(lambda x: (2 * x).float(), right, draws)
    assert same(lambda x: (2 * x)[None], right, draws)
    assert same(lambda x: 2 * x.detach(), right, draws) == ""
    assert same(lambda x: 2 * x.detach(), right, draws, gradients=True)
    assert same(lambda x: x.data.mul_(2), right, draws)


# -- answers that once passed

ONCE_PASSED = {
    "vae.vae.importance_log_prob": """
def f(log_p_xz, log_q_z):
    log_w = log_p_xz - log_q_z
    top = log_w.max()
    return top + torch.exp(log_w - top).mean(0).log()
""",
    "autoregressive.gated_pixelcnn.conditional_gain": """
def f(log_p, y):
    own = log_p[torch.arange(len(y)), y]
    return (own - log_p.logsumexp(1) + math.log(3)) / math.log(2)
""",
    "flows.maf.mixture_log_prob": """
def f(x, logits, mu, alpha):
    u = (x[:, None] - mu) * torch.exp(-alpha)
    each = logits.log_softmax(1) - u**2 / 2 - alpha - 0.5 * math.log(2 * math.pi)
    top = each.max()
    return (top + (each - top).exp().sum(1).log()).sum(1)
""",
    "flows.realnvp.squeeze": """
def f(x):
    b, c, h, w = x.shape
    blocks = x.view(b, c, 2, 2, w // 2, 2)
    return blocks.permute(0, 1, 3, 5, 2, 4).reshape(b, 4 * c, h // 2, w // 2)
""",
    "flows.realnvp.bits_per_dim": """
def f(log_density, v, levels, alpha):
    r = 0.05 + 0.9 * v
    slope = math.log(0.9) - r.log() - torch.log1p(-r)
    return -(log_density + slope.sum(1) - 3 * math.log(17)) / (3 * math.log(2))
""",
    "flows.nice.inpaint_step": """
def f(x, slope, noise, observed, rate):
    return torch.where(observed == 1, x, (x + 0.2 * (slope + noise)).clamp(0, 1))
""",
    "flows.nice.volume_floor": """
def f(density, cell):
    falling = density.sort(descending=True).values
    return (1 + (falling * torch.arange(1, len(falling) + 1)).sum().mul(cell**2).log()).abs()
""",
    "flows.glow.mix": """
def f(x, P, L, U, s):
    y = torch.einsum("ij,bjhw->bihw", P @ L @ (U + torch.diag(s)), x)
    return y, 10 * s.abs().log().sum()
""",
    "autoregressive.wavenet.causal": """
def f(h, now, past, dilation):
    return (now @ h + past @ F.pad(h, (dilation, 0))[..., :7]).detach()
""",
    "autoregressive.pixelcnn_pp.log_mass_of_level": """
def f(x, mean, log_scale, count):
    half, precision = 1 / 8, torch.exp(-log_scale)
    centred = 2 * half * x - 1 - mean
    below = F.logsigmoid((centred + half) * precision)
    above = F.logsigmoid((half - centred) * precision)
    inside = below + above + torch.log(-torch.expm1(-2 * half * precision))
    return torch.where(x == 0, below, torch.where(x == 8, above, inside))
""",
    "flows.planar_radial.radial_inverse": """
def f(y, c, alpha, beta):
    rho = (y - c).norm(dim=1)
    low, high = torch.zeros_like(rho), torch.full_like(rho, 10 * alpha)
    for _ in range(60):
        r = (low + high) / 2
        big = r * (1 + beta / (alpha + r)) > rho
        low, high = torch.where(big, low, r), torch.where(big, r, high)
    return c + (y - c) / (1 + beta / (alpha + low))[:, None]
""",
}


@pytest.mark.parametrize("name", ONCE_PASSED)
def test_what_once_passed_is_caught(name):
    made = answered()[f"gdm_lib.exercises.{name}"]
    scope = {**made.sources[0][1], "math": __import__("math"), "torch": torch}
    scope["F"] = torch.nn.functional
    verdict = check(made.checker, build(ONCE_PASSED[name], scope))
    assert verdict.passed is False
    assert "raised NameError" not in verdict.message


def test_the_maximum_over_all_columns_is_named():
    def over_all(log_p_xz, log_q_z):
        log_w = log_p_xz - log_q_z
        top = log_w.max()
        return top + torch.exp(log_w - top).mean(0).log()

    message = check(vae.importance_log_prob, over_all).message
    assert "the largest weight of each example, over dim 0, and not the largest of all" in message
