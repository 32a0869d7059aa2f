"""PixelRNN: Row LSTM and Diagonal BiLSTM.

Aäron van den Oord, Nal Kalchbrenner and Koray Kavukcuoglu, *Pixel Recurrent Neural Networks*,
2016, https://arxiv.org/abs/1601.06759. Equation numbers below are the paper's. The masks and the
convolutional model are in ``pixelcnn``.

An LSTM whose state runs over the image sees all that a pixel may see, however far away. Its gates
add a part that comes from the input, computed for the whole image at once, and a part that comes
from the state (equation 3)::

    [o, f, i, g] = sigmoid(K_ss * h_before + K_is * x)      (g: tanh)
    c = f . c_before + i . g
    h = o . tanh(c)

The Row LSTM goes down row by row: the state before is that of three pixels of the row above. The
Diagonal BiLSTM goes from both upper corners along diagonals: the states before are those of the
pixel beside and of the pixel above.

Symbols: ``h`` features of a state, half those of the residual stream, ``C`` colours, ``H`` and
``W`` height and width, ``B`` the batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gdm_lib._inputs import check_count, check_counts
from gdm_lib.autoregression import PixelStep
from gdm_lib.autoregressive.pixelcnn import MaskedConv2d, PixelNetwork, colours
from gdm_lib.nn import check_image

__all__ = ["DiagonalBiLSTM", "PixelRNN", "ResidualLSTM", "RowLSTM", "cell", "skew", "unskew"]

ARXIV = "1601.06759"


def cell(gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """One step of an LSTM (equation 3): ``o, f, i, g`` along dimension -1, ``(..., 4h)``, and the
    cell before, ``(..., h)`` -> the state and the cell, ``(..., h)``."""
    o, f, i = torch.sigmoid(gates[..., : 3 * c.shape[-1]]).chunk(3, -1)
    c = f * c + i * torch.tanh(gates[..., 3 * c.shape[-1] :])
    return o * torch.tanh(c), c


# Section 3.1: Row LSTM


class RowLSTM(nn.Module):
    """A state for each pixel, computed a row at a time from the row above.

    What a pixel sees is a triangle that opens upwards by ``kernel // 2`` pixels a row, and what
    the input-to-state convolution sees of its own row.

    Args:
        h: features of the state.
        count: ``C``.
        kernel: width of both convolutions' kernels, odd; the paper's is 3.
    """

    def __init__(self, h: int, count: int, kernel: int = 3) -> None:
        super().__init__()
        gates = colours(4 * h, count, parts=4)
        self.from_input = MaskedConv2d(colours(2 * h, count), gates, (1, kernel))
        # All colours of the row above are known: no mask.
        self.from_state = nn.Conv1d(h, 4 * h, kernel, padding=kernel // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, 2h, H, W)`` -> ``(B, h, H, W)``."""
        h = c = x.new_zeros(len(x), x.shape[3], self.from_state.in_channels)
        states = []
        for gates in self.from_input(x).unbind(2):
            gates = gates + self.from_state(h.transpose(1, 2))
            h, c = cell(gates.transpose(1, 2), c)
            states.append(h)
        return torch.stack(states, 2).permute(0, 3, 2, 1)

    def step(self, n: int, width: int) -> PixelStep:
        """The same, pixel by pixel."""
        return _RowStep(self, n, width)


class _RowStep(PixelStep):
    def __init__(self, layer: RowLSTM, n: int, width: int) -> None:
        super().__init__()
        self.from_input, self.from_state = layer.from_input.step(n, width), layer.from_state
        self.h = self.from_state.weight.new_zeros(width, n, self.from_state.in_channels)
        self.c = self.h.clone()
        self.c_above = self.c.clone()

    def next_row(self) -> None:
        from_state = self.from_state(self.h.permute(1, 2, 0)).permute(2, 0, 1)
        self.from_input.from_above = (from_state + self.from_input.bias).contiguous()
        self.c_above = self.c.clone()

    def at(self, column: int) -> None:
        super().at(column)
        self.from_input.at(column)

    def forward(self, features: Tensor) -> Tensor:
        j = self.column
        self.h[j], self.c[j] = cell(self.from_input(features), self.c_above[j])
        return self.h[j]


# Section 3.2: Diagonal BiLSTM


def skew(x: Tensor, value: float = 0.0) -> Tensor:
    """Shift row ``i`` right by ``i``, so that diagonals become columns (figure 3): ``(..., H, W)``
    -> ``(..., H, H + W - 1)``, filled with ``value``."""
    height, width = x.shape[-2:]
    flat = F.pad(x, (0, height), value=value).flatten(-2)[..., :-height]
    return flat.unflatten(-1, (height, height + width - 1))


def unskew(x: Tensor) -> Tensor:
    """Undo ``skew``."""
    height, width = x.shape[-2], x.shape[-1] + 1 - x.shape[-2]
    flat = F.pad(x.flatten(-2), (0, height))
    return flat.unflatten(-1, (height, height + width))[..., :width]


CLOSED = -1e4  # a gate that lets nothing through: outside the image states and cells stay zero


class DiagonalBiLSTM(nn.Module):
    """Two states for each pixel, which have seen all pixels above and to the left of it, and all
    above and to the right.

    A state comes from that of the pixel beside it and that of the pixel above, so all pixels of a
    diagonal can be computed at once: ``H + W - 1`` steps. The state from the right has seen pixels
    of its own row that come later; so its map is moved down by one row before it is added.

    Args:
        h: features of each state.
        count: ``C``.
    """

    def __init__(self, h: int, count: int) -> None:
        super().__init__()
        # Of both directions, the left one first.
        gates = colours(8 * h, count, parts=8)
        self.from_input = MaskedConv2d(colours(2 * h, count), gates, (1, 1))
        # The kernel of 2 x 1 on the skewed map: of the pixel beside, and of the one above.
        self.from_state = nn.Parameter(torch.empty(2, 2 * h, 4 * h))
        nn.init.uniform_(self.from_state, -1 / math.sqrt(2 * h), 1 / math.sqrt(2 * h))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, 2h, H, W)`` -> ``(B, h, H, W)``."""
        left, right = self.scan(x)
        return left + F.pad(right, (0, 0, 1, -1))

    def scan(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The states from the left and from the right, neither moved: ``(B, h, H, W)`` each."""
        batch, height = len(x), x.shape[2]
        left, right = self.from_input(x).chunk(2, 1)
        gates = skew(torch.stack([left, right.flip(3)]), CLOSED)
        # Time first, and each step's matrix contiguous, a row of the image below the other:
        # (T, 2, H * B, 4h). The pixel above is B lines further up.
        steps = gates.permute(4, 0, 3, 1, 2).flatten(2, 3).contiguous()
        h = c = x.new_zeros(2, height * batch, self.from_state.shape[1] // 2)
        states = []
        for gates in steps:
            above = F.pad(h, (0, 0, batch, -batch))
            gates = torch.baddbmm(gates, torch.cat([h, above], 2), self.from_state)
            h, c = cell(gates, c)
            states.append(h)
        maps = torch.stack(states).unflatten(2, (height, batch)).permute(1, 3, 4, 2, 0)
        left, right = unskew(maps)
        return left, right.flip(3)

    def step(self, n: int, width: int) -> PixelStep:
        """The same, pixel by pixel."""
        return _DiagonalStep(self, n, width)


class _DiagonalStep(PixelStep):
    """From the left pixel by pixel; from the right along each row that is finished."""

    def __init__(self, layer: DiagonalBiLSTM, n: int, width: int) -> None:
        super().__init__()
        self.from_input = layer.from_input.step(n, width)
        self.weight = layer.from_state.detach()
        features = self.weight.shape[1] // 2
        self.zero = self.weight.new_zeros(n, features)
        # State and cell of the row above and of this one, from the left; from the right, above.
        self.above, self.row, self.right = ([(self.zero, self.zero)] * width for _ in range(3))
        self.gates = list[Tensor]()

    def next_row(self) -> None:
        width = len(self.row)
        self.above, self.row = self.row, [(self.zero, self.zero)] * width
        if self.gates:
            beside = (self.zero, self.zero)
            for j in reversed(range(width)):
                beside = self.right[j] = self._cell(1, self.gates[j], beside, self.right[j])
        self.gates = [self.zero] * width

    def at(self, column: int) -> None:
        super().at(column)
        self.from_input.at(column)

    def _cell(
        self,
        direction: int,
        gates: Tensor,
        beside: tuple[Tensor, Tensor],
        above: tuple[Tensor, Tensor],
    ) -> tuple[Tensor, Tensor]:
        states = torch.cat([beside[0], above[0]], 1)
        return cell(torch.addmm(gates, states, self.weight[direction]), beside[1])

    def forward(self, features: Tensor) -> Tensor:
        j = self.column
        left, self.gates[j] = self.from_input(features).chunk(2, 1)
        beside = self.row[j - 1] if j else (self.zero, self.zero)
        self.row[j] = self._cell(0, left, beside, self.above[j])
        return self.row[j][0] + self.right[j][0]


# Section 3.3 and table 1: the model


class ResidualLSTM(nn.Module):
    """``x + up(lstm(x))``, ``up`` from ``h`` to ``2h`` features (figure 5, right)."""

    def __init__(self, lstm: nn.Module, h: int, count: int) -> None:
        super().__init__()
        self.lstm, self.up = lstm, MaskedConv2d(colours(h, count), colours(2 * h, count), (1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, 2h, H, W)`` -> the same shape."""
        return x + self.up(self.lstm(x))


class PixelRNN(PixelNetwork):
    """PixelRNN: the layers are recurrent.

    Args:
        data_shape: ``(C, H, W)``.
        lstm: makes a layer of ``(h, C)``: ``DiagonalBiLSTM`` or ``RowLSTM``.
        levels: see ``PixelNetwork``.
        h: see ``PixelNetwork``.
        layers: the paper has 12 for CIFAR-10, 7 for MNIST.
        head: see ``PixelNetwork``.
        kernel: see ``PixelNetwork``.
        level_features: see ``PixelModel``.
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        *,
        lstm: Callable[[int, int], nn.Module] = DiagonalBiLSTM,
        levels: int = 256,
        h: int = 128,
        layers: int = 12,
        head: int = 1024,
        kernel: int = 7,
        level_features: int = 0,
    ) -> None:
        count, _, _ = check_image("data_shape", data_shape)
        check_counts(h=h)
        check_count("layers", layers)
        blocks = [ResidualLSTM(lstm(h, count), h, count) for _ in range(layers)]
        super().__init__(
            data_shape,
            blocks,
            levels=levels,
            h=h,
            head=head,
            kernel=kernel,
            level_features=level_features,
        )
