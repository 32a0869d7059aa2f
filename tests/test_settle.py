"""``settle``: batch norms with the statistics of a whole data set."""

import copy
import re

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gdm_lib.bijections import BatchNorm, Chain, Dequantise, Flow, StandardNormal, settle
from gdm_lib.flows import MAF, NICE, Glow, RealNVP
from gdm_lib.training import fit
from gdm_lib.vae import VAE
from tests.helpers import normal, seeded
from tests.zoo import ZOO, made

SETTLED = ["realnvp", "realnvp_of_y", "maf", "maf_of_y", "maf_mog", "realnvp_image"]


def norms(model):
    return [part for part in model.modules() if isinstance(part, BatchNorm)]


def statistics(model):
    return [torch.stack([norm.mean, norm.var]) for norm in norms(model)]


def moved(name):
    """A model in double precision after a loss or two: its statistics are not neutral."""
    model = made(name).double()
    x, y = ZOO[name].data(30, seed=1)
    with torch.random.fork_rng():
        torch.manual_seed(2)
        for parameter in model.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
        for _ in range(2):
            model.loss(x.double(), y)
    return model


@pytest.mark.parametrize("name", SETTLED)
def test_each_layer_has_the_statistics_of_the_whole_set(name):
    """What comes out of every layer has mean 0 and variance 1, before its own scale and shift."""
    model, (x, y) = moved(name), ZOO[name].data(101)
    settle(model, x.double(), y=y, batch_size=7, generator=seeded())
    seen = {}
    for norm in norms(model):
        norm.register_forward_pre_hook(lambda norm, args: seen.update({norm: args[0]}))
    with torch.no_grad():
        model.log_prob(x.double(), y, generator=seeded())
    assert len(seen) == len(norms(model))
    for norm, given in seen.items():
        var, mean = torch.var_mean(given, [0, *range(2, given.ndim)], correction=0)
        torch.testing.assert_close(norm.mean, mean, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(norm.var, var, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", SETTLED)
def test_it_is_one_pass_with_the_whole_set_as_a_batch(name):
    """In training with momentum 1 the statistics of a batch replace those before."""
    model, (x, y) = moved(name), ZOO[name].data(101)
    oracle = moved(name)
    for norm in norms(oracle):
        norm.momentum = 1.0
    oracle.loss(x.double(), y, generator=seeded())
    settle(model, (x.double(), y) if y is not None else x.double(), generator=seeded())
    for mine, theirs in zip(statistics(model), statistics(oracle), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("batch_size", [1, 8, 50, 1000])
@pytest.mark.parametrize("name", SETTLED)
def test_the_size_of_the_batches_is_of_no_account(name, batch_size):
    results = []
    for size in (batch_size, 101):
        model, (x, y) = moved(name), ZOO[name].data(101)
        settle(model, x.double(), y=y, batch_size=size, generator=seeded())
        results.append(statistics(model))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", SETTLED)
def test_settling_again_changes_nothing_and_nothing_else_changes(name):
    model, (x, y) = moved(name).float(), ZOO[name].data(101)
    part = next(model.children()).eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    torch.rand(1)
    before_rng = torch.get_rng_state()
    settle(model, x, y=y, generator=seeded())
    once = statistics(model)
    settle(model, x, y=y, generator=seeded())
    assert all(torch.equal(a, b) for a, b in zip(once, statistics(model), strict=True))
    assert model.training
    assert not part.training
    assert torch.equal(torch.get_rng_state(), before_rng)
    for key, value in model.state_dict().items():
        assert key.endswith((".mean", ".var")) or torch.equal(value, before[key]), key
    assert not any(part._forward_pre_hooks for part in model.modules())
    assert all(norm.mean.dtype == torch.float32 for norm in norms(model))


def test_far_from_zero_no_digit_is_lost():
    x = 1e4 + normal(5000, 2).float()
    model = Flow(Chain(BatchNorm(2)), StandardNormal((2,)))
    settle(model, x, batch_size=64)
    torch.testing.assert_close(
        model.bijection.parts[0].var, x.double().var(0, correction=0).float()
    )


def test_samples_and_densities_stay_in_step():
    model, (x, _) = moved("maf"), ZOO["maf"].data(200)
    settle(model, x.double())
    drawn, told = model.draw(30)
    torch.testing.assert_close(model.log_prob(drawn), told)


def test_a_flow_whose_base_is_a_flow_is_settled_throughout():
    inner = RealNVP.vector(3, couplings=2, hidden=(8,))
    model = Flow(Chain(BatchNorm(3)), inner).double()
    x = 3 * normal(200, 3) + 4
    settle(model, x, batch_size=33)
    assert all(bool((s[0] != 0).any()) for s in statistics(model))


def test_noise_within_the_bijection_is_the_same_for_every_layer():
    """Else a layer's statistics would be those of other noise than the layer before had."""
    model = Flow(Chain(Dequantise(4), BatchNorm(2), BatchNorm(2, eps=0)), StandardNormal((2,)))
    model.double()
    x = torch.randint(4, (300, 2), generator=seeded()).double() / 3
    settle(model, x)
    first, second = statistics(model)
    torch.rand(1)  # nor does it depend on what was drawn before
    settle(model, x)
    assert torch.equal(statistics(model)[0], first)
    torch.testing.assert_close(second[0], torch.zeros(2).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(second[1], first[1] / (first[1] + 1e-5), rtol=1e-12, atol=0)


def test_a_user_s_model_in_train_mode_is_settled_as_it_is_evaluated():
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop, self.norm = nn.Dropout(0.5), BatchNorm(2)

        def log_prob(self, x):
            z, logdet = self.norm(self.drop(x))
            return logdet - z.square().sum(1)

    model, x = Plain().double(), normal(100, 2) + 3
    settle(model, x, batch_size=9)
    torch.testing.assert_close(model.norm.mean, x.mean(0))


@pytest.mark.parametrize(
    ("model", "called"),
    [
        (lambda: MAF(3, batch_norm=False), "MAF"),
        (lambda: Glow((1, 4, 4), levels=4, steps=1, hidden=4), "Glow"),
        (lambda: VAE.mlp((3,), 2, hidden=(4,)), "VAE"),
    ],
)
def test_a_model_without_batch_norm_is_refused_by_name(model, called):
    x = {"Glow": torch.zeros(2, 1, 4, 4)}.get(called, torch.zeros(2, 3))
    with pytest.raises(ValueError, match=re.escape(f"{called} has none")):
        settle(model(), x)


@pytest.mark.parametrize(
    ("data", "options", "told"),
    [
        (torch.zeros(0, 4), {}, "data must have at least one item"),
        (torch.zeros(5, 4), {"batch_size": 0}, "batch_size must be at least 1, got 0"),
        (torch.full((5, 4), torch.nan), {}, "data must be finite"),
        ((torch.zeros(5, 4), torch.zeros(4)), {}, "one row for each, got 5 and 4"),
    ],
)
def test_what_has_no_statistics_is_refused_by_name(data, options, told):
    model = made("maf")
    before = statistics(model)
    with pytest.raises(ValueError, match=re.escape(told)):
        settle(model, data, **options)
    assert all(torch.equal(a, b) for a, b in zip(before, statistics(model), strict=True))


# Offered by fit


def expected(model, x, y=None):
    """Statistics of the same weights, settled by hand."""
    oracle = copy.deepcopy(model)
    for norm in norms(oracle):
        norm.mean.zero_()
        norm.var.fill_(1)
    settle(oracle, x, y=y)
    return statistics(oracle)


def fitted(model, data, **options):
    return fit(model, data, steps=3, batch_size=16, settle=True, progress=False, **options)


def agree(one, other):
    for mine, theirs in zip(one, other, strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("kind", [tuple, TensorDataset, DataLoader])
@pytest.mark.parametrize("name", ["maf", "maf_of_y"])
def test_fit_settles_on_all_of_its_data(name, kind):
    model, (x, y) = made(name), ZOO[name].data(50)
    given = (x,) if y is None else (x, y)
    data = {
        tuple: given if y is not None else x,
        TensorDataset: TensorDataset(*given),
        DataLoader: DataLoader(TensorDataset(*given), batch_size=16, shuffle=True),
    }[kind]
    history = fitted(model, data, ema=0.9)
    agree(statistics(model), expected(model, x, y))
    agree(statistics(history.ema), expected(history.ema, x, y))
    assert model.training


def test_fit_settles_on_what_its_transform_makes():
    model, x = MAF(4, layers=2, hidden=(8,)), torch.randint(256, (50, 4), dtype=torch.uint8)
    fitted(model, x, transform=lambda x, _: x.float() / 255)
    agree(statistics(model), expected(model, x.float() / 255))


def test_fit_without_it_keeps_the_running_averages_and_what_it_trains_is_the_same():
    runs = []
    for option in (False, True):
        model = made("maf")
        x, _ = ZOO["maf"].data(50)
        fit(model, x, steps=3, batch_size=16, settle=option, progress=False)
        runs.append(model)
    plain, settled = runs
    for one, other in zip(plain.parameters(), settled.parameters(), strict=True):
        assert torch.equal(one, other)
    assert not torch.allclose(statistics(plain)[0], statistics(settled)[0])


def test_a_checkpoint_has_the_running_averages_and_resumes_to_the_same(tmp_path):
    x, _ = ZOO["maf"].data(50)
    results = []
    for parts in ((3,), (1, 3)):
        for steps in parts:
            model = made("maf")
            file = tmp_path / f"{len(parts)}.safetensors"
            options = {"checkpoint": file, "resume": True, "settle": True, "progress": False}
            fit(model, x, steps=steps, batch_size=16, **options)
        results.append(statistics(model))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_fit_refuses_to_settle_what_has_no_batch_norm_before_it_trains():
    model = NICE((4,), hidden=(8,))
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(ValueError, match="settle must be False: NICE has no"):
        fitted(model, torch.zeros(50, 4))
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_fit_trains_a_loss_that_was_written_without_a_decorator():
    """A user's model whose loss is made of ``log_prob``."""

    class Mine(Flow):
        def loss(self, x, y=None, *, generator=None):
            return {"loss": -self.log_prob(x).mean()}

    model = Mine(Chain(BatchNorm(4, affine=True)), StandardNormal((4,)))
    fit(model, normal(50, 4).float() + 5, steps=5, batch_size=16, progress=False)
    assert bool((model.bijection.parts[0].mean > 1).all())
