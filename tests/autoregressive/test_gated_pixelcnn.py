"""What 1606.05328 claims, asserted; what Gated PixelCNN shares with others is in
``test_every_model``."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gdm_lib.autoregressive import gated_pixelcnn as paper
from gdm_lib.autoregressive.gated_pixelcnn import GatedLayer, GatedPixelCNN, VerticalConv2d
from gdm_lib.autoregressive.pixelcnn import colours
from gdm_lib.nn import ClassEmbedding, gate
from tests.helpers import loud, normal, seeded


def test_states_its_paper():
    assert paper.ARXIV == "1606.05328"


def test_the_gate_is_equation_2():
    x = normal(2, 6, 3, 3)
    torch.testing.assert_close(gate(x), x[:, :3].tanh() * x[:, 3:].sigmoid())
    torch.testing.assert_close(gate(x[..., 0, 0]), gate(x)[..., 0, 0])


@pytest.mark.parametrize("kernel", [3, 5])
def test_a_vertical_convolution_is_a_whole_one_with_its_lower_rows_at_zero(kernel):
    x = normal(2, 3, 6, 5)
    for strict in (False, True):
        torch.manual_seed(0)
        conv = VerticalConv2d(3, 4, kernel, strict=strict).double()
        whole = torch.zeros(4, 3, kernel, kernel, dtype=torch.float64)
        whole[:, :, : conv.weight.shape[2]] = conv.weight.detach()
        expected = F.conv2d(x, whole, conv.bias, padding=kernel // 2)
        torch.testing.assert_close(conv(x), expected, rtol=0, atol=1e-12)


def test_bad_kernels_are_refused():
    for kernel, strict in [(2, False), (1, True)]:
        with pytest.raises(ValueError, match=f"kernel must be odd, .* got {kernel}"):
            VerticalConv2d(1, 1, kernel, strict=strict)


@torch.no_grad()
def test_a_layer_is_figure_2():
    """The whole layer again, with whole kernels, masks multiplied in, and the shift by a row."""
    torch.manual_seed(0)
    p, n = 3, 3
    layer = GatedLayer(colours(p, 1), p, 1, n, context_dim=2).double()
    v, h, context = normal(2, p, 5, 4), normal(2, p, 5, 4, seed=1), normal(2, 2, 1, 1, seed=2)
    for_v, for_h = layer.from_context(context).chunk(2, 1)
    vertical = F.conv2d(F.pad(v, (1, 1, 1, 0)), layer.vertical.weight, layer.vertical.bias)
    row = torch.zeros(2 * p, p, 1, n, dtype=torch.float64)
    row[..., : n // 2 + 1] = layer.horizontal.weight
    horizontal = F.conv2d(h, row, layer.horizontal.bias, padding=(0, n // 2))
    across = F.conv2d(vertical, layer.across.weight, layer.across.bias)
    out = F.conv2d(gate(horizontal + across + for_h), layer.out.weight, layer.out.bias)
    got_v, got_h = layer(v, h, context)
    torch.testing.assert_close(got_v, gate(vertical + for_v), rtol=0, atol=1e-12)
    torch.testing.assert_close(got_h, h + out, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kernel", [3, 5])
def test_no_pixel_has_a_blind_spot(kernel):
    """Section 2.2, at every pixel: all that comes before is seen, and nothing else."""
    size = 6
    model = GatedPixelCNN(
        (1, size, size), levels=2, p=8, layers=5, kernel=kernel, first_kernel=kernel
    )
    x = torch.rand(4, 1, size, size, dtype=torch.float64, generator=seeded()).requires_grad_()
    out = loud(model, 0.3).features(x).sum((0, 1)).flatten()
    for place in range(size * size):
        (slope,) = torch.autograd.grad(out[place], x, retain_graph=True)
        seen = (slope.abs().sum((0, 1)) > 0).flatten()
        assert seen.tolist() == [other < place for other in range(size * size)]


def test_the_vertical_stack_knows_the_rows_above_only():
    model = loud(GatedPixelCNN((1, 5, 5), levels=2, p=6, layers=2, first_kernel=3), 0.3)
    v = x = torch.rand(2, 1, 5, 5, dtype=torch.float64, generator=seeded()).requires_grad_()
    for layer in model.layers:
        v, _ = layer(v, torch.zeros(2, layer.horizontal.in_channels, 5, 5).double())
    (slope,) = torch.autograd.grad(v[..., 3, 2].sum(), x)
    rows = slope.abs().sum((0, 1)) > 0
    assert not rows[3:].any()
    assert rows[:3].all()


def test_every_layer_hears_the_class_in_both_stacks():
    """Equation 4 has a V of its own in each layer; the last layer's vertical features reach nothing
    (figure 2 ends in the horizontal stack), and so does what the class adds to them."""
    model = GatedPixelCNN(
        (1, 4, 4), levels=3, p=6, layers=2, context_dim=5, embed=ClassEmbedding(3, 5)
    )
    x = torch.randint(3, (4, 1, 4, 4), generator=seeded())
    model.loss(x, torch.tensor([0, 1, 2, 1]))["loss"].backward()
    for i, layer in enumerate(model.layers):
        for_v, for_h = layer.from_context.weight.grad.chunk(2)
        assert (for_h != 0).any()
        assert bool((for_v != 0).any()) == (i < 2)


@torch.no_grad()
def test_a_context_in_space_speaks_to_its_place():
    """Equation 5: with s constant over the image it is equation 4; a change of s at one place
    changes that place's conditional, and no row above. (It is given, so it may be heard to the left
    of its place: the vertical stack looks to both sides.)"""
    model = loud(GatedPixelCNN((1, 4, 4), levels=3, p=6, layers=2, context_dim=5), 0.3)
    x, h = torch.randint(3, (2, 1, 4, 4), generator=seeded()), normal(2, 5)
    everywhere = h[:, :, None, None].expand(2, 5, 4, 4).clone()
    torch.testing.assert_close(model(x, everywhere), model(x, h))
    changed = everywhere.clone()
    changed[:, :, 1, 2] += 1
    differs = (model(x, changed) != model(x, everywhere)).any(1).any(0)[0].flatten()
    assert not differs[:4].any()
    assert differs[6:].all()
    # And the sampler hears it at the right row.
    naive, cached = [], []
    rules = [lambda p, _, kept=kept: kept.append(p) or p.argmax(1) for kept in (naive, cached)]
    assert torch.equal(
        model.generate_naive(rules[0], 2, changed), model.generate(rules[1], 2, changed)
    )
    for a, b in zip(naive, cached, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_a_context_of_another_size_is_refused():
    model = GatedPixelCNN((1, 4, 4), levels=3, p=6, layers=1, context_dim=5)
    x = torch.zeros(2, 1, 4, 4, dtype=torch.int64)
    for context, told in [
        (torch.zeros(2, 4), r"y must give a context of 5 features, \(B, 5\), got \(2, 4\)"),
        (torch.zeros(2, 5, 3, 4), r"\(B, 5, 4, 4\), got \(2, 5, 3, 4\)"),
        (torch.zeros(2, 5, 4), r"\(B, 5, 4, 4\), got \(2, 5, 4\)"),
    ]:
        with pytest.raises(ValueError, match=told):
            model.log_prob(x, context)


def test_is_the_decoder_of_an_autoencoder():
    """Section 2.4: the code conditions, encoder and decoder learn together."""
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), ToFloat(), nn.Linear(16, 3))
    model = GatedPixelCNN((1, 4, 4), levels=3, p=6, layers=1, context_dim=3, embed=encoder)
    x = torch.randint(3, (4, 1, 4, 4), generator=seeded())
    model.loss(x, x)["loss"].backward()
    assert (encoder[2].weight.grad != 0).any()
    assert model.sample(4, x, generator=seeded()).shape == x.shape


class ToFloat(nn.Module):
    """Levels as numbers."""

    def forward(self, x: Tensor) -> Tensor:
        return x.float()
