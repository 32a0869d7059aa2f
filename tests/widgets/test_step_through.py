"""``StepThrough``: what is stored is what happened, and what is said is so."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from gdm_lib.viz.style import COLORS, PALETTE
from gdm_lib.widgets.step_through import StepThrough
from tests.widgets.test_frames import unpacked

EXTENT = (-2.0, 2.0, -1.0, 3.0)


def poster(widget):
    return np.asarray(Image.open(io.BytesIO(widget.poster)).convert("RGB"), int)


def positions(widget):
    """The stored positions, in the plane again."""
    left, right, bottom, top = widget.spec["extent"]
    places = np.frombuffer(widget.places, "<i2").reshape(widget.spec["shape"]) / 32_767
    middle = np.array([left + right, bottom + top]) / 2
    return middle + places * np.array([right - left, top - bottom])


class TestImages:
    def test_each_step_is_stored_at_the_largest_size(self):
        steps = [torch.rand(3, n, n, generator=torch.Generator().manual_seed(n)) for n in (2, 4, 8)]
        widget = StepThrough.images(steps)
        for step, frame in zip(steps, unpacked(widget.sheet, widget.spec["layout"]), strict=True):
            factor = 8 // step.shape[-1]
            expected = torch.kron((step * 255).round(), torch.ones(1, factor, factor))
            assert np.array_equal(frame, expected.permute(1, 2, 0).numpy())

    def test_pixel_by_pixel(self):
        image = (torch.arange(784) % 7 / 7).reshape(1, 28, 28)
        steps = [image * (torch.arange(784) < n).reshape(1, 28, 28) for n in range(785)]
        widget = StepThrough.images(torch.stack(steps))
        frames = unpacked(widget.sheet, widget.spec["layout"])
        assert len(frames) == 785
        assert np.array_equal(frames[400][..., 0], (steps[400][0] * 255).round().numpy())
        assert len(widget.sheet) < 50_000
        assert widget.spec["says"][0][-1] == "Step 784 of 784."

    def test_tracks_follow_one_another(self):
        there = [np.full((2, 2), i, np.uint8) for i in (0, 50, 100)]
        widget = StepThrough.images(
            {"There": there, "Back": there[::-1]}, titles=["a", "b", "c"], start=2
        )
        frames = unpacked(widget.sheet, widget.spec["layout"])
        assert [frame[0, 0, 0] for frame in frames] == [0, 50, 100, 100, 50, 0]
        assert widget.spec["layout"]["index"] == [0, 1, 2, 2, 1, 0]
        assert widget.spec["tracks"] == ["There", "Back"]
        assert widget.spec["says"][1] == [
            "Back, step 0 of 2: a.",
            "Back, step 1 of 2: b.",
            "Back, step 2 of 2: c.",
        ]
        assert widget.values == {"step": 2, "track": 0}
        assert widget.spec["rows"] == 3
        assert np.unique(poster(widget)).tolist() == [100]
        assert widget._repr_mimebundle_()[0]["text/plain"] == "[widget: There, step 2 of 2: c.]"

    def test_one_track_has_no_choice(self):
        widget = StepThrough.images(torch.zeros(2, 1, 4, 4), titles={"": ["x", "y"]})
        assert (widget.values, widget.spec["rows"]) == ({"step": 0}, 2)
        assert widget.spec["says"] == [["Step 0 of 1: x.", "Step 1 of 1: y."]]

    def test_a_title_is_said_once_and_ends_once(self):
        titles = ["step 0", "Step 1", "noise again?", "step 2"]
        widget = StepThrough.images(torch.zeros(4, 1, 4, 4), titles=titles)
        assert widget.spec["says"] == [
            ["Step 0 of 3.", "Step 1 of 3.", "Step 2 of 3: noise again?", "Step 3 of 3: step 2."]
        ]


class TestPoints:
    steps = torch.randn(5, 300, 2, generator=torch.Generator().manual_seed(0)) + torch.tensor(
        [0.0, 1.0]
    )

    def test_positions_are_exact_to_the_documented_bound(self):
        widget = StepThrough.points(self.steps, extent=EXTENT)
        kept = positions(widget)[0]
        near = ((self.steps - torch.tensor([0.0, 1.0])).abs() <= 4).numpy()
        error = np.abs(kept - self.steps.numpy())[near] / 4
        assert error.max() <= 1 / 65_534 * (1 + 1e-6)
        assert error.max() > 1 / 65_534 / 2

    def test_what_is_far_out_stays_out_and_is_counted(self):
        steps = torch.zeros(2, 4, 2)
        steps[1] = torch.tensor([[1e6, 0.0], [0.0, -1e9], [3.0, 0.0], [2.0, 3.0]])
        widget = StepThrough.points(steps, extent=EXTENT)
        assert positions(widget)[0, 1].tolist() == [
            [4.0, pytest.approx(0, abs=1e-4)],
            [pytest.approx(0, abs=1e-4), -3.0],
            [pytest.approx(3, abs=1e-4), pytest.approx(0, abs=1e-4)],
            [pytest.approx(2, abs=1e-4), pytest.approx(3, abs=1e-4)],
        ]
        assert widget.spec["says"][0] == [
            "Step 0 of 1.",
            "Step 1 of 1. 3 of 4 points lie outside the picture.",
        ]
        steps = torch.zeros(2, 3, 2)
        steps[1, 0, 0] = 1e6
        one = StepThrough.points(steps, extent=EXTENT)
        assert one.spec["says"][0][1] == "Step 1 of 1. 1 of 3 points lies outside the picture."

    def test_tracks_are_stored_in_order(self):
        widget = StepThrough.points(
            {"to data": self.steps, "to base": self.steps.flip(0)}, extent=EXTENT
        )
        assert widget.spec["shape"] == [2, 5, 300, 2]
        kept = positions(widget)
        assert np.array_equal(kept[0], kept[1, ::-1])
        assert widget.spec["says"][1][2].startswith("to base, step 2 of 4.")

    def test_classes_and_numbers_have_colours(self):
        classes = torch.arange(300) % 6
        widget = StepThrough.points(self.steps, extent=EXTENT, colours=classes)
        shown = [widget.spec["hues"][i] for i in widget.paint]
        assert shown == [PALETTE[c] for c in classes]
        numbers = torch.linspace(-1, 1, 300)
        widget = StepThrough.points(self.steps, extent=EXTENT, colours=numbers)
        assert list(widget.paint) == sorted(widget.paint)
        assert {*widget.paint} == set(range(len(widget.spec["hues"])))
        plain = StepThrough.points(self.steps, extent=EXTENT)
        assert (plain.spec["hues"], set(plain.paint)) == ([COLORS["model"]], {0})

    def test_the_still_picture_has_the_points_where_they_are(self):
        steps = torch.tensor([[[1.0, 2.0]], [[0.0, 0.0]]])
        widget = StepThrough.points(steps, extent=EXTENT)
        still = poster(widget)
        blue = still[..., 2] - still[..., 0] > 60
        y, x = np.argwhere(blue).mean(0)
        margin, width = widget.spec["margin"], widget.spec["width"]
        inner = width - margin["left"] - margin["right"]
        assert x / 2 + 0.25 == pytest.approx(margin["left"] + 0.75 * inner, abs=0.6)
        assert y / 2 + 0.25 == pytest.approx(margin["top"] + 0.25 * inner, abs=0.6)
        assert still.shape[1] / still.shape[0] == pytest.approx(widget.spec["aspect"], abs=0.01)

    def test_a_large_flow_fits(self):
        widget = StepThrough.points(np.zeros((17, 2000, 2)), extent=EXTENT)
        assert len(widget.places) == 17 * 2000 * 4

    def test_ticks_are_round_and_within(self):
        ticks = StepThrough.points(self.steps, extent=(-0.35, 1.3, -100, 100)).spec["ticks"]
        assert [text for _, text in ticks[0]] == ["0", "0.5", "1"]
        assert [at for at, _ in ticks[1]] == [-100, -50, 0, 50, 100]
        assert ticks[1][0][1] == "\N{MINUS SIGN}100"


ZEROS = torch.zeros(3, 4, 2)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: StepThrough.images([torch.zeros(1, 2, 2)]), "steps: expected two or more.* got 1"),
        (
            lambda: StepThrough.images(
                {"a": torch.zeros(2, 1, 2, 2), "b": torch.zeros(3, 1, 2, 2)}
            ),
            "equally many in each track, got a 2, b 3",
        ),
        (
            lambda: StepThrough.images([torch.zeros(1, 2, 2), torch.zeros(1, 2, 3)]),
            r"same proportions, got \(2, 2\) and \(2, 3\)",
        ),
        (
            lambda: StepThrough.images([torch.zeros(1, 2, 2), torch.ones(1, 2, 2) * 2]),
            r"steps\[1\]: expected values in \[0, 1\], got 2 to 2",
        ),
        (
            lambda: StepThrough.images(torch.zeros(2, 1, 2, 2), titles=["x"]),
            "titles: expected 2 for each track, got {'': 1}",
        ),
        (
            lambda: StepThrough.images(torch.zeros(2, 1, 2, 2), start=2),
            "start: expected a step from 0 to 1, got 2",
        ),
        (
            lambda: StepThrough.images(torch.rand(2, 3, 400, 400)),
            "steps: the frames take .* bytes",
        ),
        (
            lambda: StepThrough.points(torch.zeros(3, 4, 3), extent=EXTENT),
            r"positions \(L \+ 1, N, 2\), got \(3, 4, 3\)",
        ),
        (
            lambda: StepThrough.points(
                ZEROS.clone().index_fill(0, torch.tensor([2]), torch.nan), extent=EXTENT
            ),
            "NaN or infinity in step 2",
        ),
        (lambda: StepThrough.points(ZEROS, extent=(1, 1, 0, 2)), "extent: expected left < right"),
        (
            lambda: StepThrough.points(ZEROS, extent=EXTENT, colours=torch.arange(3)),
            r"colours: expected \(4,\) .* got \(3,\)",
        ),
        (
            lambda: StepThrough.points(ZEROS, extent=EXTENT, colours=torch.arange(4) * 3),
            "colours: expected classes from 0 to 5, got 0 to 9",
        ),
        (
            lambda: StepThrough.points(np.zeros((40, 2000, 2)), extent=EXTENT),
            "steps: 2000 points take 320,000 bytes",
        ),
        (
            lambda: StepThrough.points({"a": ZEROS, "b": torch.zeros(3, 5, 2)}, extent=EXTENT),
            "steps: expected tracks of one shape",
        ),
    ],
)
def test_bad_input_is_named(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_sets_of_pictures_that_grow_keep_their_gaps():
    torch.manual_seed(0)
    large = torch.rand(5, 1, 32, 32)
    steps = [torch.nn.functional.avg_pool2d(large, 32 // side) for side in (4, 8, 32)]
    grown = StepThrough.images(steps)
    same = StepThrough.images([steps[2], steps[2]])
    for name in ("height", "width"):
        assert grown.spec["layout"][name] == same.spec["layout"][name]
