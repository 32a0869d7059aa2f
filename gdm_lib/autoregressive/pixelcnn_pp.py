"""PixelCNN++.

Tim Salimans, Andrej Karpathy, Xi Chen and Diederik P. Kingma, *PixelCNN++: Improving the PixelCNN
with Discretized Logistic Mixture Likelihood and Other Modifications*, 2017,
https://arxiv.org/abs/1701.05517. Equation numbers below are the paper's.

A softmax does not know that level 128 lies beside 127. Here a pixel's intensity is continuous, a
mixture of logistics, and rounded to the nearest level (equations 1 and 2)::

    P(x | pi, mu, s) = sum_k pi_k [sigmoid((x + 0.5 - mu_k) / s_k)
                                   - sigmoid((x - 0.5 - mu_k) / s_k)]

That is ``gdm_lib.likelihoods.DiscretizedLogisticMixture`` (sections 2.1 and 2.2); here is the
network. A whole pixel is drawn at once, so no kernel needs masks for colours, and shifted images do
instead of masks for pixels. Layers work at three resolutions, with short-cuts between equal ones.

Symbols: ``C`` colours, ``F`` features, ``u`` the stream that sees the rows above, ``ul`` that which
also sees the row to the left, ``P`` parameters of a pixel's conditional, ``H`` and ``W`` height and
width, ``B`` the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from itertools import product
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from gdm_lib._inputs import check_counts
from gdm_lib.autoregression import (
    Autoregressive,
    PixelConv,
    PixelGrow,
    Place,
    RowConv,
    RowGrow,
    Rule,
)
from gdm_lib.likelihoods import DiscretizedLogisticMixture
from gdm_lib.nn import check_image, check_sizes, evaluates, evaluating, exact
from gdm_lib.protocols import Likelihood

__all__ = [
    "GatedResNet",
    "PixelCNNpp",
    "ShiftedConv2d",
    "ShiftedConvTranspose2d",
    "Stream",
    "concat_elu",
]

ARXIV = "1701.05517"


# Section 2 and the authors' code: shifted convolutions, with normalised weights


def concat_elu(x: Tensor) -> Tensor:
    """ELU of ``x`` and of ``-x``, side by side: ``(B, F, ...)`` -> ``(B, 2F, ...)``."""
    return F.elu(torch.cat([x, -x], 1))


def _normalise(conv: nn.Conv2d | nn.ConvTranspose2d, dim: int, gain: float) -> None:
    """Weight normalisation (1602.07868), with the direction drawn as the authors do."""
    nn.init.normal_(conv.weight, std=0.05)
    nn.init.zeros_(cast(Tensor, conv.bias))
    weight_norm(conv, dim=dim)
    nn.init.constant_(_length(conv), gain)


def _length(conv: nn.Module) -> Tensor:
    """``g`` in w = g v / ||v||, of a shape that broadcasts to that of ``w``."""
    return cast(Tensor, cast(Any, conv).parametrizations.weight.original0)


def _for_pickle(conv: nn.Module, kind: type[nn.Module], sizes: tuple[Any, ...]) -> Any:
    """``weight_norm`` gives a layer a class and a hook that ``pickle`` can't find by their names:
    both are made again."""
    state = {k: v for k, v in conv.__dict__.items() if k != "_load_state_dict_pre_hooks"}
    return _made_again, (kind, sizes), state


def _made_again(kind: type[nn.Module], sizes: tuple[Any, ...]) -> nn.Module:
    with torch.device("meta"):  # its weights come with its state
        return kind(*sizes)


class ShiftedConv2d(nn.Conv2d):
    """A convolution whose kernel ends at ``end``, counted from the pixel itself, down and right.

    What it may see is a matter of where the kernel lies, so no mask is needed. Its weights are
    normalised.

    Args:
        inputs: features in.
        outputs: features out.
        kernel: height and width.
        end: row and column of the kernel's last entry: ``(0, 1)`` with a kernel 2 x 3 sees the
            row above and its own, from one to the left to one to the right; ``(-1, 1)`` the two
            rows above. No more lies after the pixel than before it.
        stride: of rows and columns.
        gain: standard deviation of the outputs after ``PixelCNNpp.initialise``.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: tuple[int, int] = (1, 1),
        end: tuple[int, int] = (0, 0),
        *,
        stride: int = 1,
        gain: float = 1.0,
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride)
        self.end, self.gain = end, gain
        self.sizes = (inputs, outputs, kernel)
        self.before = (kernel[0] - 1 - end[0], kernel[1] - 1 - end[1])
        _normalise(self, 0, gain)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _for_pickle(self, ShiftedConv2d, self.sizes)

    def forward(self, input: Tensor) -> Tensor:
        """``(B, in, H, W)`` -> ``(B, out, H / stride, W / stride)``, sizes rounded up."""
        # Padding on all sides and cropping is faster than a padded copy; the strides round up.
        out = F.conv2d(input, self.weight, self.bias, self.stride, self.before)
        height, width = (-(-s // self.stride[0]) for s in input.shape[2:])
        return out[:, :, :height, :width]

    def by_row(self, n: int, width: int) -> RowConv:
        """The same, row by row."""
        return RowConv(self, self.end[1], n, width)

    def by_pixel(self, n: int, width: int) -> PixelConv:
        """The same, pixel by pixel, where it sees nothing to the right."""
        return PixelConv(self, n, width)


class ShiftedConvTranspose2d(nn.ConvTranspose2d):
    """The transposed convolution that brings ``ShiftedConv2d`` back to the finer resolution.

    Args:
        inputs: features in.
        outputs: features out.
        kernel: height and width, no smaller than the stride.
        end: see ``ShiftedConv2d``; a row of 0.
        stride: of rows and columns.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: tuple[int, int], end: tuple[int, int], stride: int
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride)
        self.end, self.gain = end, 1.0
        self.sizes = (inputs, outputs, kernel, end, stride)
        _normalise(self, 1, self.gain)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _for_pickle(self, ShiftedConvTranspose2d, self.sizes)

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """``(B, in, h, w)`` -> ``(B, out, *output_size)``, by default ``(h stride, w stride)``."""
        spread = F.conv_transpose2d(input, self.weight, self.bias, self.stride)
        default = [int(s) * step for s, step in zip(input.shape[2:], self.stride, strict=True)]
        height, width = default if output_size is None else output_size
        return spread[:, :, :height, self.end[1] : self.end[1] + width]

    def by_row(self, n: int, width: int) -> RowGrow:
        """The same, row by row."""
        return RowGrow(self, self.end[1], n, width)

    def by_pixel(self, n: int, width: int) -> PixelGrow:
        """The same, pixel by pixel, where it sees nothing to the right."""
        return PixelGrow(self, n, width)


Shifted = ShiftedConv2d | ShiftedConvTranspose2d


# Section 2.3 (figure 2) and the authors' code: the two streams through several resolutions


class _Dropout(nn.Dropout):
    """The same with uniform numbers, which a CPU draws several times as fast as bits."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or not 0 < self.p < 1:
            return super().forward(input)
        kept = torch.rand_like(input, dtype=exact(input).dtype) >= self.p
        return input * (kept / (1 - self.p)).to(input.dtype)


class GatedResNet(nn.Module):
    """A residual layer of two convolutions and a gate.

    Args:
        features: ``F``.
        kernel: see ``ShiftedConv2d``.
        end: see ``ShiftedConv2d``.
        beside: features of what else it is given: the other stream, or the short-cut, or both.
        dropout: rate between the convolutions (section 2.5).
        context_dim: features of the context; 0 for none.
    """

    def __init__(
        self,
        features: int,
        kernel: tuple[int, int],
        end: tuple[int, int],
        *,
        beside: int = 0,
        dropout: float = 0.5,
        context_dim: int = 0,
    ) -> None:
        super().__init__()
        self.first = ShiftedConv2d(2 * features, features, kernel, end)
        if beside:
            self.from_beside = ShiftedConv2d(2 * beside, features)
        self.dropout = _Dropout(dropout)
        self.second = ShiftedConv2d(2 * features, 2 * features, kernel, end, gain=0.1)
        if context_dim:
            self.from_context = nn.Linear(context_dim, 2 * features, bias=False)
            nn.init.normal_(self.from_context.weight, std=0.05)

    def forward(self, x: Tensor, beside: Sequence[Tensor], context: Tensor | None) -> Tensor:
        """``(B, F, H, W)``, what is beside it of the same size, ``(B, context_dim)`` ->
        ``(B, F, H, W)``."""
        h = self.first(concat_elu(x))
        if beside:
            h = h + self.from_beside(concat_elu(torch.cat([*beside], 1)))
        h = self.second(self.dropout(concat_elu(h)))
        if context is not None:
            shift = self.from_context(context)
            h = h + shift.reshape(shift.shape + (1,) * (h.ndim - 2))
        a, b = h.chunk(2, 1)
        return x + a * torch.sigmoid(b)


class Stream(nn.Module):
    """One stream at one resolution, and in its middle the same stream at the next coarser one.

    A layer on the way down hands its output to the layer on the way up that mirrors it (section
    2.4).

    Args:
        features: ``F``.
        kernel: see ``ShiftedConv2d``.
        end: see ``ShiftedConv2d``.
        layer: makes one that is given so many other streams.
        blocks: layers on the way down; as many on the way up, and one more for the stream's input,
            which is mirrored as well, unless this resolution is the coarsest.
        strides: from each resolution to the next.
        beside: streams that each layer is given; 1 for ``ul``, which is given ``u``.
        shortcuts: whether the layers that mirror each other are joined.
    """

    def __init__(
        self,
        features: int,
        kernel: tuple[int, int],
        end: tuple[int, int],
        layer: Callable[[int], GatedResNet],
        *,
        blocks: int,
        strides: Sequence[int],
        beside: int,
        shortcuts: bool = True,
    ) -> None:
        super().__init__()
        self.shortcuts = shortcuts
        self.down = nn.ModuleList(layer(beside) for _ in range(blocks))
        mirroring = range(blocks + bool(strides))
        self.up = nn.ModuleList(layer(beside + shortcuts) for _ in mirroring)
        if strides:
            step, *further = strides
            self.shrink = ShiftedConv2d(features, features, kernel, end, stride=step)
            self.inner = Stream(
                features,
                kernel,
                end,
                layer,
                blocks=blocks,
                strides=further,
                beside=beside,
                shortcuts=shortcuts,
            )
            self.grow = ShiftedConvTranspose2d(features, features, kernel, end, step)

    def forward(
        self, x: Tensor, beside: Sequence[Sequence[Tensor]], context: Tensor | None
    ) -> list[list[Tensor]]:
        """All layers' outputs, by resolution; the last of the first is the stream's.

        Args:
            x: ``(B, F, H, W)``.
            beside: the same of the other stream; empty if there is none.
            context: ``(B, context_dim)``.
        """
        others = beside[0] if beside else []
        kept = [x]
        for k, layer in enumerate(self.down):
            kept.append(layer(kept[-1], others[k : k + 1], context))
        found, coarser = kept[1:], list[list[Tensor]]()
        if hasattr(self, "inner"):
            # A step (see below) has no output for a pixel that the coarser grid does not have.
            small = self.shrink(kept[-1])
            if small is not None:
                coarser = self.inner(small, beside[1:], context)
            x = self.grow(coarser[0][-1] if coarser else None, x.shape[2:])
        else:
            x = kept.pop()
        for k, layer in enumerate(self.up, len(found)):
            mirrored = [kept.pop()] if self.shortcuts else []
            x = layer(x, [*others[k : k + 1], *mirrored], context)
            found.append(x)
        return [found, *coarser]


class PixelCNNpp(Autoregressive):
    """PixelCNN++, whose places are whole pixels ``(i, j)``.

    ``PixelCNNpp(..., context_dim=F, embed=ClassEmbedding(10, F))`` is conditioned on a class.
    Call ``initialise`` with a batch of data before training.

    Args:
        data_shape: ``(C, H, W)``.
        levels: 256 as in the paper, or fewer.
        components: of the mixture.
        features: ``F``.
        blocks: layers at each resolution on the way down; see ``Stream`` for the way up.
        strides: from each resolution to the next coarser one, 1 or 2. ``(1, 1)`` has the same
            layers without downsampling, ``()`` one resolution alone.
        shortcuts: whether the layers down and up that mirror each other are joined (section 2.4).
        dropout: rate in each layer (section 2.5).
        likelihood: of a whole pixel, the mixture if left out.
        context_dim: features of the context, see ``Autoregressive``; it must be ``(B,
            context_dim)``.
        embed: makes the context of ``y``, see ``Autoregressive``.
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        *,
        levels: int = 256,
        components: int = 10,
        features: int = 160,
        blocks: int = 5,
        strides: Sequence[int] = (2, 2),
        shortcuts: bool = True,
        dropout: float = 0.5,
        likelihood: Likelihood | None = None,
        context_dim: int = 0,
        embed: nn.Module | None = None,
    ) -> None:
        count, _, _ = check_image("data_shape", data_shape)
        check_counts(components=components, features=features, blocks=blocks)
        if not set(strides := check_sizes("strides", strides)) <= {1, 2}:
            raise ValueError(
                f"strides must each be 1 or 2, which the kernels of 2 rows cover, got {strides}"
            )
        if not (isinstance(dropout, int | float) and 0 <= dropout <= 1):
            raise ValueError(f"dropout must be a number in [0, 1], got {dropout!r}")
        if likelihood is None:
            likelihood = DiscretizedLogisticMixture(levels, components, count)
        super().__init__(data_shape, likelihood, levels, context_dim=context_dim, embed=embed)

        def stream(kernel: tuple[int, int], end: tuple[int, int], beside: int) -> Stream:
            def layer(others: int) -> GatedResNet:
                return GatedResNet(
                    features,
                    kernel,
                    end,
                    beside=others * features,
                    dropout=dropout,
                    context_dim=context_dim,
                )

            return Stream(
                features,
                kernel,
                end,
                layer,
                blocks=blocks,
                strides=strides,
                beside=beside,
                shortcuts=shortcuts,
            )

        self.first_u = ShiftedConv2d(count + 1, features, (2, 3), (-1, 1))
        self.first_above = ShiftedConv2d(count + 1, features, (1, 3), (-1, 1))
        self.first_left = ShiftedConv2d(count + 1, features, (2, 1), (0, -1))
        self.u = stream((2, 3), (0, 1), 0)
        self.ul = stream((2, 2), (0, 0), 1)
        self.head = ShiftedConv2d(features, likelihood.params_shape(self.data_shape)[0])

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Parameters of every pixel: levels ``(B, C, H, W)`` -> ``(B, P, H, W)``."""
        self.check(x)
        return self.features(self.scaled(x), self.context(y, len(x)))

    def features(self, image: Tensor, context: Tensor | None = None) -> Tensor:
        """The network: an image in [-1, 1], ``(B, C, H, W)``, to parameters ``(B, P, H, W)``.

        ``context`` is as the method ``context`` returns it.
        """
        marked = _marked(image)
        u = self.u(self.first_u(marked), (), context)
        ul = self.ul(self.first_above(marked) + self.first_left(marked), u, context)
        return cast(Tensor, self.head(F.elu(ul[0][-1])))

    def context(self, y: Tensor | None, n: int) -> Tensor | None:
        """See ``Autoregressive``; one vector for each item.

        Raises:
            ValueError: as there, or the context has further dimensions.
        """
        context = super().context(y, n)
        if context is not None and context.ndim != 2:
            raise ValueError(
                f"y must give a context of shape (B, {self.context_dim}), got "
                f"{tuple(context.shape)}; PixelCNN++ has no context for each place"
            )
        return context

    @torch.no_grad()
    def initialise(self, x: Tensor, y: Tensor | None = None, *, again: bool = False) -> None:
        """Data-dependent initialisation (1602.07868, section 3): scale and shift each convolution
        so that over this batch its outputs have mean 0 and standard deviation ``gain``.

        One pass does it, without dropout. A feature that is constant over the batch keeps its
        scale.

        Args:
            x: levels ``(B, C, H, W)``, some hundred items of the data.
            y: as in ``log_prob``.
            again: whether a model that is initialised or trained may be initialised anew, which
                undoes what it has learned.

        Raises:
            ValueError: ``x`` or ``y`` does not fit, there is no item, or the model isn't fresh.
        """
        self.check(x)
        self.context(y, len(x))
        if not len(x):
            raise ValueError("x must have at least one item, got none: it sets the scales")
        if not again and any(bool(cast(Tensor, conv.bias).any()) for conv in self._convolutions()):
            raise ValueError(
                "again must be True to initialise a model that was initialised or trained, got "
                "False; initialise a new model, or give again=True to lose what this one learned"
            )

        def normalise(conv: nn.Module, _: object, out: Tensor) -> Tensor:
            std, mean = torch.std_mean(out, (0, 2, 3), correction=0)
            factor = torch.where(std > 1e-5, cast(Any, conv).gain / std, 1.0)
            _length(conv).mul_(factor.reshape(_length(conv).shape))
            bias = cast(Tensor, conv.bias)
            bias.copy_((bias - mean) * factor)
            return (out - mean[:, None, None]) * factor[:, None, None]

        hooks = [conv.register_forward_hook(normalise) for conv in self._convolutions()]
        try:
            with evaluating(self):
                self(x, y)
        finally:
            for hook in hooks:
                hook.remove()

    def _convolutions(self) -> list[Shifted]:
        return [module for module in self.modules() if isinstance(module, Shifted)]

    def places(self, shape: Sequence[int]) -> Iterator[Place]:
        """Row by row, pixel by pixel: ``(i, j)``."""
        return product(range(shape[1]), range(shape[2]))

    @torch.no_grad()
    @evaluates
    def generate(self, rule: Rule, n: int, y: Tensor | None = None) -> Tensor:
        """See ``Autoregressive``. The stream ``u``, which knows only the rows above, is computed
        for a whole row as it begins, ``ul`` pixel by pixel; neither has dropout here."""
        x, context = self.blank(n), self.context(y, n)
        _, height, width = self.data_shape
        first_u, first_above = (c.by_row(n, width) for c in (self.first_u, self.first_above))
        first_left, head = (c.by_pixel(n, width) for c in (self.first_left, self.head))
        rows = _steps(self.u, n, width, context, lambda c, *at: c.by_row(*at))
        pixels = _steps(self.ul, n, width, context, lambda c, *at: c.by_pixel(*at))
        scaled = self.scaled(torch.arange(self.levels, device=x.device))
        # The first layers are given what lies one row above or one pixel to the left: padding.
        above = _marked(scaled[x[:, :, :1]]) * 0
        for i in range(height):
            u = [[_by_column(v) for v in layers] for layers in rows(first_u(above), (), context)]
            start = _by_column(first_above(above))
            left = above[:, :, 0, 0] * 0
            for j in range(width):
                # Of a coarse row the column above this one; it is used if it starts here.
                beside = [[v[j * len(v) // width] for v in layers] for layers in u]
                ul = pixels(start[j] + first_left(left), beside, context)
                x[:, :, i, j] = rule(head(F.elu(ul[0][-1])), (i, j))
                left = _marked(scaled[x[:, :, i, j]])
            above = _marked(scaled[x[:, :, i : i + 1]])
        return x


def _marked(x: Tensor) -> Tensor:
    """With a channel of ones, which tells the image from its padding."""
    return torch.cat([x, torch.ones_like(x[:, :1])], 1)


# Sampling: each layer keeps what it has computed, at its own resolution (1704.06001)


def _by_column(row: Tensor) -> tuple[Tensor, ...]:
    """``(n, F, 1, W)`` -> ``W`` times ``(n, F)``."""
    return row[:, :, 0].permute(2, 0, 1).contiguous().unbind(0)


class _Known(nn.Module):
    """Always the same."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = value

    def forward(self, _: Tensor) -> Tensor:
        return self.value


def _steps(
    module: nn.Module,
    n: int,
    width: int,
    context: Tensor | None,
    step: Callable[[Shifted, int, int], nn.Module],
) -> nn.Module:
    """The same module with its convolutions step by step, and without dropout."""
    if isinstance(module, Shifted):
        return step(module, n, width)
    if isinstance(module, nn.Dropout):
        return nn.Identity()
    if isinstance(module, nn.Linear):  # GatedResNet's, of the context
        return _Known(module(context))
    twin, narrower = copy(module), width
    if isinstance(module, Stream) and hasattr(module, "inner"):
        narrower = -(-width // module.shrink.stride[0])
    twin._modules = {
        name: _steps(child, n, narrower if name == "inner" else width, context, step)
        for name, child in module.named_children()
    }
    return twin
