"""What 1601.06759 claims of its recurrent layers, asserted; what they share with other models is in
``test_every_model``."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gdm_lib.autoregressive import pixelrnn as paper
from gdm_lib.autoregressive.pixelrnn import (
    DiagonalBiLSTM,
    PixelRNN,
    RowLSTM,
    cell,
    skew,
    unskew,
)
from tests.helpers import seeded


def image(features: int, height: int = 4, width: int = 5) -> Tensor:
    return torch.randn(2, features, height, width, dtype=torch.float64, generator=seeded())


def test_states_its_paper():
    assert paper.ARXIV == "1601.06759"


def test_the_cell_is_that_of_torch():
    """torch's gates stand in the order i, f, g, o."""
    lstm = nn.LSTMCell(3, 4).double()
    x, h, c = (torch.randn(2, n, dtype=torch.float64, generator=seeded(n)) for n in (3, 4, 5))
    c = c[:, :4]
    gates = F.linear(x, lstm.weight_ih, lstm.bias_ih) + F.linear(h, lstm.weight_hh, lstm.bias_hh)
    i, f, g, o = gates.chunk(4, 1)
    for ours, theirs in zip(cell(torch.cat([o, f, i, g], 1), c), lstm(x, (h, c)), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_skewing_shifts_each_row_by_one_more_and_is_undone():
    x = torch.arange(1, 7).view(1, 2, 3)
    assert skew(x, 9).tolist() == [[[1, 2, 3, 9], [9, 4, 5, 6]]]
    for height, width in [(1, 1), (1, 4), (4, 1), (3, 5), (5, 3)]:
        x = torch.randn(2, height, width, generator=seeded())
        assert torch.equal(unskew(skew(x)), x)


def states(gates: Tensor, of_states: object) -> Tensor:
    """Equation 3, pixel by pixel: ``of_states(h, i, j)`` adds to the gates ``(B, 4h, H, W)`` what
    the states ``(B, h, H, W)`` say, and gives the cell before."""
    batch, features = len(gates), gates.shape[1] // 4
    h = gates.new_zeros(batch, features, *gates.shape[2:])
    c = torch.zeros_like(h)
    for i in range(gates.shape[2]):
        for j in range(gates.shape[3]):
            more, before = of_states(h, c, i, j)
            h[..., i, j], c[..., i, j] = cell(gates[..., i, j] + more, before)
    return h


@torch.no_grad()
def test_row_lstm_is_equation_3():
    torch.manual_seed(0)
    layer, x = RowLSTM(3, 1).double(), image(6)
    kernel = layer.from_state.weight

    def of_states(h: Tensor, c: Tensor, i: int, j: int) -> tuple[Tensor, Tensor]:
        above = h[:, :, i - 1] if i else torch.zeros_like(h[:, :, 0])
        beside = F.pad(above, (1, 1))[:, :, j : j + 3]
        before = c[:, :, i - 1, j] if i else torch.zeros_like(c[:, :, 0, 0])
        return torch.einsum("bfk,ofk->bo", beside, kernel), before

    expected = states(layer.from_input(x), of_states)
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-12)


def one_direction(gates: Tensor, weight: Tensor) -> Tensor:
    """A state from those of the pixel to the left and of the pixel above."""
    zero = gates.new_zeros(len(gates), gates.shape[1] // 4)

    def of_states(h: Tensor, c: Tensor, i: int, j: int) -> tuple[Tensor, Tensor]:
        left = h[..., i, j - 1] if j else zero
        above = h[..., i - 1, j] if i else zero
        return torch.cat([left, above], 1) @ weight, c[..., i, j - 1] if j else zero

    return states(gates, of_states)


@torch.no_grad()
@pytest.mark.parametrize("size", [(4, 5), (5, 2), (1, 3), (3, 1)])
def test_diagonal_bilstm_is_the_sum_of_two_scans_the_right_one_moved_down(size):
    torch.manual_seed(0)
    layer, x = DiagonalBiLSTM(3, 1).double(), image(6, *size)
    left, right = layer.from_input(x).chunk(2, 1)
    from_left = one_direction(left, layer.from_state[0])
    from_right = one_direction(right.flip(3), layer.from_state[1]).flip(3)
    scans = layer.scan(x)
    torch.testing.assert_close(scans[0], from_left, rtol=0, atol=1e-12)
    torch.testing.assert_close(scans[1], from_right, rtol=0, atol=1e-12)
    moved = torch.zeros_like(from_right)
    moved[:, :, 1:] = from_right[:, :, :-1]
    torch.testing.assert_close(layer(x), from_left + moved, rtol=0, atol=1e-12)


def test_without_the_move_the_right_scan_sees_the_future():
    torch.manual_seed(0)
    layer, x = DiagonalBiLSTM(3, 1).double(), image(6).requires_grad_()

    def later(out: Tensor) -> bool:
        """Whether the output at (2, 1) sees pixels to the right of it in its row, or below."""
        (slope,) = torch.autograd.grad(out[:, :, 2, 1].sum(), x, retain_graph=True)
        return bool((slope[:, :, 2, 2:] != 0).any() or (slope[:, :, 3:] != 0).any())

    left, right = layer.scan(x)
    assert not later(left)
    assert later(right)
    assert later(left + right)
    assert not later(layer(x))


def test_gradients_of_a_long_scan_are_finite():
    torch.manual_seed(0)
    model = PixelRNN((1, 20, 20), levels=2, h=4, layers=1, head=4)
    model.loss(torch.randint(2, (2, 1, 20, 20), generator=seeded()))["loss"].backward()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert p.grad.isfinite().all(), name
        assert p.grad.abs().sum() > 0, name


@pytest.mark.parametrize("lstm", [RowLSTM, DiagonalBiLSTM])
def test_a_state_reaches_across_the_image(lstm):
    """From the first row to the last, in one layer with a kernel of 3."""
    torch.manual_seed(0)
    model = PixelRNN((1, 9, 9), lstm=lstm, levels=2, h=8, layers=1, head=8, kernel=3).double()
    x = torch.rand(4, 1, 9, 9, dtype=torch.float64, generator=seeded()).requires_grad_()
    (slope,) = torch.autograd.grad(model.features(x)[..., 8, 4].sum(), x)
    assert (slope[:, :, 0].abs().sum((0, 1)) > 0).all()
