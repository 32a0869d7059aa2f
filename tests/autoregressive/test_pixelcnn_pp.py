"""What 1701.05517 claims of PixelCNN++, asserted."""

import copy
import itertools
import math
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gdm_lib.autoregressive import pixelcnn_pp as paper
from gdm_lib.autoregressive.pixelcnn_pp import (
    GatedResNet,
    PixelCNNpp,
    ShiftedConv2d,
    ShiftedConvTranspose2d,
    concat_elu,
)
from gdm_lib.likelihoods import DiscretizedLogisticMixture, Softmax
from gdm_lib.nn import ClassEmbedding
from gdm_lib.protocols import Likelihood, LikelihoodModel
from tests.helpers import Recorder, normal, seeded

SMALL = {"components": 2, "features": 6, "blocks": 1}
STRIDES = pytest.mark.parametrize("strides", [(), (1,), (2,), (2, 2), (1, 2)])
SHAPES = pytest.mark.parametrize("shape", [(1, 6, 5), (3, 5, 6)])


def levels(*shape: int, count: int = 4, seed: int = 0) -> Tensor:
    return torch.randint(count, shape, generator=seeded(seed))


def every(places: int, count: int) -> Tensor:
    return torch.tensor(list(itertools.product(range(count), repeat=places)))


def model(shape: tuple[int, ...] = (1, 6, 5), **changes: object) -> PixelCNNpp:
    """Small, in double precision, and with every path of the same loudness."""
    made = PixelCNNpp(shape, **{"levels": 4, **SMALL, **changes}).double()
    y = torch.arange(20) % 3 if made.context_dim else None
    made.initialise(levels(20, *shape, count=made.levels), y)
    return made.eval()


def convolutions(net: nn.Module) -> list[ShiftedConv2d | ShiftedConvTranspose2d]:
    return [m for m in net.modules() if isinstance(m, ShiftedConv2d | ShiftedConvTranspose2d)]


def test_keeps_the_contract():
    made = PixelCNNpp((1, 3, 3), levels=4, **SMALL)
    assert isinstance(made, LikelihoodModel)
    assert isinstance(made.likelihood, DiscretizedLogisticMixture)
    assert isinstance(made.likelihood, Likelihood)
    assert made.bound is False
    assert paper.ARXIV == "1701.05517"
    assert made.sample(2).shape == (2, 1, 3, 3)
    assert list(made.places((1, 2, 2))) == [(0, 0), (0, 1), (1, 0), (1, 1)]


# -- section 2 and the code: weight normalisation, and its initialisation by data


def test_concat_elu_is_the_elu_of_both_signs():
    x = torch.tensor([[-2.0, 0.0, 3.0]])
    a, b = math.expm1(-2), math.expm1(-3)
    torch.testing.assert_close(concat_elu(x), torch.tensor([[a, 0.0, 3.0, 2.0, 0.0, b]]))


@pytest.mark.parametrize(
    "conv",
    [
        ShiftedConv2d(3, 4, (2, 3), (0, 1)),
        ShiftedConv2d(3, 4, (2, 2), stride=2),
        ShiftedConvTranspose2d(3, 4, (2, 3), (0, 1), 2),
    ],
)
def test_the_length_of_a_weight_does_not_depend_on_its_direction(conv):
    axes = (0, 2, 3) if isinstance(conv, nn.ConvTranspose2d) else (1, 2, 3)
    length, direction = (
        getattr(conv.parametrizations.weight, name) for name in ("original0", "original1")
    )
    with torch.no_grad():
        length.copy_(torch.arange(1.0, 5.0).view(length.shape))
        direction.mul_(7)
    torch.testing.assert_close(conv.weight.square().sum(axes).sqrt(), torch.arange(1.0, 5.0))


@SHAPES
@STRIDES
def test_after_initialisation_every_convolution_has_mean_0_and_its_gain(shape, strides):
    made = PixelCNNpp(
        shape, levels=4, strides=strides, context_dim=3, embed=ClassEmbedding(3, 3), **SMALL
    ).double()
    x, y = levels(30, *shape), torch.arange(30) % 3
    made.train()
    made.initialise(x, y)
    assert made.training, "as it was"
    seen = dict[nn.Module, Tensor]()
    for conv in convolutions(made):
        conv.register_forward_hook(lambda m, _, out: seen.update({m: out}))
    made.eval()(x, y)
    assert len(seen) == len(convolutions(made))
    for conv, out in seen.items():
        channels = out.transpose(0, 1).flatten(1)
        zero = torch.zeros(len(channels)).double()
        torch.testing.assert_close(channels.mean(1), zero, atol=1e-9, rtol=0)
        torch.testing.assert_close(channels.std(1, correction=0), zero + conv.gain)
    gains = {conv.gain for conv in seen}
    assert gains == {1.0, 0.1}, "the residual branches start small"


def test_initialisation_leaves_directions_alone_and_survives_what_is_constant():
    made = PixelCNNpp((1, 1, 1), levels=4, strides=(), **SMALL)
    before = [c.parametrizations.weight.original1.clone() for c in convolutions(made)]
    made.initialise(levels(10, 1, 1, 1))
    for conv, direction in zip(convolutions(made), before, strict=True):
        assert torch.equal(conv.parametrizations.weight.original1, direction)
        assert conv.weight.abs().max() < 10
    assert not any(conv._forward_hooks for conv in convolutions(made))


# -- section 2.3: shifts, streams, resolutions


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("kernel", "end"),
    [((2, 3), (0, 1)), ((2, 2), (0, 0)), ((2, 3), (-1, 1)), ((1, 3), (-1, 1)), ((2, 1), (0, -1))],
)
def test_a_shifted_convolution_sees_its_kernel_and_no_more(kernel, end, stride):
    conv = ShiftedConv2d(1, 1, kernel, end, stride=stride).double()
    x = normal(1, 1, 7, 6).requires_grad_()
    out = conv(x)
    assert out.shape == (1, 1, -(-7 // stride), -(-6 // stride))
    for i, j in itertools.product(*map(range, out.shape[2:])):
        (slope,) = torch.autograd.grad(out[0, 0, i, j], x, retain_graph=True)
        expected = torch.zeros(7, 6).double()
        for a, b in itertools.product(*map(range, kernel)):
            row = i * stride + end[0] - kernel[0] + 1 + a
            column = j * stride + end[1] - kernel[1] + 1 + b
            if 0 <= row < 7 and 0 <= column < 6:
                expected[row, column] = conv.weight[0, 0, a, b]
        torch.testing.assert_close(slope[0, 0], expected)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("kernel", "end"), [((2, 3), (0, 1)), ((2, 2), (0, 0))])
def test_growing_spreads_each_pixel_from_itself_on(kernel, end, stride):
    """Down and right, so that nothing later than a pixel reaches it; ``u``, which knows nothing of
    the row, also to the left."""
    grow = ShiftedConvTranspose2d(1, 1, kernel, end, stride).double()
    z = normal(1, 1, 4, 3).requires_grad_()
    height, width = 4 * stride, 3 * stride
    out = grow(z, (height, width))
    for i, j in itertools.product(range(height), range(width)):
        (slope,) = torch.autograd.grad(out[0, 0, i, j], z, retain_graph=True)
        expected = torch.zeros(4, 3).double()
        for a, b in itertools.product(range(4), range(3)):
            row, column = i - a * stride, j - b * stride + end[1]
            if 0 <= row < kernel[0] and 0 <= column < kernel[1]:
                expected[a, b] = grow.weight[0, 0, row, column]
        torch.testing.assert_close(slope[0, 0], expected)


def leans(made: PixelCNNpp, shape: tuple[int, ...]) -> Tensor:
    """How far the parameters of pixel p lean on pixel q: ``(H W, H W)``."""
    places = shape[1] * shape[2]
    weights = normal(made.likelihood.params_shape(shape)[0], seed=1)
    image = normal(1, *shape)
    slopes = torch.autograd.functional.jacobian(
        lambda v: torch.einsum("bphw,p->hw", made.features(v), weights), image
    )
    return slopes.abs().sum((2, 3)).reshape(places, places)


@SHAPES
@STRIDES
def test_every_pixel_sees_all_before_it_and_none_from_itself_on(shape, strides):
    made = model(shape, strides=strides, blocks=3)
    seen = leans(made, shape)
    before = torch.ones_like(seen, dtype=torch.bool).tril(-1)
    assert (seen[~before] == 0).all()
    assert (seen[before] > 0).all()


def test_u_sees_the_rows_above_only():
    made, x = model((1, 5, 5)), normal(1, 1, 5, 5)

    def stream(v: Tensor) -> Tensor:
        marked = torch.cat([v, torch.ones_like(v)], 1)
        return made.u(made.first_u(marked), (), None)[0][-1].sum(1)

    seen = torch.autograd.functional.jacobian(stream, x)[0, :, :, 0, 0].abs().sum(1)
    rows = seen.sum(-1)  # (row of the output, row of the input)
    assert (rows.triu() == 0).all()
    assert (seen[torch.ones(5, 5).tril(-1).bool()] > 0).all()


def test_padding_is_told_from_grey():
    """By a channel of ones: to the first layers an image of zeros would else look like none."""
    made, seen = model((1, 4, 4)), list[Tensor]()
    made.first_u.register_forward_hook(lambda _, args, out: seen.append(out[0]))
    made.features(torch.zeros(1, 1, 4, 4).double())
    assert not torch.allclose(seen[0][:, 0, 1], seen[0][:, 3, 1])
    assert not torch.allclose(seen[0][:, 3, 0], seen[0][:, 3, 1])


@pytest.mark.parametrize(
    "changes",
    [
        {"strides": ()},
        {"strides": (2,)},
        {"strides": (1, 1)},
        {},
        {"strides": (2,), "shortcuts": False},
        {"likelihood": Softmax(2)},
    ],
)
def test_probabilities_of_all_images_sum_to_one(changes):
    made, x = model((1, 3, 3), levels=2, **changes), every(9, 2).view(-1, 1, 3, 3)
    with torch.no_grad():
        log_p = made.log_prob(x)
    assert log_p.std() > 0.1, "a uniform model would pass"
    assert log_p.logsumexp(0).item() == pytest.approx(0, abs=1e-10)


def test_layers_are_computed_at_their_resolution():
    made = model((1, 12, 8))
    sizes = list[tuple[int, int]]()
    for layer in made.ul.modules():
        if isinstance(layer, GatedResNet):
            layer.register_forward_hook(lambda _, args, out: sizes.append(tuple(out.shape[2:])))
    made.features(normal(1, 1, 12, 8))
    down, low = [(12, 8), (6, 4), (3, 2)], [(3, 2)]
    assert sizes == [*down, *low, (6, 4), (6, 4), (12, 8), (12, 8)]


def test_without_downsampling_there_are_as_many_weights():
    def count(strides: tuple[int, ...]) -> int:
        return sum(p.numel() for p in PixelCNNpp((1, 8, 8), strides=strides, **SMALL).parameters())

    assert count((2, 2)) == count((1, 1)) > count((2,)) > count(())


# -- section 2.4: short-cuts


def test_shortcuts_join_the_layers_that_mirror_each_other():
    """Each layer up is given what its mirror put out; with the way between them cut, its gradient
    still gets there. Without short-cuts it does not."""
    for shortcuts in (True, False):
        made = model((1, 8, 8), shortcuts=shortcuts)
        for stream in (made.u, made.ul):
            kept = list[Tensor]()
            stream.down[0].register_forward_hook(lambda _, args, out, k=kept: k.append(out))
            stream.grow.register_forward_hook(lambda _, args, out: torch.zeros_like(out))
            x = normal(1, 6, 8, 8).requires_grad_()
            others = made.u(x, (), None) if stream is made.ul else ()
            others = [[v.detach() for v in layers] for layers in others]
            kept.clear()
            out = stream(x, others, None)[0][-1]
            (slope,) = torch.autograd.grad(out.sum(), kept[0], allow_unused=True)
            assert (slope is not None and slope.abs().sum() > 0) == shortcuts


def test_short_cuts_run_from_the_last_layer_down_to_the_first_up():
    made = model((1, 8, 8), strides=(2,))
    given, made_by = list[Tensor](), list[Tensor]()
    outer = made.u
    for layer in outer.down:
        layer.register_forward_hook(lambda _, args, out: made_by.append(out))
    for layer in outer.up:
        layer.register_forward_hook(lambda _, args, out: given.append(args[1][0]))
    x = normal(1, 6, 8, 8)
    outer(x, (), None)
    for a, b in zip(given, [*reversed(made_by), x], strict=True):
        assert torch.equal(a, b)


def test_without_short_cuts_detail_is_lost():
    """All that a pixel then knows has passed through the coarsest pixel above and to its left."""
    shape = (1, 8, 8)
    seen = leans(model(shape, shortcuts=False, blocks=3), shape).reshape(8, 8, 8, 8)
    for i, j in itertools.product(range(8), range(8)):
        a, b = i - i % 4, j - j % 4
        assert (seen[i, j, a + 1 :] == 0).all()
        assert (seen[i, j, a, b:] == 0).all()
    assert (seen[7, 7, :4] > 0).all()


# -- section 2.5: dropout


def test_dropout_acts_in_training_only():
    made, x = model(), levels(4, 1, 6, 5)
    assert torch.equal(made(x), made(x))
    made.train()
    assert not torch.allclose(made(x), made(x))
    still = model(dropout=0.0).train()
    assert torch.equal(still(x), still(x))


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.5, 1.0])
def test_dropout_keeps_the_expectation(rate):
    layer = GatedResNet(2, (2, 2), (0, 0), dropout=rate).dropout.train()
    out = layer(torch.ones(200, 500))
    kept = out[out != 0]
    torch.testing.assert_close(kept, torch.ones_like(kept) / max(1 - rate, 0.1))
    dropped = (out == 0).double().mean().item()
    assert dropped == pytest.approx(rate, abs=5 * math.sqrt(rate * (1 - rate) / 1e5))


def test_generation_has_no_dropout():
    made = model().train()
    one, other = (made.sample(2, generator=seeded(3)) for _ in range(2))
    assert torch.equal(one, other)
    assert made.training


# -- the gated layer, its context


def test_a_gated_layer_is_its_formula():
    layer = GatedResNet(4, (2, 3), (0, 1), beside=5, context_dim=3, dropout=0.0).double()
    x, beside, context = normal(2, 4, 5, 6), normal(2, 5, 5, 6, seed=1), normal(2, 3, seed=2)

    def conv(name: str, v: Tensor) -> Tensor:
        module = getattr(layer, name)
        padded = v if name == "from_beside" else F.pad(v, (1, 1, 1, 0))
        return F.conv2d(padded, module.weight, module.bias)

    h = conv("first", concat_elu(x)) + conv("from_beside", concat_elu(beside))
    h = conv("second", concat_elu(h)) + (context @ layer.from_context.weight.T)[..., None, None]
    expected = x + h[:, :4] * torch.sigmoid(h[:, 4:])
    torch.testing.assert_close(layer(x, [beside], context), expected)


def test_the_class_reaches_every_pixel():
    made = model((1, 4, 5), context_dim=3, embed=ClassEmbedding(3, 3))
    x = levels(1, 1, 4, 5)
    a, b = (made(x, torch.tensor([label])) for label in (0, 1))
    assert ((a - b).abs().amax(1) > 1e-8).all()


# -- sampling with caches


@pytest.mark.parametrize(
    ("shape", "changes", "dtype"),
    [
        ((1, 6, 6), {"blocks": 2}, torch.float64),
        ((1, 6, 6), {}, torch.float32),
        ((3, 5, 7), {}, torch.float64),
        ((3, 5, 4), {"context_dim": 3, "embed": ClassEmbedding(3, 3)}, torch.float32),
        ((1, 7, 5), {"strides": (1, 2)}, torch.float64),
        ((1, 5, 6), {"strides": (2, 1), "shortcuts": False}, torch.float64),
        ((1, 4, 4), {"strides": (), "blocks": 2}, torch.float64),
        ((1, 5, 3), {"likelihood": Softmax(4)}, torch.float64),
        ((3, 4, 5), {"context_dim": 3, "embed": ClassEmbedding(3, 3)}, torch.float64),
        ((1, 1, 5), {}, torch.float64),
        ((1, 5, 1), {}, torch.float64),
    ],
)
def test_the_cached_sampler_is_the_naive_one_at_every_step(shape, changes, dtype):
    made = model(shape, **changes).to(dtype)
    y = torch.tensor([0, 2, 1]) if made.context_dim else None
    naive, cached = Recorder(made), Recorder(made)
    expected = made.generate_naive(naive, 3, y)
    assert torch.equal(made.generate(cached, 3, y), expected)
    assert len(cached.params) == shape[1] * shape[2]
    atol = 1e-5 if dtype == torch.float32 else 1e-10
    for a, b in zip(naive.params, cached.params, strict=True):
        torch.testing.assert_close(b, a, rtol=0, atol=atol)


def test_coarse_layers_run_at_every_second_row_and_column_only(monkeypatch):
    """One matrix product for each pixel of each layer's own grid."""
    made = model((1, 8, 8))
    rows = list[int]()
    product = torch.addmm

    def counted(*args: Tensor) -> Tensor:
        rows.append(1)
        return product(*args)

    monkeypatch.setattr(torch, "addmm", counted)
    made.sample(1, generator=seeded())
    # The first layer and the head; then with 3 products each a layer at every resolution on the
    # way down, on the way up two more, or one at the coarsest; and those of the strides.
    fine, half, quarter = 64, 16, 4
    layers = 3 * (3 * fine + 3 * half + 2 * quarter)
    assert len(rows) == 2 * fine + layers + half + quarter


# -- what is refused


def test_bad_arguments_are_refused_by_name():
    with pytest.raises(ValueError, match=r"data_shape must be \(C, H, W\), got \(3, 3\)"):
        PixelCNNpp((3, 3))
    with pytest.raises(ValueError, match=r"strides must each be 1 or 2, .* got \(3,\)"):
        PixelCNNpp((1, 6, 6), strides=(3,), **SMALL)
    with pytest.raises(ValueError, match="blocks must be at least 1"):
        PixelCNNpp((1, 6, 6), **{**SMALL, "blocks": 0})
    with pytest.raises(ValueError, match="data_shape must start with 1 channels"):
        PixelCNNpp((3, 6, 6), likelihood=Softmax(256), **SMALL)
    with pytest.raises(ValueError, match="components must be at least 1, got 0"):
        PixelCNNpp((1, 6, 6), levels=4, components=0)


def test_a_model_that_has_learned_is_not_initialised_unless_told():
    made = PixelCNNpp((1, 4, 4), levels=4, **SMALL)
    x = levels(30, 1, 4, 4)
    made.initialise(x)
    trained = {name: value.clone() for name, value in made.state_dict().items()}
    loaded = PixelCNNpp((1, 4, 4), levels=4, **SMALL)
    loaded.load_state_dict(trained)
    for model_ in (made, loaded, copy.deepcopy(made)):
        with pytest.raises(ValueError, match=r"again must be True .* give again=True"):
            model_.initialise(levels(30, 1, 4, 4, seed=1))
        assert all(torch.equal(v, trained[k]) for k, v in model_.state_dict().items())
    loaded.initialise(levels(30, 1, 4, 4, seed=1), again=True)
    assert not torch.equal(loaded.head.bias, made.head.bias)


def test_one_step_of_training_is_enough_to_have_learned():
    made = PixelCNNpp((1, 4, 4), levels=4, **SMALL)
    optimizer = torch.optim.SGD(made.parameters(), lr=1e-3)
    made.loss(levels(8, 1, 4, 4))["loss"].backward()
    optimizer.step()
    with pytest.raises(ValueError, match="again must be True"):
        made.initialise(levels(8, 1, 4, 4))


def test_an_empty_batch_initialises_nothing():
    made = PixelCNNpp((1, 4, 4), levels=4, **SMALL)
    with pytest.raises(ValueError, match="x must have at least one item"):
        made.initialise(levels(0, 1, 4, 4))
    assert all(p.isfinite().all() for p in made.parameters())


def test_a_pickled_model_is_the_same_and_its_own():
    made = model((1, 4, 4))
    again = pickle.loads(pickle.dumps(made))
    x = levels(5, 1, 4, 4)
    expected = made.log_prob(x)
    assert torch.equal(again.log_prob(x), expected)
    assert list(again.state_dict()) == list(made.state_dict())
    again.load_state_dict(made.state_dict())
    with torch.no_grad():
        for p in again.parameters():
            p.mul_(1.5)
    assert not torch.equal(again.log_prob(x), expected)
    assert torch.equal(made.log_prob(x), expected)


def test_bad_input_is_refused_by_name():
    made, x = model((1, 4, 4), context_dim=3, embed=ClassEmbedding(3, 3)), levels(2, 1, 4, 4)
    y = torch.tensor([0, 2])
    for image, label, told in [
        (x[:, :, 1:], y, r"x must be a batch of shape \(B, 1, 4, 4\)"),
        (x + 4, y, "x must hold levels 0 to 3"),
        (x, y + 1, "y must hold labels 0 to 2, got 1 to 3"),
        (x, None, "y must have one row for each of 2 items"),
    ]:
        with pytest.raises(ValueError, match=told):
            made.log_prob(image, label)
        with pytest.raises(ValueError, match=told):
            made.initialise(image, label)
    spatial = PixelCNNpp((1, 4, 4), levels=4, context_dim=3, **SMALL)
    with pytest.raises(ValueError, match="has no context for each place"):
        spatial.log_prob(x, torch.zeros(2, 3, 4, 4))
