"""Each checker of the MAF chapter accepts the solution and names each planted fault."""

import math

import torch
import torch.nn.functional as F

from gdm_lib.exercises.flows import maf as exercises
from gdm_lib.exercises.testing import assert_checker

HALF_LOG = 0.5 * math.log(2 * math.pi)


def path_counts(order, degrees):
    place = order.argsort() + 1
    return (place[:, None] > degrees).float() @ (degrees[:, None] >= place).float()


def test_path_counts():
    def leaks(order, degrees):
        place = order.argsort() + 1
        return (place[:, None] >= degrees).float() @ (degrees[:, None] >= place).float()

    def blind(order, degrees):
        place = order.argsort() + 1
        return (place[:, None] > degrees).float() @ (degrees[:, None] > place).float()

    def exchanged(order, degrees):
        place = order.argsort() + 1
        return (place[:, None] >= degrees).float() @ (degrees[:, None] > place).float()

    def from_zero(order, degrees):
        place = order.argsort()
        return (place[:, None] > degrees).float() @ (degrees[:, None] >= place).float()

    def four_only(order, degrees):
        result = path_counts(order, degrees)
        return result if len(order) == 4 else torch.zeros_like(result)

    assert_checker(
        exercises.path_counts,
        path_counts,
        {
            r"sees itself": leaks,
            r"the input mask is strict": blind,
            r"are exchanged": exchanged,
            r"order for the places": lambda o, m: path_counts(o.argsort(), m),
            r"count from 0": from_zero,
            r"transposed": lambda o, m: path_counts(o, m).T,
            r"whether there is a path": lambda o, m: (path_counts(o, m) > 0).float(),
            r"ignore `order`": lambda o, m: path_counts(o.sort().values, m),
            r"of three variables is wrong": four_only,
        },
    )


def log_density(x, mu, alpha):
    u = (x - mu) * torch.exp(-alpha)
    return (-0.5 * u**2 - HALF_LOG - alpha).sum(1)


def test_log_density():
    def with_u(x, mu, alpha, scale, log_scale):
        return (-0.5 * ((x - mu) / scale) ** 2 - HALF_LOG - log_scale).sum(1)

    def softplus(x, mu, alpha):
        return with_u(x, mu, alpha, F.softplus(alpha), F.softplus(alpha).log())

    def wrong_slope(x, mu, alpha):
        return log_density(x, mu, alpha) + (alpha - alpha.detach()).sum(1)

    def per_variable(x, mu, alpha):
        u = (x - mu) * torch.exp(-alpha)
        return -0.5 * u**2 - HALF_LOG - alpha

    assert_checker(
        exercises.log_density,
        log_density,
        {
            r"determinant is missing": lambda x, m, a: log_density(x, m, a) + a.sum(1),
            r"determinant has the wrong sign": lambda x, m, a: log_density(x, m, a) + 2 * a.sum(1),
            r"exp\(\+alpha\)": lambda x, m, a: with_u(x, m, a, (-a).exp(), a),
            r"for the standard deviation, everywhere": lambda x, m, a: log_density(x, m, -a),
            r"of the variance": lambda x, m, a: log_density(x, m, a / 2),
            r"is a softplus": softplus,
            r"constant -log": lambda x, m, a: log_density(x, m, a) + HALF_LOG * x.shape[1],
            r"1/2 before the square": lambda x, m, a: (
                2 * log_density(x, m, a) + (HALF_LOG + a).sum(1)
            ),
            r"you return the loss": lambda x, m, a: -log_density(x, m, a),
            r"average over the variables": lambda x, m, a: per_variable(x, m, a).mean(1),
            r"one value for each variable": per_variable,
            r"average over the batch": lambda x, m, a: log_density(x, m, a).mean(),
            r"sum over the batch too": lambda x, m, a: log_density(x, m, a).sum(),
            r"sum over the batch axis": lambda x, m, a: per_variable(x, m, a).sum(0),
            r"in bits": lambda x, m, a: log_density(x, m, a) / math.log(2),
            r"no gradient reaches `alpha`": lambda x, m, a: log_density(x, m, a.detach()),
            r"with respect to `alpha`": wrong_slope,
        },
    )


def sample_from_noise(net, u):
    x = torch.zeros_like(u)
    for i in range(u.shape[1]):
        mu, alpha = net(x)
        x[:, i] = u[:, i] * torch.exp(alpha[:, i]) + mu[:, i]
    return x


def test_sample_from_noise():
    def once(net, u, at):
        mu, alpha = net(at)
        return u * alpha.exp() + mu

    def two_passes(net, u):
        return once(net, u, once(net, u, torch.zeros_like(u)))

    def forward(net, u):
        mu, alpha = net(u)
        return (u - mu) * torch.exp(-alpha)

    def flipped(net, u):
        return sample_from_noise(lambda x: (net(x)[0], -net(x)[1]), u)

    def mean_scaled(net, u):
        return sample_from_noise(lambda x: (net(x)[0] * net(x)[1].exp(), net(x)[1]), u)

    assert_checker(
        exercises.sample_from_noise,
        sample_from_noise,
        {
            r"that is an IAF": lambda net, u: once(net, u, u),
            r"the other direction": forward,
            r"once, on zeros": lambda net, u: once(net, u, torch.zeros_like(u)),
            r"two passes are too few": two_passes,
            r"scale has the wrong sign": flipped,
            r"the mean is scaled too": mean_scaled,
            r"noise as it came": lambda net, u: u.clone(),
        },
    )


def parts(x, mu, alpha):
    return -0.5 * ((x[:, None] - mu) * torch.exp(-alpha)) ** 2 - HALF_LOG - alpha


def mixture_log_prob(x, logits, mu, alpha):
    log_p = torch.log_softmax(logits, 1) + parts(x, mu, alpha)
    return torch.logsumexp(log_p, 1).sum(1)


def test_mixture_log_prob():
    def mean_of_logs(x, w, m, a):
        return (w.softmax(1) * parts(x, m, a)).sum((1, 2))

    def underflows(x, w, m, a):
        return (w.softmax(1) * parts(x, m, a).exp()).sum(1).log().sum(1)

    def clamped(x, w, m, a):
        return mixture_log_prob(x.clamp(-50, 50), w, m, a)

    def one_for_all(x, w, m, a):
        return (w.log_softmax(1) + parts(x, m, a)).sum(2).logsumexp(1)

    assert_checker(
        exercises.mixture_log_prob,
        mixture_log_prob,
        {
            r"average the components' log": mean_of_logs,
            r"used as log-weights": lambda x, w, m, a: (w + parts(x, m, a)).logsumexp(1).sum(1),
            r"over the variables\. The": lambda x, w, m, a: (
                (w.log_softmax(2) + parts(x, m, a)).logsumexp(1).sum(1)
            ),
            r"over the batch\. The": lambda x, w, m, a: (
                (w.log_softmax(0) + parts(x, m, a)).logsumexp(1).sum(1)
            ),
            r"all weigh the same": lambda x, w, m, a: mixture_log_prob(x, w * 0, m, a),
            r"each component's -alpha": lambda x, w, m, a: (
                (w.log_softmax(1) + parts(x, m, a) + a).logsumexp(1).sum(1)
            ),
            r"all variables together": one_for_all,
            r"one value for each variable": lambda x, w, m, a: (
                w.log_softmax(1) + parts(x, m, a)
            ).logsumexp(1),
            r"you return the loss": lambda x, w, m, a: -mixture_log_prob(x, w, m, a),
            r"underflows to zero": underflows,
            r"far out is wrong": clamped,
        },
    )
