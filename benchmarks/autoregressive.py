"""Autoregressive models: cached against naive sampling of the same model, and a step of training
against a plain stack of ``torch.nn`` with the same weights, whose masks are multiplied in.

Each pair must give the same draws, or the same loss to 1e-5, or the run stops.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam

from benchmarks import Result, in_turn
from gdm_lib.autoregression import Autoregressive, Place, Rule
from gdm_lib.autoregressive.gated_pixelcnn import GatedPixelCNN, VerticalConv2d
from gdm_lib.autoregressive.pixelcnn import MaskedConv2d, PixelCNN
from gdm_lib.autoregressive.pixelcnn_pp import PixelCNNpp, ShiftedConv2d
from gdm_lib.autoregressive.pixelrnn import DiagonalBiLSTM, cell
from gdm_lib.autoregressive.wavenet import WaveNet, dilations

__all__ = ["BENCHMARKS"]


# Sampling


class _Enough(Exception):
    """Raised by a rule that has seen as many places as were asked for."""


def _drawing(model: Autoregressive, seed: int, places: int | None = None) -> tuple[Rule, list]:
    """A rule that draws, the draws it made, and an end after so many places."""
    generator, drawn = torch.Generator().manual_seed(seed), list[Tensor]()

    def rule(params: Tensor, _: Place) -> Tensor:
        if len(drawn) == places:
            raise _Enough
        drawn.append(model.likelihood.sample(params, generator=generator))
        return drawn[-1]

    return rule, drawn


def _sampling(
    name: str, model: Autoregressive, n: int, total: int, some: int, target: float
) -> Result:
    """All places cached, against naive sampling, of which the first ``some`` are timed and scaled:
    there each place costs one pass of the same size."""
    model.eval()
    kept: dict[str, list] = {}

    def cached() -> None:
        rule, kept["cached"] = _drawing(model, 0)
        model.generate(rule, n)

    def naive() -> None:
        rule, kept["naive"] = _drawing(model, 0, some)
        try:
            model.generate_naive(rule, n)
        except _Enough:
            return

    ours, theirs = in_turn(cached, naive, repeats=3)
    if len(kept["cached"]) != total:
        raise AssertionError(f"{name}: {len(kept['cached'])} places, expected {total}")
    if not all(map(torch.equal, kept["naive"], kept["cached"])):
        raise AssertionError(f"{name}: cached and naive sampling draw differently")
    return Result(name, ours, f"naive, n = {n}", "", theirs * total / (some + 1), target)


def gated_pixelcnn_sampling() -> list[Result]:
    """28x28 pixels, 10 layers of 128 features (the default); 1 and 16 images at a time."""
    torch.manual_seed(0)
    model = GatedPixelCNN((1, 28, 28), levels=4, layers=9)
    name = "gated_pixelcnn_sampling"
    return [_sampling(name, model, n, 784, some, 100) for n, some in ((1, 56), (16, 14))]


def pixelcnn_pp_sampling() -> list[Result]:
    """32x32 pixels in three colours, 64 features, three resolutions of two layers; 1 and 8 images
    at a time."""
    torch.manual_seed(0)
    model = PixelCNNpp((3, 32, 32), features=64, blocks=2)
    name = "pixelcnn_pp_sampling"
    return [_sampling(name, model, n, 1024, some, 40) for n, some in ((1, 32), (8, 8))]


def wavenet_generation() -> list[Result]:
    """A receptive field of 1,024 samples; the naive sampler runs the network over no more than
    that. Also: a sample at the end of a long sound against one at its beginning."""
    torch.manual_seed(0)
    model = WaveNet((2048,), residual=32, skip=64, dilations=dilations(1, 10)).eval()
    field, some = model.receptive_field, 16
    start = model.sample(1, generator=torch.Generator().manual_seed(0))
    drawn: dict[str, Tensor] = {}

    def queues(length: int) -> Callable[[], None]:
        def run() -> None:
            rule, _ = _drawing(model, 1)
            drawn["all"] = model.generate(rule, 1, length=length)

        return run

    def naive() -> None:
        x = start[:, :field]
        with torch.no_grad():
            for _ in range(some):
                logits = model(F.pad(x[:, -field:], (0, 1)))[:, :, -1]
                x = torch.cat([x, model.likelihood.sample(logits)[:, None]], 1)

    ours, theirs = in_turn(queues(2048), naive, repeats=3)
    _check_window(model, start)
    short, long = in_turn(queues(1000), queues(8000), repeats=3)
    name = "wavenet_generation"
    return [
        Result(name, ours / 2048, "naive, n = 1", "", theirs / some, 40),
        Result(f"{name} flat", long / 8, "the first 1,000 samples", "", short, 0.9),
    ]


def _check_window(model: WaveNet, x: Tensor) -> None:
    """The naive sampler of the benchmark sees all that the model does."""
    field = model.receptive_field
    with torch.no_grad():
        whole, window = model(x), model(x[:, -field - 1 :])
    if not torch.allclose(whole[:, :, -1], window[:, :, -1], atol=1e-5):
        raise AssertionError("the window is shorter than what the model sees")


# Training


class _Masked(nn.Conv2d):
    """A whole kernel times a mask, as most implementations have it."""

    def __init__(self, ours: nn.Conv2d, whole: Tensor, mask: Tensor) -> None:
        height, width = whole.shape[2:]
        padding = height // 2, width // 2
        super().__init__(ours.in_channels, ours.out_channels, (height, width), padding=padding)
        self.weight.data, self.bias.data = whole, ours.bias.detach().clone()
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.mask, self.bias, padding=self.padding)


class _PlainWaveNet(nn.Module):
    """The same network as it is usually written: dilated convolutions that torch pads on both
    sides, cut off at the end, and a skip convolution in each layer."""

    def __init__(self, ours: WaveNet) -> None:
        super().__init__()
        self.input, self.head, self.likelihood = ours.input, ours.head, ours.likelihood
        features = ours.input.embedding_dim
        self.convs, self.skips = nn.ModuleList(), nn.ModuleList()
        self.residuals = nn.ModuleList(block.residual for block in ours.blocks[:-1])
        weights = ours.skip.weight.detach().split(features, 1)
        for i, (block, weight) in enumerate(zip(ours.blocks, weights, strict=True)):
            step = block.conv.dilation[0]
            conv = nn.Conv1d(features, 2 * features, 2, padding=step, dilation=step)
            conv.load_state_dict(block.conv.state_dict())
            skip = nn.Conv1d(features, len(weight), 1, bias=i == 0)
            skip.weight.data = weight.clone()
            if i == 0:
                skip.bias.data = ours.skip.bias.detach().clone()
            self.convs.append(conv)
            self.skips.append(skip)

    def loss(self, x: Tensor) -> dict[str, Tensor]:
        h = F.pad(self.input(x).transpose(1, 2), (1, -1))
        total = 0.0
        for i, (conv, skip) in enumerate(zip(self.convs, self.skips, strict=True)):
            a, b = conv(h)[..., : h.shape[-1]].chunk(2, 1)
            z = torch.tanh(a) * torch.sigmoid(b)
            total = total + skip(z)
            if i < len(self.residuals):
                h = h + self.residuals[i](z)
        return {"loss": -self.likelihood.log_prob(self.head(total), x).mean()}


def _plain(module: nn.Module) -> nn.Module:
    """The same module for ``torch.nn`` and masks."""
    if isinstance(module, MaskedConv2d):
        side = 2 * module.left + 1
        shape = *module.weight.shape[:2], 2 * module.above + 1, side
        whole, mask = torch.zeros(shape), torch.zeros(shape)
        rows, columns = module.weight.shape[2:]
        whole[:, :, :rows, :columns] = module.weight.detach()
        mask[:, :, :rows, :columns] = module.mask
        return _Masked(module, whole, mask)
    if isinstance(module, VerticalConv2d):
        side = 2 * module.side + 1
        whole = torch.zeros(*module.weight.shape[:2], side, side)
        whole[:, :, : module.weight.shape[2]] = module.weight.detach()
        mask = torch.zeros_like(whole)
        mask[:, :, : module.weight.shape[2]] = 1
        return _Masked(module, whole, mask)
    for name, child in module.named_children():
        setattr(module, name, _plain(child))
    return module


def _train(model: nn.Module, x: Tensor) -> Callable[[], None]:
    optimizer = Adam(model.parameters(), lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        model.loss(x)["loss"].backward()
        optimizer.step()

    return step


def _step(name: str, model: Any, x: Tensor, peer: nn.Module | None = None) -> list[Result]:
    plain = _plain(deepcopy(model)) if peer is None else peer
    with torch.no_grad():
        ours, theirs = model.loss(x)["loss"], plain.loss(x)["loss"]
    if not torch.allclose(ours, theirs, rtol=1e-5):
        raise AssertionError(f"{name}: losses {float(ours):.6f} and {float(theirs):.6f} differ")
    ours_s, theirs_s = in_turn(_train(model, x), _train(plain, x), repeats=15)
    return [Result(name, ours_s, "plain torch.nn", torch.__version__, theirs_s, 1.0)]


def pixelcnn_step() -> list[Result]:
    """28x28 pixels, 7 blocks of 64 features, 16 images."""
    torch.manual_seed(0)
    model = PixelCNN((1, 28, 28), levels=4, h=32, layers=7, head=64)
    return _step("pixelcnn_step", model, torch.randint(4, (16, 1, 28, 28)))


def gated_pixelcnn_step() -> list[Result]:
    """28x28 pixels, 10 layers of 32 features, 16 images."""
    torch.manual_seed(0)
    model = GatedPixelCNN((1, 28, 28), levels=4, p=32, layers=9)
    return _step("gated_pixelcnn_step", model, torch.randint(4, (16, 1, 28, 28)))


def wavenet_step() -> list[Result]:
    """Two cycles of ten layers of 32 features, 4 sounds of 4,096 samples."""
    torch.manual_seed(0)
    model = WaveNet((4096,), residual=32, skip=64, dilations=dilations(2, 10))
    return _step("wavenet_step", model, torch.randint(256, (4, 4096)), _PlainWaveNet(model))


def pixelcnn_pp_step() -> list[Result]:
    """16x16 pixels in three colours, three resolutions of one layer of 32 features, 16 images;
    the peer has 3x3 kernels times a mask for the shifted ones."""
    torch.manual_seed(0)
    model = PixelCNNpp((3, 16, 16), features=32, blocks=1, dropout=0.0)
    return _step(
        "pixelcnn_pp_step", model, torch.randint(256, (16, 3, 16, 16)), _unshifted(deepcopy(model))
    )


def _unshifted(module: nn.Module) -> nn.Module:
    """The same module with kernels that are symmetric about the pixel, and masks."""
    if isinstance(module, ShiftedConv2d) and module.kernel_size != (1, 1):
        return _Symmetric(module)
    for name, child in module.named_children():
        if name != "parametrizations":
            setattr(module, name, _unshifted(child))
    return module


class _Symmetric(nn.Conv2d):
    """The weights of a shifted convolution in a symmetric kernel, weight normalisation included."""

    def __init__(self, ours: ShiftedConv2d) -> None:
        above, left = ours.before
        reach = max(above, ours.end[0], -ours.end[0]), max(left, ours.end[1])
        size = 2 * reach[0] + 1, 2 * reach[1] + 1
        super().__init__(ours.in_channels, ours.out_channels, size, ours.stride, reach)
        self.bias.data = ours.bias.detach().clone()
        rows, columns = ours.kernel_size
        top, start = reach[0] - above, reach[1] - left
        where = (..., slice(top, top + rows), slice(start, start + columns))
        mask = torch.zeros_like(self.weight)
        mask[where] = 1
        self.weight.data.zero_()
        self.weight.data[where] = ours.parametrizations.weight.original1.detach()
        self.length = nn.Parameter(ours.parametrizations.weight.original0.detach().clone())
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        direction = self.weight * self.mask
        weight = torch._weight_norm(direction, self.length, 0)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


# Diagonal BiLSTM


class _RowByRow(nn.Module):
    """The same layer, row by row and within a row pixel by pixel."""

    def __init__(self, ours: DiagonalBiLSTM) -> None:
        super().__init__()
        self.from_input, self.from_state = ours.from_input, ours.from_state

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.from_input(x).chunk(2, 1)
        right = self.scan(right.flip(3), self.from_state[1]).flip(3)
        return self.scan(left, self.from_state[0]) + F.pad(right, (0, 0, 1, -1))

    def scan(self, gates: Tensor, weight: Tensor) -> Tensor:
        zero = gates.new_zeros(len(gates), weight.shape[0] // 2)
        above = [zero] * gates.shape[3]
        rows = []
        for row in gates.unbind(2):
            h, c = zero, zero
            states = []
            for j, gate in enumerate(row.unbind(2)):
                h, c = cell(torch.addmm(gate, torch.cat([h, above[j]], 1), weight), c)
                states.append(h)
            above = states
            rows.append(torch.stack(states, 2))
        return torch.stack(rows, 2)


def diagonal_bilstm() -> list[Result]:
    """One layer of 32 features on 28x28 pixels, 16 images, forward and backward."""
    torch.manual_seed(0)
    ours = DiagonalBiLSTM(32, 1)
    theirs, x = _RowByRow(ours), torch.randn(16, 64, 28, 28, requires_grad=True)
    if not torch.allclose(ours(x), theirs(x), atol=1e-5):
        raise AssertionError("the two scans differ")
    ours_s, theirs_s = in_turn(
        lambda: ours(x).sum().backward(), lambda: theirs(x).sum().backward(), repeats=5
    )
    return [Result("diagonal_bilstm", ours_s, "row by row", torch.__version__, theirs_s, 1.0)]


BENCHMARKS = {
    "gated_pixelcnn_sampling": gated_pixelcnn_sampling,
    "pixelcnn_pp_sampling": pixelcnn_pp_sampling,
    "wavenet_generation": wavenet_generation,
    "pixelcnn_step": pixelcnn_step,
    "gated_pixelcnn_step": gated_pixelcnn_step,
    "wavenet_step": wavenet_step,
    "pixelcnn_pp_step": pixelcnn_pp_step,
    "diagonal_bilstm": diagonal_bilstm,
}
