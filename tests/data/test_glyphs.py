"""The factors that a glyph comes with are the ones that it was drawn from."""

import dataclasses
import math
from pathlib import Path

import matplotlib
import pytest
import torch
from matplotlib.font_manager import get_font
from matplotlib.path import Path as Outline

from gdm_lib.data import glyphs
from gdm_lib.data.glyphs import CHARACTERS, FACES, draw, load, sample_factors


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GDM_DATA_DIR", str(tmp_path))
    return tmp_path / "glyphs"


@pytest.fixture
def plain():
    """Twelve upright glyphs in the middle of the picture."""
    g = torch.Generator().manual_seed(3)
    return sample_factors(12, slant=0, rotation=0, shift=0, scale=(0.5, 0.5), generator=g)


def changed(factors, **values):
    like = {name: torch.full_like(getattr(factors, name), v) for name, v in values.items()}
    return dataclasses.replace(factors, **like)


def moments(x):
    """Ink, its centre (rightwards and upwards, from the middle) and covariance, per picture."""
    size = x.shape[-1]
    axis = torch.arange(size) + 0.5 - size / 2
    ys, xs = torch.meshgrid(-axis, axis, indexing="ij")
    weight = x[:, 0].double()
    ink = weight.sum((1, 2))
    points = torch.stack([xs, ys]).flatten(1).double()
    centre = weight.flatten(1) @ points.T / ink[:, None]
    away = points[None] - centre[:, :, None]
    cov = torch.einsum("nap,np,nbp->nab", away, weight.flatten(1), away) / ink[:, None, None]
    return ink, centre, cov


def test_shapes_types_and_levels():
    for colour, channels in ((False, 1), (True, 3)):
        data = load(20, 10, size=24, colour=colour)
        assert data.train.x.shape == (20, channels, 24, 24)
        assert data.test.x.shape == (10, channels, 24, 24)
        for part in (data.train, data.test):
            assert part.x.dtype == torch.float32
            assert part.y.dtype == torch.int64
            assert torch.equal(part.y, part.factors.character)
            levels = part.x * 255
            torch.testing.assert_close(levels, levels.round(), atol=1e-4, rtol=0)
            assert 0 <= float(part.x.min()) < float(part.x.max()) <= 1


def test_parts_share_no_item_whatever_the_seeds():
    test = load(0, 300).test
    for seed in (0, 1):
        train = load(300, 0, seed=seed).train
        rows = {tuple(row) for row in train.x.flatten(1).tolist()}
        assert len(rows) == 300
        assert not rows & {tuple(row) for row in test.x.flatten(1).tolist()}
        poses = torch.stack([train.factors.slant, train.factors.rotation], 1).tolist()
        others = torch.stack([test.factors.slant, test.factors.rotation], 1).tolist()
        assert not {tuple(p) for p in poses} & {tuple(p) for p in others}


def test_the_default_parts_share_no_picture():
    data = load()
    train, test = (
        {row.tobytes() for row in (part.x * 255).round().to(torch.uint8).flatten(1).numpy()}
        for part in (data.train, data.test)
    )
    assert len(train) > 19_990  # distinct poses give distinct pictures
    assert not train & test


def test_the_same_again_and_the_first_items_of_more(cache):
    first = load(30, 10)
    assert len(list(cache.iterdir())) == 1
    cached = load(30, 10)
    next(cache.iterdir()).unlink()
    drawn, more = load(30, 10), load(50, 10)
    for other in (cached, drawn):
        assert torch.equal(first.train.x, other.train.x)
        assert torch.equal(first.test.factors.shift, other.test.factors.shift)
    assert torch.equal(first.train.x, more.train.x[:30])
    assert not torch.equal(first.train.x, load(30, 10, seed=1).train.x)


def test_a_damaged_cache_is_drawn_anew(cache):
    good = load(10, 5)
    file = next(cache.iterdir())
    file.write_bytes(file.read_bytes()[:-100])
    assert torch.equal(load(10, 5).train.x, good.train.x)


def test_a_cache_that_cannot_be_written_warns_and_loses_nothing(tmp_path, monkeypatch):
    blocked = tmp_path / "a_file"
    blocked.write_text("")
    monkeypatch.setenv("GDM_DATA_DIR", str(blocked))
    with pytest.warns(UserWarning, match="set GDM_DATA_DIR to a folder"):
        assert len(load(5, 0).train) == 5


def test_drawing_the_factors_gives_the_pictures():
    part = load(25, 0, colour=True).train
    torch.testing.assert_close(draw(part.factors), part.x, atol=1e-6, rtol=0)


def test_ink_grows_with_the_square_of_the_scale(plain):
    small, _, _ = moments(draw(plain, size=64))
    large, _, _ = moments(draw(changed(plain, scale=0.75), size=64))
    torch.testing.assert_close(large / small, torch.full((12,), 2.25).double(), rtol=0.02, atol=0)


def test_ink_and_its_centre_are_those_of_the_posed_outline():
    """Against the polygon of the outline (Green's theorem), read from the font by another way."""
    size = 64
    factors = sample_factors(
        40, characters="LTZvk71", fonts=[0, 6, 8, 12], generator=torch.Generator().manual_seed(5)
    )
    ink, centre, _ = moments(draw(factors, size=size, characters="LTZvk71"))
    folder = Path(matplotlib.get_data_path(), "fonts", "ttf")
    for i in range(40):
        font = get_font(str(folder / FACES[factors.font[i]].file))
        font.set_size(1000, 72)
        font.load_char(ord("LTZvk71"[factors.character[i]]))
        outline = Outline(*font.get_path())
        (polygon,) = outline.to_polygons(closed_only=True)
        box = outline.get_extents()
        x, y = ((polygon - [(box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2]) / 1000).T
        turn, lean = (math.radians(float(v[i])) for v in (factors.rotation, factors.slant))
        x = x + math.tan(lean) * y
        em = size * float(factors.scale[i])
        x, y = (
            em * (math.cos(turn) * x - math.sin(turn) * y) + size * float(factors.shift[i, 0]),
            em * (math.sin(turn) * x + math.cos(turn) * y) + size * float(factors.shift[i, 1]),
        )
        cross = x[:-1] * y[1:] - x[1:] * y[:-1]
        area = cross.sum() / 2
        middle = [((v[:-1] + v[1:]) * cross).sum() / (6 * area) for v in (x, y)]
        assert float(ink[i]) == pytest.approx(abs(area), rel=0.02)
        assert centre[i].tolist() == pytest.approx(middle, abs=0.05)


def test_the_centre_moves_by_the_shift(plain):
    _, before, _ = moments(draw(plain, size=64))
    shift = torch.tensor([0.1, -0.05])
    _, after, _ = moments(draw(dataclasses.replace(plain, shift=shift.repeat(12, 1)), size=64))
    expected = 64 * shift.double().expand(12, 2)
    torch.testing.assert_close(after - before, expected, atol=0.05, rtol=0)


@pytest.mark.parametrize("degrees", [-20.0, 15.0])
def test_slant_shears_the_ink_by_its_tangent(plain, degrees):
    ink, _, cov = moments(draw(plain, size=64))
    slanted, _, got = moments(draw(changed(plain, slant=degrees), size=64))
    shear = torch.tensor([[1, math.tan(math.radians(degrees))], [0, 1]]).double()
    torch.testing.assert_close(got, shear @ cov @ shear.T, atol=0.25, rtol=0.02)
    torch.testing.assert_close(slanted, ink, rtol=0.01, atol=0)


def test_rotation_is_anticlockwise(plain):
    upright = draw(plain, size=32)
    quarter = draw(changed(plain, rotation=90.0), size=32)
    torch.testing.assert_close(quarter, torch.rot90(upright, 1, (2, 3)), atol=0.02, rtol=0)


def test_bold_has_more_ink_and_italics_lean(plain):
    fonts = {(f.family, f.bold, f.italic): i for i, f in enumerate(FACES)}
    regular, bold, italic = (
        draw(changed(plain, font=fonts["DejaVu Sans", b, i]), size=64)
        for b, i in ((False, False), (True, False), (False, True))
    )
    assert (moments(bold)[0] > 1.15 * moments(regular)[0]).all()
    lean = moments(italic)[2][:, 0, 1] - moments(regular)[2][:, 0, 1]
    assert (lean > 0).all()
    factors = changed(plain, font=fonts["DejaVu Sans", True, True])
    assert factors.weight.eq(1).all()
    assert factors.italic.eq(1).all()
    assert factors.family.eq(0).all()


def test_colours_are_those_of_the_factors_and_can_be_told_apart():
    factors = sample_factors(
        200, colour=True, characters="HIL", generator=torch.Generator().manual_seed(0)
    )
    x = draw(factors, size=64, characters="HIL")
    torch.testing.assert_close(x[:, :, 0, 0], factors.paper, atol=0.5 / 255 + 1e-6, rtol=0)
    # the pixel furthest from the paper's colour is all ink
    far = (x - factors.paper[:, :, None, None]).square().sum(1).flatten(1).argmax(1)
    ink = x.flatten(2)[torch.arange(200), :, far]
    torch.testing.assert_close(ink, factors.ink, atol=0.5 / 255 + 1e-6, rtol=0)
    luminance = torch.tensor([0.299, 0.587, 0.114])
    assert ((factors.ink - factors.paper) @ luminance).abs().min() >= 0.3 - 1e-6


def test_factors_fill_their_ranges_evenly():
    n = 20_000
    f = sample_factors(n, generator=torch.Generator().manual_seed(1))
    for values, low, high in ((f.slant, -15, 15), (f.rotation, -15, 15), (f.scale, 0.55, 0.85)):
        assert float(values.min()) >= low - 1e-5
        assert float(values.max()) <= high + 1e-5
        error = (high - low) / math.sqrt(12 * n)
        assert abs(float(values.mean()) - (low + high) / 2) < 4 * error
    for values, count in ((f.character, len(CHARACTERS)), (f.font, len(FACES))):
        expected = n / count
        chi2 = float(((torch.bincount(values, minlength=count) - expected) ** 2 / expected).sum())
        assert chi2 < count + 5 * math.sqrt(2 * count)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: load(-1), "n_train, n_test and seed must be 0 or more, got -1"),
        (lambda: load(2, 2, size=4), "size must be at least 8 pixels, got 4"),
        (lambda: load(2, 2, characters="AA"), "none twice, got 'AA'"),
        (lambda: load(2, 2, fonts=[99]), r"fonts must be indices from 0 to 20, got \[99\]"),
        (lambda: load(2, 2, slant=95), r"slant must be in \[0, 90\)"),
        (lambda: load(2, 2, scale=(0.9, 0.2)), "0 < least <= most"),
        (lambda: load(2, 2, characters="\u4e2d"), "has no '\u4e2d'; leave one of them out"),
        (
            lambda: draw(sample_factors(4), characters="A"),
            "factors.character must point into the 1 characters",
        ),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_module_draws_what_its_name_says():
    """A capital I in a sans-serif face is a bar: its ink fills its own bounding box."""
    factors = sample_factors(
        1, characters="I", fonts=[0], slant=0, rotation=0, shift=0, scale=(0.8, 0.8)
    )
    picture = glyphs.draw(factors, size=64, characters="I")[0, 0]
    rows, columns = (picture > 0.25).nonzero().T
    box = picture[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    assert float((box > 0.25).float().mean()) == 1
    assert box.shape[0] > 4 * box.shape[1]
