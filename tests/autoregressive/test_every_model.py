"""What every autoregressive model must be, whatever its network: one test for all."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from gdm_lib.autoregression import Autoregressive, PixelModel
from gdm_lib.autoregressive.gated_pixelcnn import GatedPixelCNN
from gdm_lib.autoregressive.pixelcnn import MaskedConv2d, PixelCNN
from gdm_lib.autoregressive.pixelcnn_pp import PixelCNNpp
from gdm_lib.autoregressive.pixelrnn import DiagonalBiLSTM, PixelRNN, RowLSTM
from gdm_lib.autoregressive.wavenet import WaveNet
from gdm_lib.nn import ClassEmbedding
from gdm_lib.protocols import LikelihoodModel
from tests.helpers import Recorder, loud, seeded

Pixel = tuple[int, int]
Seen = Callable[[Pixel, Pixel], tuple[set[Pixel], set[Pixel]]]
"""``(a pixel, size of the image) -> `` pixels of which it sees all colours, and pixels whose
features it sees behind mask A: all their colours but the last."""


def conditional(classes: int) -> dict[str, Any]:
    return {"context_dim": 5, "embed": ClassEmbedding(classes, 5)} if classes else {}


# -- which pixels each network claims to see: sets of pixels, followed back through its layers


def inside(pixels: set[Pixel], size: Pixel) -> set[Pixel]:
    return {(i, j) for i, j in pixels if 0 <= i < size[0] and 0 <= j < size[1]}


def masked(pixels: set[Pixel], size: Pixel, kernel: tuple[int, int], strict: bool) -> set[Pixel]:
    """What a masked convolution sees at these pixels."""
    up, side = kernel[0] // 2, kernel[1] // 2
    above = itertools.product(range(-up, 0), range(-side, side + 1))
    offsets = [*above, *((0, dj) for dj in range(-side, 0 if strict else 1))]
    return inside({(i + a, j + b) for i, j in pixels for a, b in offsets}, size)


def pixelcnn_sees(pixel: Pixel, size: Pixel) -> tuple[set[Pixel], set[Pixel]]:
    seen = {pixel}
    for _ in range(2):
        seen |= masked(seen, size, (3, 3), strict=False)
    return masked(seen, size, (3, 3), strict=True), seen


def row_lstm_sees(pixel: Pixel, size: Pixel) -> tuple[set[Pixel], set[Pixel]]:
    seen = {pixel}
    for _ in range(2):
        states = set(seen)
        for _ in range(size[0]):  # a state sees three states of the row above
            states |= inside({(i - 1, j + b) for i, j in states for b in (-1, 0, 1)}, size)
        seen |= masked(states, size, (1, 3), strict=False)
    return masked(seen, size, (3, 3), strict=True), seen


def diagonal_bilstm_sees(pixel: Pixel, size: Pixel) -> tuple[set[Pixel], set[Pixel]]:
    i, j = pixel
    states = {
        (a, b)
        for a, b in itertools.product(*map(range, size))
        if (a <= i and b <= j) or (a <= i - 1 and b >= j)  # the right map is one row down
    }
    return masked(states, size, (3, 3), strict=True), states


def gated_sees(pixel: Pixel, size: Pixel) -> tuple[set[Pixel], set[Pixel]]:
    right, down = {pixel}, set[Pixel]()
    for _ in range(2):
        down |= right
        rows = itertools.product((-1, 0), (-1, 0, 1))
        offsets = list(rows)
        down = inside({(i + a, j + b) for i, j in down for a, b in offsets}, size)
        right |= masked(right, size, (1, 3), strict=False)
    down |= right
    above = {(i - 1, j + b) for i, j in down for b in (-1, 0, 1)}
    return inside(above, size) | masked(right, size, (1, 3), strict=True), right


Shape = tuple[int, ...]
Claim = Callable[[Shape, Shape], Tensor]
"""``(place, shape of an item) -> `` True at the entries that the place's conditional must see."""


def of_colours(sees: Seen) -> Claim:
    """Colours come one after the other: ``place`` is ``(c, i, j)``."""

    def claim(place: Shape, shape: Shape) -> Tensor:
        claimed, pixel = torch.zeros(shape, dtype=torch.bool), (place[1], place[2])
        fully, but_the_last = sees(pixel, (shape[1], shape[2]))
        for i, j in but_the_last - {pixel}:
            claimed[:-1, i, j] = True
        for i, j in fully:
            claimed[:, i, j] = True
        claimed[(slice(place[0]), *pixel)] = True  # colours before its own
        return claimed

    return claim


def whole_pixels(place: Shape, shape: Shape) -> Tensor:
    """All pixels before, in all their colours: ``place`` is ``(i, j)``."""
    before = torch.zeros(shape, dtype=torch.bool).flatten(1)
    before[:, : place[0] * shape[2] + place[1]] = True
    return before.view(shape)


def samples(place: Shape, shape: Shape) -> Tensor:
    """As far back as the dilations below reach: ``place`` is ``(t,)``."""
    age = place[0] - torch.arange(shape[0])
    return (age >= 1) & (age <= 1 + 1 + 2 + 1)


@dataclass(frozen=True)
class Case:
    """A model: how to make it of ``(shape, levels, classes)``, and what it claims."""

    build: Callable[..., Autoregressive]
    claim: Claim
    classes: bool = True
    """Whether it can be conditioned on a class."""
    items: tuple[tuple[Shape, int], ...] = (((1, 3, 3), 2), ((3, 1, 2), 3))
    """Shapes and levels so small that all items can be listed."""
    shapes: tuple[Shape, ...] = ((1, 6, 5), (3, 3, 4))


SMALL = {"h": 12, "layers": 2, "head": 18, "kernel": 3}
CASES = {
    "pixelcnn": Case(
        lambda shape, levels, _=0: PixelCNN(shape, levels=levels, **SMALL),
        of_colours(pixelcnn_sees),
        classes=False,
    ),
    "row_lstm": Case(
        lambda shape, levels, _=0: PixelRNN(shape, levels=levels, lstm=RowLSTM, **SMALL),
        of_colours(row_lstm_sees),
        classes=False,
    ),
    "diagonal_bilstm": Case(
        lambda shape, levels, _=0: PixelRNN(shape, levels=levels, lstm=DiagonalBiLSTM, **SMALL),
        of_colours(diagonal_bilstm_sees),
        classes=False,
    ),
    "gated_pixelcnn": Case(
        lambda shape, levels, classes=0: GatedPixelCNN(
            shape, levels=levels, p=12, layers=2, first_kernel=3, **conditional(classes)
        ),
        of_colours(gated_sees),
    ),
    "pixelcnn_of_categories": Case(
        lambda shape, levels, _=0: PixelCNN(shape, levels=levels, level_features=4, **SMALL),
        of_colours(pixelcnn_sees),
        classes=False,
    ),
    "row_lstm_of_categories": Case(
        lambda shape, levels, _=0: PixelRNN(
            shape, levels=levels, level_features=4, lstm=RowLSTM, **SMALL
        ),
        of_colours(row_lstm_sees),
        classes=False,
    ),
    "gated_pixelcnn_of_categories": Case(
        lambda shape, levels, classes=0: GatedPixelCNN(
            shape,
            levels=levels,
            level_features=4,
            p=12,
            layers=2,
            first_kernel=3,
            **conditional(classes),
        ),
        of_colours(gated_sees),
    ),
    "pixelcnn_pp": Case(
        lambda shape, levels, classes=0: PixelCNNpp(
            shape, levels=levels, components=2, features=8, blocks=1, **conditional(classes)
        ),
        whole_pixels,
    ),
    "wavenet": Case(
        lambda shape, levels, classes=0: WaveNet(
            shape, levels=levels, residual=6, skip=7, dilations=(1, 2, 1), **conditional(classes)
        ),
        samples,
        items=(((5,), 3),),
        shapes=((12,),),
    ),
}
CONDITIONAL = [name for name, case in CASES.items() if case.classes]
ALL = pytest.mark.parametrize("name", CASES)
SHAPES = pytest.mark.parametrize(
    ("name", "shape"), [(name, shape) for name, case in CASES.items() for shape in case.shapes]
)


def built(name: str, shape: Shape, levels: int, classes: int = 0) -> Autoregressive:
    return loud(CASES[name].build(shape, levels, classes))


def every(shape: Shape, levels: int) -> Tensor:
    """All items of that shape."""
    return torch.cartesian_prod(*[torch.arange(levels)] * math.prod(shape)).view(-1, *shape)


@ALL
def test_keeps_the_contract(name):
    shape, levels = CASES[name].items[0]
    model = CASES[name].build(shape, levels).eval()
    assert isinstance(model, LikelihoodModel)
    assert model.bound is False
    drawn = model.sample(2, generator=seeded())
    assert drawn.shape == (2, *shape)
    assert drawn.dtype == torch.int64
    terms = model.loss(drawn)
    assert torch.allclose(terms["loss"], -model.log_prob(drawn).mean())
    assert torch.allclose(terms["bits_per_dim"] * math.prod(shape) * math.log(2), terms["loss"])


@pytest.mark.parametrize(
    ("name", "shape", "levels", "classes"),
    [
        (name, *item, classes)
        for name, case in CASES.items()
        for item in case.items
        for classes in (0, 2)[: 1 + case.classes]
    ],
)
def test_probabilities_sum_to_one(name, shape, levels, classes):
    model, x = built(name, shape, levels, classes), every(shape, levels)
    y = torch.ones(len(x), dtype=torch.int64) if classes else None
    with torch.no_grad():
        log_p = model.log_prob(x, y)
    assert log_p.std() > 0.1, "a uniform model would pass"
    assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-10)


def slopes(model: Autoregressive, shape: Shape) -> dict[Shape, Tensor]:
    """For each place, how far its parameters lean on each entry of the item."""
    if len(shape) == 1:  # samples are embedded
        item = torch.randn(6, 6, *shape, generator=seeded(), dtype=torch.float64)
    else:
        each = model.seen // shape[0] if isinstance(model, PixelModel) else 1
        size = (6, shape[0] * each, *shape[1:])
        item = 2 * torch.rand(size, generator=seeded(), dtype=torch.float64) - 1
    item.requires_grad_()
    out = model.features(item)
    if out.shape[1] == shape[0] * model.levels:
        out = out.unflatten(1, (shape[0], model.levels)).transpose(1, 2)
    weights = torch.rand(out.shape[1], generator=seeded(1), dtype=torch.float64)
    found = {}
    for place in model.places(shape):
        of_place = out[(..., *place)]
        (slope,) = torch.autograd.grad((of_place @ weights).sum(), item, retain_graph=True)
        slope = slope.abs().sum(0)
        found[place] = (
            slope.sum(0) if len(shape) == 1 else slope.view(shape[0], -1, *shape[1:]).sum(1)
        )
    return found


@SHAPES
def test_gradient_is_zero_from_its_own_place_on_and_reaches_all_it_claims(name, shape):
    for place, slope in slopes(built(name, shape, 3), shape).items():
        claimed = CASES[name].claim(place, shape)
        assert (slope[~claimed] == 0).all(), f"{place} sees what it must not"
        assert (slope[claimed] > 0).all(), f"{place} is blind where it should see"


@SHAPES
def test_no_claim_goes_beyond_the_past(name, shape):
    """Places come in order, and none is claimed to see itself or one that comes later."""
    model = CASES[name].build(shape, 3)
    later = torch.ones(shape, dtype=torch.bool)
    for place in model.places(shape):
        assert not (CASES[name].claim(place, shape) & later).any()
        later[(..., *place)] = False
    assert not later.any()


@pytest.mark.parametrize(
    ("name", "shape", "classes"),
    [
        (name, shape, classes)
        for name, case in CASES.items()
        for shape in case.shapes
        for classes in (0, 3)[: 1 + case.classes]
    ],
)
def test_the_cached_sampler_is_the_naive_one_at_every_step(name, shape, classes):
    model = built(name, shape, 4, classes).float()
    y = torch.tensor([0, 2, 1]) if classes else None
    naive, cached = Recorder(model), Recorder(model)
    expected = model.generate_naive(naive, 3, y)
    assert torch.equal(model.generate(cached, 3, y), expected)
    assert cached.places == naive.places == list(model.places(shape))
    for a, b in zip(naive.params, cached.params, strict=True):
        torch.testing.assert_close(b, a, rtol=0, atol=1e-5)
    # What the sampler saw is what the density is made of.
    with torch.no_grad():
        whole = model(expected, y)
    for place, params in zip(cached.places, cached.params, strict=True):
        torch.testing.assert_close(params, whole[(..., *place)], rtol=0, atol=1e-5)


@ALL
def test_samples_have_the_probabilities_that_the_density_says(name):
    shape = (1, 2, 2) if len(CASES[name].shapes[0]) == 3 else (4,)
    model = built(name, shape, 2)
    n = 20_000
    codes = model.sample(n, generator=seeded(7)).flatten(1) @ torch.tensor([8, 4, 2, 1])
    counts = torch.bincount(codes, minlength=16)
    with torch.no_grad():
        expected = n * model.log_prob(every(shape, 2)).exp()
    chi2 = ((counts - expected).square() / expected).sum()
    assert chi2 < 45, "beyond 1 in 10,000 for 15 degrees of freedom"


@SHAPES
def test_completion_keeps_what_is_known_and_draws_the_rest(name, shape):
    model = built(name, shape, 4)
    x = torch.randint(4, (5, *shape), generator=seeded())
    known = torch.zeros(shape, dtype=torch.bool)
    half = (slice(None), slice(shape[1] // 2)) if len(shape) == 3 else slice(shape[0] // 2)
    known[half] = True
    done = model.complete(x, known, generator=seeded(1))
    assert torch.equal(done[:, known], x[:, known])
    assert not torch.equal(done[:, ~known], x[:, ~known])
    # What is not known isn't looked at.
    other = torch.where(known, x, 3 - x)
    assert torch.equal(model.complete(other, known, generator=seeded(1)), done)


@pytest.mark.parametrize(
    ("name", "shape"), [(name, shape) for name in CONDITIONAL for shape in CASES[name].shapes]
)
def test_the_class_reaches_every_place(name, shape):
    model = built(name, shape, 3, classes=2)
    x = torch.randint(3, (1, *shape), generator=seeded())
    with torch.no_grad():
        a, b = (model(x, torch.tensor([label])) for label in (0, 1))
    for place in model.places(shape):
        assert not torch.allclose(a[(..., *place)], b[(..., *place)]), place


@pytest.mark.parametrize("build", [PixelCNN, PixelRNN, GatedPixelCNN])
def test_a_category_is_seen_by_its_features_alone(build):
    """Levels renamed in the data, in the features and in the outputs leave the density as it was;
    levels that are numbers have an order, which can't be renamed."""
    name = torch.tensor([2, 0, 3, 1])
    x = torch.randint(4, (5, 3, 4, 4), generator=seeded())
    for level_features in (0, 3):
        model = build((3, 4, 4), levels=4, level_features=level_features, layers=1)
        model = loud(model, 0.3)
        with torch.no_grad():
            expected = model.log_prob(x)
            if model.embedding is not None:
                weight = model.embedding.weight.view(3, 4, -1)
                weight.copy_(weight[:, name.argsort()].clone())
            last = next(m for m in reversed(list(model.modules())) if isinstance(m, MaskedConv2d))
            for part in (last.weight, last.bias):
                of_level = part.view(3, 4, -1)
                of_level.copy_(of_level[:, name.argsort()].clone())
            renamed = model.log_prob(name[x])
        same = torch.allclose(renamed, expected, rtol=0, atol=1e-10)
        assert same == (level_features > 0)


def test_features_of_a_level_are_whole_numbers_from_zero():
    with pytest.raises(ValueError, match="level_features must be at least 0, got -1"):
        GatedPixelCNN((1, 3, 3), levels=4, level_features=-1)


@ALL
def test_bad_input_is_refused_by_name(name):
    shape, _ = CASES[name].items[0]
    model = CASES[name].build(shape, 4)
    x = torch.zeros(2, *shape, dtype=torch.int64)
    for bad, told in [
        (x[0], "x must be a batch of shape"),
        (x[:, None], "x must be a batch of shape"),
        (x[..., :0], "x must be a batch of shape"),
        (x.float(), "x must hold int64 levels 0 to 3, got torch.float32"),
        (x + 4, "x must hold levels 0 to 3, got 4 to 4"),
        (x - 1, "x must hold levels 0 to 3, got -1 to -1"),
    ]:
        with pytest.raises(ValueError, match=told):
            model.log_prob(bad)
    with pytest.raises(ValueError, match=r"y must be None, got \(2,\)"):
        model.log_prob(x, torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="y must be None"):
        model.sample(2, torch.zeros(2, dtype=torch.int64))


@pytest.mark.parametrize("name", CONDITIONAL)
def test_bad_labels_are_refused_by_name(name):
    shape, _ = CASES[name].items[0]
    model = CASES[name].build(shape, 4, 3)
    x = torch.zeros(2, *shape, dtype=torch.int64)
    for bad, told in [
        (None, "y must have one row for each of 2 items, got None"),
        (torch.tensor([0]), "y must have one row for each of 2 items, got 1"),
        (torch.tensor([0, 3]), "y must hold labels 0 to 2, got 0 to 3"),
        (torch.tensor([-1, 0]), "y must hold labels 0 to 2, got -1 to 0"),
        (torch.tensor([0.0, 1.0]), "y must be int64 labels"),
    ]:
        for call in (lambda y: model.log_prob(x, y), lambda y: model.sample(2, y)):
            with pytest.raises(ValueError, match=told):
                call(bad)
