"""What 1601.06759 claims of PixelCNN, asserted; what it shares with others is in
``test_every_model``."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gdm_lib.autoregressive import pixelcnn as paper
from gdm_lib.autoregressive.pixelcnn import (
    MaskedConv2d,
    PixelCNN,
    ResidualBlock,
    colours,
)
from gdm_lib.training import fit
from tests.helpers import seeded


def test_states_its_paper():
    assert paper.ARXIV == "1601.06759"


def test_features_are_shared_out_among_colours():
    assert colours(3, 3).tolist() == [0, 1, 2]
    assert colours(6, 3).tolist() == [0, 0, 1, 1, 2, 2]
    assert colours(12, 3, parts=2).tolist() == [0, 0, 1, 1, 2, 2] * 2
    assert colours(4, 1).tolist() == [0] * 4
    assert colours(7, 3).bincount().tolist() == [3, 2, 2]


def whole_mask(conv: MaskedConv2d, size: int) -> Tensor:
    """The mask as the paper draws it: of the whole kernel, zero from the centre on."""
    whole = torch.zeros(conv.out_channels, conv.in_channels, size, size)
    rows, columns = conv.mask.shape[2:]
    whole[:, :, :rows, :columns] = conv.mask
    return whole


def test_masks_are_those_of_figure_2():
    one = colours(1, 1)
    a, b = (MaskedConv2d(one, one, (3, 3), strict=strict) for strict in (True, False))
    assert whole_mask(a, 3)[0, 0].tolist() == [[1, 1, 1], [1, 0, 0], [0, 0, 0]]
    assert whole_mask(b, 3)[0, 0].tolist() == [[1, 1, 1], [1, 1, 0], [0, 0, 0]]
    rgb = colours(3, 3)
    a, b = (MaskedConv2d(rgb, rgb, (3, 3), strict=strict) for strict in (True, False))
    assert whole_mask(a, 3)[:, :, 1, 1].tolist() == [[0, 0, 0], [1, 0, 0], [1, 1, 0]]
    assert whole_mask(b, 3)[:, :, 1, 1].tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("kernel", [(3, 3), (5, 5), (1, 5), (1, 1)])
@pytest.mark.parametrize("count", [1, 3])
def test_a_cut_kernel_is_a_whole_one_times_its_mask(kernel, strict, count):
    torch.manual_seed(0)
    conv = MaskedConv2d(colours(6, count), colours(9, count), kernel, strict=strict).double()
    x = torch.randn(2, 6, 5, 7, dtype=torch.float64, generator=seeded())
    plain = nn.Conv2d(6, 9, kernel, padding=(kernel[0] // 2, kernel[1] // 2)).double()
    plain.weight.data.zero_()
    rows, columns = conv.weight.shape[2:]
    plain.weight.data[:, :, :rows, :columns] = conv.weight.data * conv.mask
    plain.bias.data = conv.bias.data
    torch.testing.assert_close(conv(x), plain(x), rtol=0, atol=1e-12)


def test_even_kernels_are_refused():
    with pytest.raises(ValueError, match=r"kernel must be two odd sizes, got \(2, 3\)"):
        MaskedConv2d(colours(1, 1), colours(1, 1), (2, 3))


def test_the_mask_is_no_weight_and_follows_the_module():
    conv = MaskedConv2d(colours(3, 3), colours(3, 3), (3, 3))
    assert set(conv.state_dict()) == {"weight", "bias"}
    assert conv.double()(torch.zeros(1, 3, 2, 2, dtype=torch.float64)).dtype == torch.float64


def test_a_residual_block_is_figure_5():
    torch.manual_seed(0)
    block = ResidualBlock(4, 1)
    x = torch.randn(2, 8, 3, 3, generator=seeded())
    h = F.conv2d(F.relu(x), block.down.weight, block.down.bias)
    h = block.conv(F.relu(h))
    expected = x + F.conv2d(F.relu(h), block.up.weight, block.up.bias)
    torch.testing.assert_close(block(x), expected)


def blind(above: int, right: int, layers: int) -> bool:
    """Whether stacked 3x3 masks miss the pixel that lies ``above`` rows up and ``right`` columns to
    the right: each layer goes up by at most one, and to the right only while it goes up."""
    return right > above or above > layers or right > layers


@pytest.mark.parametrize("layers", [1, 3])
def test_the_blind_spot_is_a_wedge(layers):
    model = PixelCNN((1, 9, 9), levels=2, h=8, layers=layers, head=8, kernel=3).double().eval()
    for p in model.parameters():
        nn.init.normal_(p, std=0.5)
    image = torch.rand(8, 1, 9, 9, dtype=torch.float64, generator=seeded()).requires_grad_()
    row, column = 7, 2
    (slope,) = torch.autograd.grad(model.features(image)[..., row, column].sum(), image)
    seen = slope.abs().sum((0, 1)) > 0
    for above in range(1, 8):
        for right in range(0, 7):
            expected = not blind(above, right, layers + 1)
            assert bool(seen[row - above, column + right]) == expected, (above, right)


def test_equal_seeds_draw_equal_samples():
    model = PixelCNN((1, 4, 4), levels=4, h=4, layers=1, head=4)
    a, b, c = (model.sample(3, generator=seeded(s)) for s in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_learns_a_known_distribution():
    """Images of 3x3 whose pixels are the parity of their neighbours above and to the left, but for
    an error in 10 of 100; the first row and column are coins."""

    def draw(n: int, generator: torch.Generator) -> Tensor:
        x = torch.randint(2, (n, 1, 3, 3), generator=generator)
        error = (torch.rand(n, 1, 3, 3, generator=generator) < 0.1).long()
        for i in (1, 2):
            for j in (1, 2):
                x[..., i, j] = x[..., i - 1, j] ^ x[..., i, j - 1] ^ error[..., i, j]
        return x

    coin = -(0.1 * math.log(0.1) + 0.9 * math.log(0.9))
    entropy = 5 * math.log(2) + 4 * coin
    torch.manual_seed(0)
    model = PixelCNN((1, 3, 3), levels=2, h=16, layers=2, head=16, kernel=3)
    fit(model, draw(4000, seeded(1)), steps=300, batch_size=200, progress=False,
        optimizer=lambda p: torch.optim.Adam(p, 1e-2))  # fmt: skip
    held_out = draw(4000, seeded(2))
    with torch.no_grad():
        nats = -model.log_prob(held_out)
    error = nats.std() / math.sqrt(len(nats))
    assert abs(nats.mean() - entropy) < 0.05 + 2 * error
