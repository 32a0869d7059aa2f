"""``Sweep`` shows for each point of its parameters what was rendered there."""

import io

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from gdm_lib.viz.style import PAPER
from gdm_lib.widgets.sweep import Sweep
from tests.widgets.test_frames import unpacked


def shade(a, b=0.0):
    """A picture that tells its own parameters."""
    return np.array([[int(a), int(b)]], np.uint8)


def shown(widget):
    """The frame at the values of a widget's controls, found as its script finds it."""
    place = 0
    for one in widget.spec["parameters"]:
        place = place * len(one["items"]) + one["items"].index(widget.values[one["name"]])
    return unpacked(widget.sheet, widget.spec["layout"])[place], widget.spec["says"][place]


def poster(widget):
    return np.asarray(Image.open(io.BytesIO(widget.poster)).convert("RGB"))


def test_every_point_shows_its_own_picture():
    widget = Sweep(shade, {"a": [0, 100, 200], "b": [5, 50, 150, 250]})
    for a in (0, 100, 200):
        for b in (5, 50, 150, 250):
            widget.values = {"a": a, "b": b}
            frame, said = shown(widget)
            assert frame[0, :, 0].tolist() == [a, b]
            assert said == f"a {a}, b {b}."


def test_values_are_the_true_ones_evenly_spaced_or_not():
    widget = Sweep(shade, {"β": np.array([0.5, 1.0, 100.0])}, start={"β": 100.0})
    assert widget.values == {"β": 100.0}
    (parameter,) = widget.spec["parameters"]
    assert parameter["items"] == [0.5, 1.0, 100.0]
    assert parameter["texts"] == ["0.5", "1", "100"]
    assert not parameter["menu"]


def test_texts_and_pairs_get_a_menu():
    widget = Sweep(
        lambda kind, n: shade(len(kind), n), {"kind": ["sine", "cosine", "x"], "n": [1, 2]}
    )
    assert [one["menu"] for one in widget.spec["parameters"]] == [True, True]
    widget.values = {"kind": "cosine", "n": 2}
    assert shown(widget)[0][0, :, 0].tolist() == [6, 2]
    assert shown(widget)[1] == "kind cosine, n 2."


def test_the_still_picture_is_the_one_at_the_start():
    widget = Sweep(shade, {"a": [0, 100, 200]}, start={"a": 200}, describe=lambda a: f"It is {a}.")
    still = poster(widget)
    assert still.shape == (210, 420, 3)
    assert np.array_equal(np.unique(still[:, :210]), [200])
    assert widget._repr_mimebundle_()[0]["text/plain"] == "[widget: It is 200.]"
    assert (widget.spec["width"], widget.spec["aspect"], widget.spec["rows"]) == (420, 2, 1)
    assert widget.spec["alone"]


def test_negative_numbers_have_a_minus_sign():
    widget = Sweep(lambda x: shade(x + 5), {"x": [-1.5, 0, 2]})
    assert widget.spec["says"][0] == "x \N{MINUS SIGN}1.5."


def test_a_figure_takes_the_books_style_and_leaves_nothing_open():
    before = plt.get_fignums(), plt.rcParams["axes.facecolor"]

    def render(slope):
        figure, ax = plt.subplots()
        ax.plot([0, 1], [0, slope])
        return figure

    widget = Sweep(render, {"slope": [1.0, 2.0, 3.0]})
    assert (plt.get_fignums(), plt.rcParams["axes.facecolor"]) == before
    first, second, _ = unpacked(widget.sheet, widget.spec["layout"])
    paper = np.array([int(PAPER[i : i + 2], 16) for i in (1, 3, 5)])
    assert np.abs(first[0, 0] - paper).max() <= 4
    assert not np.array_equal(first, second)
    assert first.shape == (489, 777, 3)
    assert widget.spec["width"] == 518


def test_rendering_keeps_no_gradients_and_equal_pictures_once():
    layer = torch.nn.Linear(1, 4)

    def render(x):
        out = layer(torch.tensor([float(x)])).sigmoid().reshape(1, 2, 2)
        assert not out.requires_grad
        return out if x < 5 else torch.zeros(1, 2, 2)

    widget = Sweep(render, {"x": [1, 5, 6, 7]})
    assert widget.spec["layout"]["index"] == [0, 1, 1, 1]


@pytest.mark.parametrize(
    ("render", "parameters", "options", "said"),
    [
        (shade, {}, {}, r"parameters: expected one or two, got 0 \(none\)"),
        (shade, {n: [1, 2] for n in "abc"}, {}, r"parameters: .* got 3 \(a, b, c\)"),
        (shade, {"a": []}, {}, r"parameters: expected two or more .* 'a', got \[\]"),
        (shade, {"a": [1]}, {}, "parameters: expected two or more"),
        (shade, {"a": [1, 1]}, {}, "parameters: expected two or more different"),
        (shade, {"a": [1, "x"]}, {}, "parameters: .* or texts"),
        (shade, {"a": [1, 2]}, {"start": {"a": 3}}, "start: .* got a = 3"),
        (shade, {"a": [1, 2]}, {"start": {"b": 1}}, "start: .* got b = 1"),
        (
            lambda n: np.zeros((2, int(n)), np.uint8),
            {"n": [1, 2, 3]},
            {},
            r"one size, got \(2, 1\) at n 1 and \(2, 2\) at n 2",
        ),
        (lambda n: torch.full((1, 2, 2), n), {"n": [0, 2]}, {}, r"render at n 2: .*\[0, 1\]"),
        (
            lambda n: np.random.default_rng(n).integers(0, 256, (300, 300, 3), np.uint8),
            {"n": [0, 1]},
            {},
            "render: the frames take 5.*take fewer values",
        ),
    ],
)
def test_bad_input_is_named(render, parameters, options, said):
    with pytest.raises(ValueError, match=said):
        Sweep(render, parameters, **options)
