"""Variable by variable through a masked network: the incremental evaluation, against D passes."""

import pytest
import torch

from gdm_lib.autoregression import Place, sequential, sequential_naive
from gdm_lib.autoregressive.made import MaskedMLP, random_degrees, spread_degrees
from tests.helpers import loud, seeded

DEGREES = pytest.mark.parametrize("degrees", [spread_degrees, random_degrees])


@pytest.mark.parametrize("context_dim", [0, 3])
@pytest.mark.parametrize("hidden", [(), (17,), (30, 20, 25)])
@DEGREES
def test_fast_and_naive_agree(hidden, degrees, context_dim):
    orders = [list(range(6)), [5, 1, 3, 0, 2, 4]]
    net = MaskedMLP(
        6, hidden, 2, orders=orders, degrees=degrees, context_dim=context_dim, generator=seeded()
    )
    loud(net, 0.5)
    z = torch.randn(7, 6, generator=seeded(1), dtype=torch.float64)
    context = torch.randn(7, 3, generator=seeded(2)).double() if context_dim else None

    def rule(params: torch.Tensor, place: Place) -> torch.Tensor:
        return z[(..., *place)] * torch.tanh(params[:, 0]).exp() + params[:, 1]

    for order in (0, 1):
        naive = sequential_naive(net, rule, z, context, order)
        torch.testing.assert_close(sequential(net, rule, z, context, order), naive)
        params = net(naive, context, order)
        torch.testing.assert_close(naive, z * torch.tanh(params[:, 0]).exp() + params[:, 1])


def test_fast_uses_each_weight_once(monkeypatch):
    """The multiplications of all D steps together, against one pass of the dense network."""
    net, work = MaskedMLP(64, (128, 128), 2), 0
    addmm = torch.addmm

    def count(a: torch.Tensor, b: torch.Tensor) -> None:
        nonlocal work
        work += a.shape[0] * a.shape[1] * b.shape[1]

    monkeypatch.setattr(torch, "addmm", lambda c, a, b, **to: count(a, b) or addmm(c, a, b, **to))
    sequential(net, lambda params, _: params[:, 0], torch.zeros(10, 64))
    dense = 10 * sum(layer.weight.numel() for layer in net.layers)
    ones = 10 * sum(int(getattr(net, f"mask{i}").sum()) for i in range(3))
    assert work == ones
    assert work < 0.6 * dense
