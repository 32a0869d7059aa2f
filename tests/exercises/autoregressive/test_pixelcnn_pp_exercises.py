"""Each checker of the PixelCNN++ chapter accepts the solution and names each planted fault."""

import torch
import torch.nn.functional as F

from gdm_lib.exercises.autoregressive import pixelcnn_pp as exercises
from gdm_lib.exercises.testing import assert_checker


def concat_elu(x):
    return F.elu(torch.cat([x, -x], 1))


def test_concat_elu():
    assert_checker(
        exercises.concat_elu,
        concat_elu,
        {
            r"halves are exchanged": lambda x: concat_elu(-x),
            r"the sign goes in": lambda x: torch.cat([F.elu(x), -F.elu(x)], 1),
            r"both halves are ELU\(x\)": lambda x: F.elu(torch.cat([x, x], 1)),
            r"you use ReLU": lambda x: F.relu(torch.cat([x, -x], 1)),
            r"ELU is missing": lambda x: torch.cat([x, -x], 1),
            r"last axis": lambda x: F.elu(torch.cat([x, -x], -1)),
            r"along the batch": lambda x: F.elu(torch.cat([x, -x], 0)),
            r"twice as many features": lambda x: F.elu(x),
            r"take turns": lambda x: torch.stack([F.elu(x), F.elu(-x)], 2).flatten(1, 2),
            r"no gradient reaches `x`": lambda x: concat_elu(x.detach()),
        },
    )


def terms(x, mean, log_scale, half, step):
    precision = torch.exp(-log_scale)
    centred = step * x.to(mean) - 1 - mean
    below = F.logsigmoid((centred + half) * precision)
    above = F.logsigmoid((half - centred) * precision)
    return below, above, torch.log(-torch.expm1(-2 * half * precision))


def edged(x, count, below, above, width):
    inside = torch.where(x == count - 1, above, below + above + width)
    return torch.where(x == 0, below, inside)


def log_mass(x, mean, log_scale, count):
    half = 1 / (count - 1)
    return edged(x, count, *terms(x, mean, log_scale, half, 2 * half))


def test_log_mass_of_level():
    def no_edges(x, mean, log_scale, count):
        half = 1 / (count - 1)
        return sum(terms(x, mean, log_scale, half, 2 * half))

    def no_upper(x, mean, log_scale, count):
        return torch.where(
            x == count - 1,
            no_edges(x, mean, log_scale, count),
            log_mass(x, mean, log_scale, count),
        )

    def no_lower(x, mean, log_scale, count):
        return torch.where(
            x == 0, no_edges(x, mean, log_scale, count), log_mass(x, mean, log_scale, count)
        )

    def exchanged(x, mean, log_scale, count):
        half = 1 / (count - 1)
        below, above, width = terms(x, mean, log_scale, half, 2 * half)
        inside = below + above + width
        return torch.where(x == 0, above, torch.where(x == count - 1, below, inside))

    def narrow(x, mean, log_scale, count, factor=0.5):
        half = 1 / (count - 1)
        return edged(x, count, *terms(x, mean, log_scale, factor * half, 2 * half))

    def by_count(x, mean, log_scale, count):
        return edged(x, count, *terms(x, mean, log_scale, 1 / count, 2 / count))

    def no_width(x, mean, log_scale, count):
        half = 1 / (count - 1)
        below, above, width = terms(x, mean, log_scale, half, 2 * half)
        return edged(x, count, below, above, 0 * width)

    def density(x, mean, log_scale, count):
        z = (2 * x.to(mean) / (count - 1) - 1 - mean) / log_scale.exp()
        p = torch.sigmoid(z) * torch.sigmoid(-z) / log_scale.exp() * 2 / (count - 1)
        return p.log()

    def underflows(x, mean, log_scale, count, least=0.0):
        half = 1 / (count - 1)
        centred = 2 * half * x.to(mean) - 1 - mean
        upper = torch.sigmoid((centred + half) / log_scale.exp())
        lower = torch.sigmoid((centred - half) / log_scale.exp())
        upper = torch.where(x == count - 1, 1.0, upper)
        lower = torch.where(x == 0, 0.0, lower)
        return (upper - lower).clamp_min(least).log()

    def far_linear(x, mean, log_scale, count):
        return log_mass(x, mean.clamp(-9, 9), log_scale, count)

    def dead(x, mean, log_scale, count):
        right = log_mass(x, mean, log_scale, count)
        return torch.where(mean.abs() > 20, right.detach() + 0 * mean, right)

    assert_checker(
        exercises.log_mass_of_level,
        log_mass,
        {
            r"the edges are missing": no_edges,
            r"the upper edge is missing": no_upper,
            r"the lower edge is missing": no_lower,
            r"the edges are exchanged": exchanged,
            r"half as wide": narrow,
            r"twice as wide": lambda *a: narrow(*a, factor=2),
            r"divide by count": by_count,
            r"multiply by the scale": lambda x, m, s, n: log_mass(x, m, -s, n),
            r"logarithm of a variance": lambda x, m, s, n: log_mass(x, m, s / 2, n),
            r"last term of the identity": no_width,
            r"this is the density": density,
            r"return the probability": lambda *a: log_mass(*a).exp(),
            r"you return the loss": lambda *a: -log_mass(*a),
            r"sigmoids underflows": underflows,
            r"the log-mass far from the mean is": far_linear,
            r"a clamp hides": dead,
            r"no gradient reaches `mean`": lambda x, m, s, n: log_mass(x, m.detach(), s, n),
        },
    )


def colour_means(means, coefficients, x):
    alpha, beta, gamma = torch.tanh(coefficients).unbind(1)
    red, green = x[:, 0, None], x[:, 1, None]
    return torch.stack(
        [means[:, 0], means[:, 1] + alpha * red, means[:, 2] + beta * red + gamma * green], 1
    )


def test_colour_means():
    def general(means, coefficients, for_green, for_blue):
        alpha, beta, gamma = torch.tanh(coefficients).unbind(1)
        green = means[:, 1] + alpha * for_green
        blue = means[:, 2] + beta * for_blue[0] + gamma * for_blue[1]
        return torch.stack([means[:, 0], green, blue], 1)

    def split(x):
        return (c[:, None] for c in x.unbind(1))

    def exchanged(means, coefficients, x):
        red, green, _ = split(x)
        return general(means, coefficients, red, (green, red))

    def of_means(means, coefficients, x):
        return general(means, coefficients, means[:, 0], (means[:, 0], means[:, 1]))

    def chained(means, coefficients, x):
        red, _, _ = split(x)
        green = means[:, 1] + torch.tanh(coefficients[:, 0]) * red
        return general(means, coefficients, red, (red, green))

    def sees_green(means, coefficients, x):
        red, green, _ = split(x)
        return general(means, coefficients, green, (red, green))

    def sees_blue(means, coefficients, x):
        red, green, blue = split(x)
        return general(means, coefficients, red, (green, blue))

    def no_tanh(means, coefficients, x):
        alpha, beta, gamma = coefficients.unbind(1)
        red, green, _ = split(x)
        blue = means[:, 2] + beta * red + gamma * green
        return torch.stack([means[:, 0], means[:, 1] + alpha * red, blue], 1)

    def without(dim):
        def answer(means, coefficients, x):
            kept = torch.ones(3, 1).to(means)
            kept[dim] = 0
            return colour_means(means, coefficients * kept, x)

        return answer

    assert_checker(
        exercises.colour_means,
        colour_means,
        {
            r"tanh is missing": no_tanh,
            r"beta and gamma are exchanged": exchanged,
            r"means of the earlier colours": of_means,
            r"the mean of green\. Use": chained,
            r"depends on green itself": sees_green,
            r"depends on blue itself": sees_blue,
            r"gamma is missing": without(2),
            r"beta is missing": without(1),
            r"what is added": lambda m, c, x: colour_means(m, c, x) - m,
            r"coefficients are not used": lambda m, c, x: m.clone(),
            r"wrong sign": lambda m, c, x: colour_means(m, -c, x),
            r"no gradient reaches": lambda m, c, x: colour_means(m, c.detach(), x),
        },
    )


def data_init(v, x, gain):
    t = x @ v.T / v.norm(dim=1)
    g = gain / t.std(0, correction=0)
    return torch.stack([g, -g * t.mean(0)])


def test_data_init():
    def statistics(v, x, correction=0):
        t = x @ v.T / v.norm(dim=1)
        return t.std(0, correction=correction), t.mean(0)

    def no_length(v, x, gain):
        return data_init(v / v.norm(dim=1, keepdim=True), x, gain) / torch.stack(
            [v.norm(dim=1), torch.ones(len(v)).to(v)]
        )

    def bias_without_gain(v, x, gain):
        std, mean = statistics(v, x)
        return torch.stack([gain / std, -mean / std])

    def unscaled_bias(v, x, gain):
        std, mean = statistics(v, x)
        return torch.stack([gain / std, -mean])

    def scaled(power):
        def answer(v, x, gain):
            std, mean = statistics(v, x)
            return torch.stack([gain * std**power, -gain * mean * std**power])

        return answer

    def sample(v, x, gain):
        std, mean = statistics(v, x, correction=1)
        return torch.stack([gain / std, -gain * mean / std])

    signs = torch.tensor([[1.0], [-1.0]]).double()
    assert_checker(
        exercises.data_init,
        data_init,
        {
            r"length of v": no_length,
            r"`gain` is not used": lambda v, x, gain: data_init(v, x, 1.0),
            r"`gain` is missing in b": bias_without_gain,
            r"before g scaled it": unscaled_bias,
            r"wrong sign": lambda *a: data_init(*a) * signs,
            r"b is zero": lambda *a: data_init(*a) * (signs + 1) / 2,
            r"multiply by the standard": scaled(1),
            r"divide by the variance": scaled(-2),
            r"divide by N - 1": sample,
            r"g and b are exchanged": lambda *a: data_init(*a).flip(0),
            r"transposed": lambda *a: data_init(*a).T,
        },
    )
