"""Tones against closed forms and their spectra; the process against sums over all sequences."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from gdm_lib.data.tones import (
    NOTES,
    RATE,
    TIMBRES,
    AutoregressiveProcess,
    load,
    sample_factors,
    synthesise,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def one_of_each(note, n=4, **values):
    """A tone of each timbre, alike in all else: drawn at random but for ``values``."""
    factors = sample_factors(n, generator=generator(7))
    alike = {name: torch.full((n,), value) for name, value in values.items()}
    return replace(factors, timbre=torch.arange(n) % 4, note=torch.full((n,), note), **alike)


# -- tones


def test_shapes_types_and_range():
    data = load(300, 20, length=500)
    for part, n in ((data.train, 300), (data.test, 20)):
        assert len(part) == len(part.factors) == n
        assert part.x.shape == (n, 500)
        assert part.x.dtype == torch.float32
        assert part.y.dtype == torch.int64
        assert part.y is part.factors.timbre
        # 1e-3 for peaks between the points of the grid
        assert (part.x.abs().amax(1) <= 1.001 * part.factors.amplitude).all()
        assert float(part.x.abs().max()) <= 1


def test_the_waves_are_their_closed_forms():
    """With all partials, sum b^h sin(h a) / h = arctan(b sin a / (1 - b cos a)).

    At 110 Hz those from half the rate on would add less than 1e-5.
    """
    b, decay, phase, amplitude = 0.8, 0.08, 0.3, 0.7
    factors = one_of_each(45, brightness=b, decay=decay, phase=phase, amplitude=amplitude)
    x = synthesise(factors, 600).double().numpy()
    time = np.arange(600) / RATE
    angle = 2 * math.pi * (110 * time + phase)
    fading = b * np.exp(-time / decay)
    expected = {
        "sine": np.sin(angle),
        "square": np.arctan(2 * b * np.sin(angle) / (1 - b**2)) / (2 * math.atan(b)),
        "sawtooth": np.arctan(b * np.sin(angle) / (1 - b * np.cos(angle))) / math.asin(b),
        "pluck": np.arctan2(fading * np.sin(angle), 1 - fading * np.cos(angle)) / math.asin(b),
    }
    for i, timbre in enumerate(TIMBRES):
        np.testing.assert_allclose(x[i], amplitude * expected[timbre], atol=1e-4)


@pytest.mark.parametrize("note", [NOTES[0], 60, NOTES[-1]])
def test_the_strongest_frequency_is_that_of_the_note(note):
    seconds = 4
    x = synthesise(one_of_each(note), seconds * RATE)
    for wave in x:
        power = torch.fft.rfft(wave * torch.hann_window(len(wave))).abs()
        strongest = int(power.argmax()) / seconds
        assert 69 + 12 * math.log2(strongest / 440) == pytest.approx(note, abs=0.05)


def test_the_range_of_notes_is_110_to_880_hz():
    factors = replace(sample_factors(2), note=torch.tensor([NOTES[0], NOTES[-1]]))
    torch.testing.assert_close(factors.frequency, torch.tensor([110.0, 880.0]).double())


@pytest.mark.parametrize("note", [57, 76, 81])
def test_a_tone_holds_its_partials_below_half_the_rate_and_nothing_else(note):
    """What least squares leave of it when these are taken out. An aliased one would be left."""
    factors = one_of_each(note, n=5, brightness=0.9, decay=1e6)
    factors.note[4] = NOTES[0]  # a low tone beside them, with more partials than they have room for
    f = float(factors.frequency[0])
    h = np.arange(1, math.ceil(RATE / 2 / f))
    angle = 2 * math.pi * f * h * np.arange(2000)[:, None] / RATE
    partials = np.concatenate([np.sin(angle), np.cos(angle)], 1)
    x = synthesise(factors, 2000)[:4].double().numpy().T
    found, *_ = np.linalg.lstsq(partials, x, rcond=None)
    assert np.abs(x - partials @ found).max() < 1e-4
    strength = np.hypot(*found.reshape(2, len(h), 4))
    expected = 0.9 ** (h - 1) / h  # of the fundamental
    np.testing.assert_allclose(strength[:, 2] / strength[0, 2], expected, atol=1e-4)
    np.testing.assert_allclose(strength[:, 1] / strength[0, 1], expected * (h % 2), atol=1e-4)
    np.testing.assert_allclose(strength[1:, 0], 0, atol=1e-4)


def test_the_amplitude_is_the_peak_and_only_a_pluck_dies_away():
    factors = one_of_each(45, brightness=0.9, decay=0.05, amplitude=0.6)
    x = synthesise(factors, 4 * 2048).abs()
    torch.testing.assert_close(x[:3, :2048].amax(1), torch.full((3,), 0.6), atol=6e-3, rtol=0)
    torch.testing.assert_close(x[:3, -2048:].amax(1), torch.full((3,), 0.6), atol=6e-3, rtol=0)
    # after ten decays nothing but the first partial is left
    late = (x[3, 4000:] * torch.exp(torch.arange(4000, 8192) / RATE / 0.05)).max()
    assert float(late) == pytest.approx(0.6 * 0.9 / math.asin(0.9), rel=0.01)


def test_parts_share_no_item_whatever_the_seeds():
    test = load(0, 300, length=64).test
    others = {row.tobytes() for row in test.x.numpy()}
    phases = set(test.factors.phase.tolist())
    for seed in (0, 1):
        train = load(2000, 0, length=64, seed=seed).train
        rows = {row.tobytes() for row in train.x.numpy()}
        assert len(rows) == 2000
        assert not rows & others
        # not even at another loudness: a stream that both drew from would show
        assert len(set(train.factors.phase.tolist()) & phases) < 3


def test_the_same_again_and_the_beginning_of_more():
    few, many = load(30, 10), load(50, 10)
    assert torch.equal(few.train.x, load(30, 10).train.x)
    assert torch.equal(few.train.x, many.train.x[:30])
    assert torch.equal(few.test.x, many.test.x)
    assert not torch.equal(few.train.x, load(30, 10, seed=1).train.x)
    torch.testing.assert_close(load(30, 0, length=100).train.x, few.train.x[:, :100])


def test_factors_fill_their_ranges_evenly():
    n = 20_000
    f = sample_factors(n, generator=generator(1))
    ranges = {"amplitude": (0.2, 0.9), "brightness": (0.3, 0.9), "decay": (0.03, 0.15)}
    for name, (low, high) in (ranges | {"phase": (0, 1)}).items():
        values = getattr(f, name)
        assert low - 1e-6 <= float(values.min())
        assert float(values.max()) <= high + 1e-6
        error = (high - low) / math.sqrt(12 * n)
        assert abs(float(values.mean()) - (low + high) / 2) < 4 * error
    for values, count in ((f.timbre, len(TIMBRES)), (f.note - NOTES[0], len(NOTES))):
        expected = n / count
        chi2 = float(((torch.bincount(values, minlength=count) - expected) ** 2 / expected).sum())
        assert chi2 < count + 5 * math.sqrt(2 * count)


def test_no_tones():
    assert synthesise(sample_factors(0), 7).shape == (0, 7)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: load(-1), "n_train, n_test and seed must be 0 or more, got -1"),
        (lambda: load(2, 2, length=0), "length must be at least 1 sample, got 0"),
        (lambda: load(2, 2, notes=[]), r"notes must be at least one .* got \[\]"),
        (lambda: load(2, 2, notes=[60, 108]), r"half of 8000 Hz, got \[60, 108\]"),
        (lambda: synthesise(one_of_each(108)), r"factors.frequency must be in \(0, 4000\)"),
        (lambda: synthesise(one_of_each(60, amplitude=1.5)), r"factors.amplitude .* got 1.5 to"),
        (lambda: synthesise(one_of_each(60, brightness=1.0)), r"brightness must be in \[0, 1\)"),
        (lambda: synthesise(one_of_each(60, decay=0.0)), r"factors.decay must be in \(0, inf\)"),
        (
            lambda: synthesise(replace(one_of_each(60), timbre=torch.full((4,), 4))),
            "factors.timbre must hold levels 0 to 3, got 4",
        ),
    ],
)
def test_bad_tones_are_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# -- the process

TINY = {
    "second order": {"levels": 3, "coefficients": (0.9, -0.6), "scale": 0.7},
    "first order": {"levels": 3, "coefficients": (0.7,), "scale": 0.6},
    "interleaved": {"levels": 3, "coefficients": (0.9, -0.6), "scale": 0.7, "lag": 2},
}


def all_sequences(levels, length):
    return torch.tensor(list(itertools.product(range(levels), repeat=length)))


def entropy(p):
    return -float(torch.special.xlogy(p, p).sum())


@pytest.mark.parametrize("lag", [1, 3])
def test_the_conditional_is_the_stated_one(lag):
    process = AutoregressiveProcess(6, (1.2, -0.5), 0.9, lag)
    x = process.sample(3, 40, generator=generator())
    log_p = process.conditional(x)
    assert log_p.shape == (3, 6, 40)
    for i, t in itertools.product(range(3), range(2 * lag, 40)):
        mean = 2.5 + 1.2 * (int(x[i, t - lag]) - 2.5) - 0.5 * (int(x[i, t - 2 * lag]) - 2.5)
        mean = min(max(mean, 0), 5)
        weight = [math.exp(-((k - mean) ** 2) / (2 * 0.9**2)) for k in range(6)]
        expected = [w / sum(weight) for w in weight]
        assert log_p[i, :, t].exp().tolist() == pytest.approx(expected, abs=1e-12)


def test_conditionals_sum_to_one():
    process = AutoregressiveProcess(lag=7)
    x = process.sample(20, 50, generator=generator())
    total = process.conditional(x).logsumexp(1)
    torch.testing.assert_close(total, torch.zeros(20, 50).double(), atol=1e-12, rtol=0)


@pytest.mark.parametrize("kind", TINY)
@pytest.mark.parametrize("length", [1, 2, 4, 5])
def test_the_sequences_sum_to_one(kind, length):
    process = AutoregressiveProcess(**TINY[kind])
    mass = process.log_prob(all_sequences(3, length)).exp().sum()
    assert float(mass) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("kind", TINY)
def test_every_stretch_is_like_every_other(kind):
    """Exactly: the law of three samples in a row, summed from that of six."""
    p = AutoregressiveProcess(**TINY[kind]).log_prob(all_sequences(3, 6)).exp().reshape([3] * 6)
    stretches = [p.sum([d for d in range(6) if not t <= d < t + 3]) for t in range(4)]
    for stretch in stretches[1:]:
        torch.testing.assert_close(stretch, stretches[0], atol=1e-12, rtol=0)


@pytest.mark.parametrize("kind", TINY)
def test_entropies_are_differences_of_those_of_blocks(kind):
    """H(x_t | c samples before it) = H(c + 1 in a row) - H(c in a row), over all sequences."""
    process = AutoregressiveProcess(**TINY[kind])
    blocks = [0.0]
    blocks += [entropy(process.log_prob(all_sequences(3, n)).exp()) for n in range(1, 8)]
    for context in range(7):
        expected = blocks[context + 1] - blocks[context]
        assert process.conditional_entropy(context) == pytest.approx(expected, abs=1e-11)
    assert process.marginal_entropy == process.conditional_entropy(0)
    assert process.entropy_rate == process.conditional_entropy(100)


@pytest.mark.parametrize("lag", [1, 5])
def test_the_entropy_rate_agrees_with_monte_carlo(lag):
    process = AutoregressiveProcess(lag=lag)
    assert process.entropy_rate == AutoregressiveProcess().entropy_rate
    x = process.sample(1000, 200, generator=generator(lag))
    true = process.conditional(x).gather(1, x[:, None])[:, 0]
    surprise = -true[:, 2 * lag :].mean(1)
    error = float(surprise.std()) / math.sqrt(len(x))
    assert error < 0.002
    assert abs(float(surprise.mean()) - process.entropy_rate) < 3 * error


@pytest.mark.parametrize("lag", [1, 5])
def test_the_marginal_is_that_of_the_samples_at_once_and_later(lag):
    process = AutoregressiveProcess(lag=lag)
    x = process.sample(20_000, 4 * lag, generator=generator(3))
    p = process.conditional(x[:1])[0, :, 0].exp()
    assert entropy(p) == pytest.approx(process.marginal_entropy, abs=1e-12)
    for t in (0, lag, 4 * lag - 1):
        expected = 20_000 * p
        chi2 = float(((torch.bincount(x[:, t], minlength=16) - expected) ** 2 / expected).sum())
        assert chi2 < 16 + 5 * math.sqrt(2 * 16)


@pytest.mark.parametrize("kind", TINY)
def test_samples_come_as_often_as_log_prob_says(kind):
    process = AutoregressiveProcess(**TINY[kind])
    n, cells = 50_000, 3**5
    x = process.sample(n, 5, generator=generator(4))
    cell = (x * 3 ** torch.arange(4, -1, -1)).sum(1)
    expected = n * process.log_prob(all_sequences(3, 5)).exp()
    seen = torch.bincount(cell, minlength=cells)
    rare = expected < 5
    assert rare.float().mean() < 0.5
    chi2 = float(((seen - expected) ** 2 / expected)[~rare].sum())
    count = int((~rare).sum())
    assert chi2 < count + 5 * math.sqrt(2 * count)
    assert abs(int(seen[rare].sum()) - float(expected[rare].sum())) < 5 * math.sqrt(n * 0.02)


def test_a_lag_is_so_many_independent_copies():
    x = torch.randint(0, 16, (30, 23), generator=generator(5))
    copies = sum(AutoregressiveProcess().log_prob(x[:, i::4]) for i in range(4))
    torch.testing.assert_close(AutoregressiveProcess(lag=4).log_prob(x), copies)


def test_a_sight_shorter_than_the_lag_is_none():
    process = AutoregressiveProcess(lag=8)
    assert process.conditional_entropy(7) == process.marginal_entropy
    assert process.marginal_entropy > process.conditional_entropy(8) + 0.5
    assert process.conditional_entropy(15) == process.conditional_entropy(8)
    assert process.conditional_entropy(8) > process.conditional_entropy(16) + 0.3
    assert process.conditional_entropy(16) == process.entropy_rate


def test_without_coefficients_that_matter_the_samples_are_independent():
    process = AutoregressiveProcess(5, (0.0,), 1.0)
    weight = torch.exp(-0.5 * (torch.arange(5.0).double() - 2) ** 2)
    exact = entropy(weight / weight.sum())
    assert process.entropy_rate == pytest.approx(exact, abs=1e-12)
    assert process.marginal_entropy == pytest.approx(exact, abs=1e-12)


def test_levels_that_are_never_reached_make_no_nan():
    process = AutoregressiveProcess(128, (0.5,), 1.0)
    x = torch.tensor([[0, 64, 64], [64, 64, 64]])
    log_p = process.log_prob(x)
    assert float(log_p[0]) == -math.inf
    assert -10 < float(log_p[1]) < 0
    assert math.isfinite(process.entropy_rate)
    assert process.conditional_entropy(1) == pytest.approx(process.entropy_rate, abs=1e-10)


def test_the_first_sequences_of_more_are_the_same():
    process = AutoregressiveProcess(lag=3)
    few, more = (process.sample(n, 20, generator=generator(6)) for n in (3, 9))
    assert few.dtype == torch.int64
    assert torch.equal(few, more[:3])
    assert process.sample(0, 20).shape == (0, 20)
    assert process.sample(2, 0).shape == (2, 0)


LEVELS = torch.zeros(1, 4, dtype=torch.int64)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: AutoregressiveProcess(1), "levels must be from 2 to 256, got 1"),
        (lambda: AutoregressiveProcess(257), "levels must be from 2 to 256, got 257"),
        (lambda: AutoregressiveProcess(coefficients=()), "coefficients must be one or two numbers"),
        (lambda: AutoregressiveProcess(coefficients=(0.1, 0.1, 0.1)), "one or two numbers, got"),
        (lambda: AutoregressiveProcess(coefficients=(math.nan,)), "one or two numbers, got"),
        (lambda: AutoregressiveProcess(coefficients=(1.0,)), "inside the unit circle.*at 1.000"),
        (lambda: AutoregressiveProcess(coefficients=(0.6, 0.5)), r"got \(0.6, 0.5\) with one at 1"),
        (lambda: AutoregressiveProcess(coefficients=(0.0, -1.2)), "inside the unit circle"),
        (lambda: AutoregressiveProcess(scale=0.0), "scale must be positive and finite, got 0.0"),
        (
            lambda: AutoregressiveProcess(4, (0.97,), scale=0.16),
            "scale must let the chain move.*0.16",
        ),
        (lambda: AutoregressiveProcess(lag=0), "lag must be at least 1 sample, got 0"),
        (lambda: AutoregressiveProcess().sample(-1, 5), "n and length must be 0 or more, got -1"),
        (lambda: AutoregressiveProcess().conditional_entropy(-1), "context must be 0 samples or"),
        (lambda: AutoregressiveProcess().log_prob(LEVELS[0]), r"shape \(n, length\).* got \(4,\)"),
        (lambda: AutoregressiveProcess().log_prob(LEVELS + 16), "x must hold levels 0 to 15"),
        (lambda: AutoregressiveProcess().conditional(LEVELS.float()), "x must hold int64 levels"),
    ],
)
def test_a_bad_process_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()
