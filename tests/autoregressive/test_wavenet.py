"""What 1609.03499 claims of WaveNet, asserted."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gdm_lib.autoregression import Queues
from gdm_lib.autoregressive import wavenet as paper
from gdm_lib.autoregressive.wavenet import (
    CausalConv1d,
    Upsample,
    WaveNet,
    dilations,
    mu_law_decode,
    mu_law_encode,
)
from gdm_lib.nn import ClassEmbedding
from gdm_lib.protocols import LikelihoodModel
from tests.helpers import Recorder, loud, seeded

# Wide enough in the head that its ReLUs never all die at once.
SMALL: dict[str, Any] = {"levels": 5, "residual": 6, "skip": 24, "dilations": (1, 2, 4, 1, 2)}
CONTEXTS = pytest.mark.parametrize("context", ["none", "global", "local"])


def built(length: int = 12, context: str = "none", **changes: Any) -> WaveNet:
    size = {"context_dim": 0 if context == "none" else 3}
    return loud(WaveNet((length,), **{**SMALL, **size, **changes}))


def conditions(context: str, n: int, length: int) -> Tensor | None:
    shapes = {"none": None, "global": (n, 3), "local": (n, 3, length)}
    shape = shapes[context]
    return None if shape is None else torch.randn(shape, generator=seeded(9), dtype=torch.float64)


# -- section 2.2: companding


@pytest.mark.parametrize("levels", [256, 255, 16])
def test_the_round_trip_is_within_half_a_step_of_the_compressed_scale(levels):
    x = torch.linspace(-1, 1, 20_001, dtype=torch.float64)
    x = torch.cat([x, x**5])
    back = mu_law_decode(mu_law_encode(x, levels), levels).double()

    def compressed(v: Tensor) -> Tensor:
        return v.sign() * (1 + 255 * v.abs()).log() / math.log(256)

    gap = (compressed(back) - compressed(x)).abs().max()
    assert gap <= 1 / (levels - 1) + 1e-6
    assert gap > 0.99 / (levels - 1), "half a step is the bound, and it is met"


def test_levels_follow_the_paper_s_formula():
    """f(x) = sign(x) ln(1 + 255 |x|) / ln 256: where it is a fraction that is known exactly."""
    for power in range(9):  # 1 + 255 x = 2 ** power gives f = power / 8
        x = (2**power - 1) / 255
        assert mu_law_encode(torch.tensor([x, -x]), 17).tolist() == [8 + power, 8 - power]
        decoded = mu_law_decode(torch.tensor([8 + power, 8 - power]), 17)
        torch.testing.assert_close(decoded, torch.tensor([x, -x]))
    assert mu_law_encode(torch.tensor([-1.0, 1.0])).tolist() == [0, 255]
    # mu to 0 leaves equal steps.
    assert mu_law_encode(torch.tensor([-0.5, 0.0, 0.25]), 9, mu=1e-6).tolist() == [2, 4, 5]


def test_levels_rise_with_the_amplitude_and_all_are_used():
    levels = mu_law_encode(torch.linspace(-1, 1, 100_001))
    assert (levels.diff() >= 0).all()
    assert levels.unique().tolist() == list(range(256))
    assert levels.dtype == torch.int64


def test_a_decoded_level_is_encoded_as_itself():
    levels = torch.arange(256)
    amplitudes = mu_law_decode(levels)
    assert torch.equal(mu_law_encode(amplitudes), levels)
    torch.testing.assert_close(amplitudes, -amplitudes.flip(0))
    assert amplitudes.dtype == torch.float32
    assert (amplitudes[0], amplitudes[-1]) == (-1, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("mu", [1e-6, 0.1, 1, 15, 100, 255, 1000, 65535, 1e9])
def test_every_level_comes_back_whatever_mu(mu, dtype):
    """Rounding takes the outermost amplitudes of many of these beyond 1, where encoding refuses."""
    for levels in (*range(2, 300), 1024, 4096, 65535, 65536):
        every = torch.arange(levels)
        amplitudes = mu_law_decode(every, levels, mu=mu).to(dtype)
        assert amplitudes.abs().max() <= 1
        assert torch.equal(mu_law_encode(amplitudes, levels, mu=mu), every)


def test_sixteen_bits_are_encoded_in_32():
    x = torch.linspace(-1, 1, 4001).half()
    assert torch.equal(mu_law_encode(x, 1024), mu_law_encode(x.float(), 1024))


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (
            lambda: mu_law_encode(torch.tensor([0.0, 1.5])),
            r"x must hold .* \[-1, 1\], got 0 to 1.5",
        ),
        (lambda: mu_law_encode(torch.tensor([-1.01])), "got -1.01 to -1.01; divide it"),
        (lambda: mu_law_encode(torch.tensor([math.nan])), "got nan"),
        (lambda: mu_law_encode(torch.tensor([1])), "x must hold floating .*, got torch.int64"),
        (lambda: mu_law_decode(torch.tensor([256])), "x must hold levels 0 to 255, got 256"),
        (lambda: mu_law_decode(torch.tensor([0.5])), "x must hold int64 levels 0 to 255"),
    ],
)
def test_bad_amplitudes_and_levels_are_refused_by_name(call, told):
    with pytest.raises(ValueError, match=told):
        call()


# -- sections 2.1, 2.3 and 2.4: the network


def test_keeps_the_contract():
    model = WaveNet((20,), **SMALL)
    assert isinstance(model, LikelihoodModel)
    assert model.bound is False
    assert paper.ARXIV == "1609.03499"
    x = model.sample(3, generator=seeded())
    assert (x.shape, x.dtype) == ((3, 20), torch.int64)
    assert model.sample(2, length=7).shape == (2, 7)
    terms = model.loss(x)
    assert torch.allclose(terms["bits_per_dim"] * 20 * math.log(2), terms["loss"])


def test_defaults_are_the_paper_s():
    """Section 2.1: 1, 2, ..., 512 sees 1024 samples, and is repeated; section 2.2: 256 levels."""
    assert dilations(1, 10) == (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
    assert WaveNet((8,), dilations=dilations(1, 10)).receptive_field == 1024
    model = WaveNet((8,))
    assert (model.levels, model.dilations) == (256, dilations(3, 10))
    assert model.receptive_field == 1 + 3 * 1023


@pytest.mark.parametrize("context", ["none", "local"])
def test_probabilities_of_all_sequences_sum_to_one(context):
    model = built(4, context, levels=3)
    x = torch.cartesian_prod(*[torch.arange(3)] * 4)
    y = conditions(context, 1, 4)
    with torch.no_grad():
        log_p = model.log_prob(x, None if y is None else y.expand(len(x), -1, -1))
    assert log_p.std() > 0.1, "a uniform model would pass"
    assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-12)


def slopes(model: WaveNet, length: int) -> Tensor:
    """How far output t leans on embedded sample s: ``(t, s)``."""
    embedded = torch.randn(1, 6, length, generator=seeded(), dtype=torch.float64)

    def read(e: Tensor) -> Tensor:
        weights = torch.rand(model.levels, generator=seeded(1), dtype=torch.float64)
        return weights @ model.features(e)[0]

    return torch.autograd.functional.jacobian(read, embedded)[:, 0].abs().sum(1)


@pytest.mark.parametrize("steps", [(1,), (1, 2, 4), (1, 2, 4, 1, 2, 4), (4, 2, 1)])
def test_an_output_sees_exactly_its_receptive_field(steps):
    """By gradient: each of so many samples before it, none further back, none from its own on."""
    model, length = built(dilations=steps), 20
    seen = slopes(model, length) != 0
    t, s = torch.arange(length)[:, None], torch.arange(length)
    assert torch.equal(seen, (s < t) & (s >= t - model.receptive_field))
    assert model.receptive_field < length - 1, "else the far edge isn't tried"


def test_holes_are_where_the_dilations_leave_them():
    model = built(dilations=(2, 4))
    last = slopes(model, 10)[-1] != 0
    assert [9 - s for s in last.nonzero().flatten().tolist()] == [7, 5, 3, 1]


def test_one_sample_before_it_is_all_that_changes_an_output_of_so_many():
    """The same without gradients: levels are changed one by one."""
    model, length = built(dilations=(1, 2)), 9
    x = torch.randint(5, (1, length), generator=seeded())
    with torch.no_grad():
        logits = model(x)
        for s in range(length):
            other = x.clone()
            other[0, s] = (other[0, s] + 1) % 5
            moved = (model(other) != logits).any(1)[0]
            t = torch.arange(length)
            assert torch.equal(moved, (s < t) & (t <= s + model.receptive_field)), s


def stack(model: WaveNet, context_dim: int = 0) -> Callable[[Tensor, Tensor | None], Tensor]:
    """An independent WaveNet: layers of ``torch.nn`` with padding on both sides, cut afterwards,
    filters and gates apart, one-hot samples, with the weights of ``model``."""
    state = model.state_dict()

    def conv(weight: Tensor, bias: Tensor | None = None, dilation: int = 1) -> nn.Conv1d:
        out, features, width = weight.shape
        pad = dilation * (width - 1)
        layer = nn.Conv1d(
            features, out, width, padding=pad, dilation=dilation, bias=bias is not None
        ).double()
        with torch.no_grad():
            layer.weight.copy_(weight)
            if bias is not None:
                layer.bias.copy_(bias)
        return layer

    @torch.no_grad()
    def run(x: Tensor, y: Tensor | None) -> Tensor:
        length = x.shape[1]
        one_hot = F.one_hot(x, model.levels).double().transpose(1, 2)
        delayed = F.pad(one_hot, (1, 0))[:, :, :length]
        h = conv(state["input.weight"].T[:, :, None])(delayed)
        skips = []
        for k, d in enumerate(model.dilations):
            part = {n[9:]: w for n, w in state.items() if n.startswith(f"blocks.{k}.")}
            w_f, w_g = part["conv.weight"].chunk(2)
            b_f, b_g = part["conv.bias"].chunk(2)
            f, g = (conv(w, b, d)(h)[:, :, :length] for w, b in ((w_f, b_f), (w_g, b_g)))
            if y is not None:
                v_f, v_g = part["from_context.weight"].chunk(2)
                whole = y[:, :, None].expand(-1, -1, length) if y.ndim == 2 else y
                f, g = f + conv(v_f)(whole), g + conv(v_g)(whole)
            z = f.tanh() * g.sigmoid()
            skips.append(conv(state["skip.weight"].chunk(len(model.dilations), 1)[k])(z))
            if k < len(model.dilations) - 1:
                h = h + conv(part["residual.weight"])(z)
        h = torch.stack(skips).sum(0) + state["skip.bias"][:, None]
        for i in (1, 3):
            h = conv(state[f"head.{i}.weight"], state[f"head.{i}.bias"])(h.relu())
        return h

    return run


@CONTEXTS
def test_a_plain_stack_of_convolutions_gives_the_same_logits(context):
    model = built(30, context)
    x, y = torch.randint(5, (2, 30), generator=seeded()), conditions(context, 2, 30)
    with torch.no_grad():
        torch.testing.assert_close(model(x, y), stack(model)(x, y), rtol=0, atol=1e-12)


def test_every_parameter_gets_a_gradient():
    model = WaveNet((20,), **SMALL, context_dim=3)
    x = torch.randint(5, (6, 20), generator=seeded())
    model.loss(x, torch.randn(6, 3, generator=seeded()))["loss"].backward()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert p.grad.abs().sum() > 0, name


def test_any_length_has_a_likelihood_and_the_first_samples_don_t_depend_on_it():
    model = built(4)
    x = torch.randint(5, (2, 30), generator=seeded())
    with torch.no_grad():
        whole = model(x)
        for length in (1, 2, 17):
            torch.testing.assert_close(model(x[:, :length]), whole[:, :, :length])


# -- section 2.5: conditioning


def context_slopes(model: WaveNet, shape: tuple[int, ...], length: int) -> Tensor:
    x = torch.randint(5, (1, length), generator=seeded())
    context = torch.randn(shape, generator=seeded(1), dtype=torch.float64)
    weights = torch.rand(5, generator=seeded(2), dtype=torch.float64)
    read = torch.autograd.functional.jacobian(lambda c: weights @ model(x, c)[0], context)
    return read[:, 0].abs()


@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 1)])
def test_a_global_context_reaches_every_output_the_first_too(shape):
    assert (context_slopes(built(12, "global"), shape, 12) > 0).all()


@pytest.mark.parametrize(("steps", "lags"), [((1, 2, 4), [0, 2, 4, 6]), ((4, 2, 1), [0, 1, 2, 3])])
def test_a_local_context_reaches_its_own_time_and_what_follows_not_what_is_before(steps, lags):
    """Those above look back at a layer's gates, so of the contexts up to ``sum(steps[1:])`` before
    it an output sees those that they reach."""
    model, length = built(20, "local", dilations=steps), 20
    seen = context_slopes(model, (1, 3, length), length) > 0
    t, s = torch.arange(length)[:, None, None], torch.arange(length)
    assert torch.equal(seen, torch.isin(t - s, torch.tensor(lags)).expand_as(seen))


def test_a_context_that_is_the_same_at_all_times_is_a_global_one():
    model, x = built(12, "local"), torch.randint(5, (2, 12), generator=seeded())
    y = conditions("global", 2, 12)
    assert y is not None
    with torch.no_grad():
        torch.testing.assert_close(model(x, y), model(x, y[:, :, None].expand(-1, -1, 12)))


def test_upsampling_gives_each_slow_value_its_own_samples():
    up = loud(Upsample(2, 3, 4))
    y = torch.randn(1, 2, 3, generator=seeded(), dtype=torch.float64)
    assert up(y).shape == (1, 3, 12)
    jacobian = torch.autograd.functional.jacobian(lambda v: up(v)[0], y)[:, :, 0]
    t, s = torch.arange(12)[:, None, None], torch.arange(3)
    assert torch.equal(jacobian != 0, (t // 4 == s).expand_as(jacobian))
    model = built(12, "local", embed=Upsample(2, 3, 4))
    assert model.sample(1, y, generator=seeded()).shape == (1, 12)
    assert model.log_prob(torch.zeros(1, 8, dtype=torch.int64), y[:, :, :2]).shape == (1,)


def test_classes_condition_through_an_embedding():
    model = built(6, "global", embed=ClassEmbedding(2, 3))
    x = torch.randint(5, (1, 6), generator=seeded())
    with torch.no_grad():
        a, b = (model(x, torch.tensor([label])) for label in (0, 1))
    assert ((a - b).abs().amax(1) > 1e-3).all()


# -- generation


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("n", [1, 3])
@CONTEXTS
def test_the_queues_give_the_naive_logits_at_every_step(context, n, dtype, atol):
    length = 40  # four times the receptive field, so that each queue goes round
    model = built(7, context).to(dtype)
    y = conditions(context, n, length)
    y = None if y is None else y.to(dtype)
    naive, queued = Recorder(model), Recorder(model)
    expected = model.generate_naive(naive, n, y, length)
    assert torch.equal(model.generate(queued, n, y, length), expected)
    assert queued.places == naive.places == [(t,) for t in range(length)]
    for a, b in zip(naive.params, queued.params, strict=True):
        torch.testing.assert_close(b, a, rtol=0, atol=atol)


@CONTEXTS
def test_long_sounds_go_through_several_chunks(context):
    """What the sampler saw is what the density is made of."""
    length = 2 * Queues.CHUNK + 30
    model = built(length, context, dilations=dilations(1, 8))
    y, seen = conditions(context, 2, length), Recorder(model)
    x = model.generate(seen, 2, y)
    with torch.no_grad():
        torch.testing.assert_close(torch.stack(seen.params, 2), model(x, y), rtol=0, atol=1e-10)


def test_samples_have_the_probabilities_that_the_density_says():
    model, n = built(4, levels=2), 20_000
    codes = model.sample(n, generator=seeded(7)) @ torch.tensor([8, 4, 2, 1])
    counts = torch.bincount(codes, minlength=16)
    with torch.no_grad():
        expected = n * model.log_prob(torch.cartesian_prod(*[torch.arange(2)] * 4)).exp()
    chi2 = ((counts - expected).square() / expected).sum()
    assert chi2 < 45, "beyond 1 in 10,000 for 15 degrees of freedom"


def test_the_same_generator_draws_the_same():
    model = built(50)
    a, b, c = (model.sample(2, generator=seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_work_per_sample_does_not_grow(monkeypatch):
    """Multiplications of each sample, counted: flat in the length and in the dilations."""
    work: list[int] = []

    def counting(name: str, sizes: Callable[..., int]) -> None:
        plain = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda *a, **to: work.append(sizes(*a)) or plain(*a, **to))

    counting("addmm", lambda _, a, b: a.shape[0] * a.shape[1] * b.shape[1])
    counting("baddbmm", lambda _, a, b: a.numel() * b.shape[2])
    per_sample = {}
    for steps, length in itertools.product([(1, 2, 4), (64, 128, 256)], [10, 300]):
        work.clear()
        built(dilations=steps).sample(1, length=length)
        per_sample[steps, length] = sum(work) / length
    assert len(set(per_sample.values())) == 1
    assert min(per_sample.values()) > 0


def test_a_prompt_is_continued():
    model = built(7)
    x = torch.randint(5, (4, 30), generator=seeded())
    known = torch.arange(30) < 12
    done = model.complete(x, known, generator=seeded(1))
    assert torch.equal(done[:, :12], x[:, :12])
    assert not torch.equal(done[:, 12:], x[:, 12:])
    other = torch.where(known, x, 4 - x)
    assert torch.equal(model.complete(other, known, generator=seeded(1)), done)
    # The continuation hears the prompt.
    changed = model.complete(torch.where(known, 4 - x, x), known, generator=seeded(1))
    assert not torch.equal(changed[:, 12:], done[:, 12:])


def test_lengths_share_the_weights_and_leave_the_model_as_it_was():
    model = WaveNet((8,), **SMALL).train()
    model.sample(1, length=3)
    assert model.data_shape == (8,)
    assert model.training
    assert all(module.training for module in model.modules())
    twin = model.of_length(3)
    assert all(a is b for a, b in zip(model.parameters(), twin.parameters(), strict=True))


# -- what is refused


def test_bad_input_is_refused_by_name():
    model, x = built(6), torch.zeros(2, 6, dtype=torch.int64)
    for bad, told in [
        (x[0], r"x must be a batch of shape \(B, T\), T at least 1, got \(6,\)"),
        (x[:, :0], r"x must be a batch of shape \(B, T\), T at least 1, got \(2, 0\)"),
        (x[:, None], r"x must be a batch of shape \(B, T\), T at least 1, got \(2, 1, 6\)"),
        (x.float(), "x must hold int64 levels 0 to 4, got torch.float32"),
        (x + 5, "x must hold levels 0 to 4, got 5 to 5"),
        (x - 1, "x must hold levels 0 to 4, got -1 to -1"),
    ]:
        for call in (model.log_prob, lambda v: model.complete(v, v > 0)):
            with pytest.raises(ValueError, match=told):
                call(bad)
    with pytest.raises(ValueError, match=r"y must be None, got \(2, 3\)"):
        model.log_prob(x, torch.zeros(2, 3))
    with pytest.raises(ValueError, match="length must be at least 1, got 0"):
        model.sample(1, length=0)


def test_bad_contexts_are_refused_by_name():
    model, x = built(6, "local"), torch.zeros(2, 6, dtype=torch.int64)
    y = torch.zeros(2, 3, 6, dtype=torch.float64)
    for bad, told in [
        (None, "y must have one row for each of 2 items, got None"),
        (y[:1], "y must have one row for each of 2 items, got 1"),
        (y[:, :2], r"y must give a context of 3 features, .* got \(2, 2, 6\)"),
        (y[:, :, :5], r"\(B, 3, 6\), one for each, got \(2, 3, 5\)"),
        (y[..., None], r"\(B, 3, 6\), one for each, got \(2, 3, 6, 1\)"),
    ]:
        for call in (lambda y: model.log_prob(x, y), lambda y: model.sample(2, y)):
            with pytest.raises(ValueError, match=told):
                call(bad)
    with pytest.raises(ValueError, match=r"\(B, 3, 9\), one for each, got \(2, 3, 6\)"):
        model.sample(2, y, length=9)
    for series in (y, y[0, :2, :2]):
        with pytest.raises(ValueError, match=r"y must be a batch of series \(B, 2, T / 4\), got"):
            Upsample(2, 3, 4)(series)


def test_bad_labels_are_refused_by_name():
    model = built(6, "global", embed=ClassEmbedding(3, 3))
    for bad, told in [
        (torch.tensor([0, 3]), "y must hold labels 0 to 2, got 0 to 3"),
        (torch.tensor([-1, 0]), "y must hold labels 0 to 2, got -1 to 0"),
        (torch.tensor([0.0, 1.0]), "y must be int64 labels"),
    ]:
        with pytest.raises(ValueError, match=told):
            model.log_prob(torch.zeros(2, 6, dtype=torch.int64), bad)
        with pytest.raises(ValueError, match=told):
            model.sample(2, bad)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: WaveNet((1, 8)), r"data_shape must be \(T,\), got \(1, 8\)"),
        (lambda: WaveNet((8,), dilations=()), r"dilations must be .*, got \(\)"),
        (lambda: WaveNet((8,), dilations=(1, 0)), r"dilations must be .*, got \(1, 0\)"),
        (lambda: WaveNet((8,), levels=1), "levels must be at least 2, got 1"),
    ],
)
def test_bad_sizes_are_refused_by_name(call, told):
    with pytest.raises(ValueError, match=told):
        call()


def test_a_causal_convolution_has_zeros_before_the_first_place():
    conv = loud(CausalConv1d(1, 1, 3))
    x = torch.randn(1, 1, 8, generator=seeded(), dtype=torch.float64)
    past, now = conv.weight.detach().flatten()
    before = torch.cat([torch.zeros(3, dtype=torch.float64), x[0, 0, :-3]])
    expected = past * before + now * x[0, 0] + conv.bias.detach()
    torch.testing.assert_close(conv(x)[0, 0].detach(), expected)


# -- training


def test_training_reaches_the_entropy_rate_of_a_process_that_looks_far_back():
    """x_t is 3 times x_{t-5} plus noise of known entropy (mod 4): below its rate no model comes."""
    noise = torch.tensor([0.7, 0.2, 0.05, 0.05])
    rate = float(-(noise * noise.log()).sum())

    def draw(n: int, length: int, generator: torch.Generator) -> Tensor:
        x = torch.multinomial(noise, n * length, replacement=True, generator=generator)
        x = x.view(n, length)
        x[:, :5] = torch.randint(4, (n, 5), generator=generator)
        for t in range(5, length):
            x[:, t] = (3 * x[:, t - 5] + x[:, t]) % 4
        return x

    model = WaveNet((64,), levels=4, residual=16, skip=16, dilations=(1, 2, 4))
    generator = seeded()
    optimiser = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(150):
        optimiser.zero_grad()
        model.loss(draw(16, 64, generator))["loss"].backward()
        optimiser.step()
    x = draw(200, 200, seeded(1))
    with torch.no_grad():
        nats = F.cross_entropy(model(x), x, reduction="none")[:, 8:]
    assert abs(float(nats.mean()) - rate) < 0.05
    assert float(nats.mean()) > rate - 4 * float(nats.std()) / math.sqrt(nats.numel())
