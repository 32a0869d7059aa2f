"""The playground's training is plain training, and what it stores is what the model says."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam

from gdm_lib.widgets.playground2d import ARROWS, FULL, GRID, POINTS, Playground2D
from tests.widgets.test_frames import unpacked


class Blob(nn.Module):
    """A Gaussian of unit variance whose mean is learnt."""

    def __init__(self, start=(0.0, 0.0)):
        super().__init__()
        self.mean = nn.Parameter(torch.tensor(start) + 0.1 * torch.randn(2))

    def log_prob(self, x):
        return -((x - self.mean) ** 2).sum(1) / 2 - math.log(2 * math.pi)

    def loss(self, x):
        noise = torch.randn(len(x), 2)  # from the global generator, as models do
        return {"loss": -self.log_prob(x + 0.01 * noise).mean()}

    def sample(self, n):
        return self.mean + torch.randn(n, 2)


DATA = torch.tensor([[1.0, -2.0]]) + 0.1 * torch.randn(
    500, 2, generator=torch.Generator().manual_seed(0)
)


def playground(make=Blob, data=DATA, **options):
    options = {"every": 3, "record": 4, "optimizer": partial(SGD, lr=0.05), **options}
    return Playground2D(make, data, **options)


def by_hand(steps, seed):
    """The same training in a bare loop."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Blob()
        optimizer = SGD(model.parameters(), lr=0.05)
        losses = []
        for _ in range(steps):
            batch = DATA[torch.randint(len(DATA), (256,))]
            optimizer.zero_grad()
            loss = model.loss(batch)["loss"]
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
    return model, losses


def shot(widget, seed, step):
    answer = widget.answer("advance", [[seed, step]])
    area = GRID * GRID
    return answer[0], answer[1], answer[2 : 2 + area].reshape(GRID, GRID), answer[2 + area :]


def recorded(widget, i):
    levels = unpacked(widget.sheet, widget.spec["layout"])[i][..., 0].astype(int)
    length = 2 * sum(widget.spec["counts"])
    track = np.frombuffer(widget.track, "<i2")
    return levels, track[i * length : (i + 1) * length]


def test_training_is_that_of_a_bare_loop_to_the_last_bit():
    widget = playground(seed=5)
    model, losses = by_hand(12, seed=5)
    assert widget.steps == 12
    assert widget.losses == losses
    assert torch.equal(widget.model.mean, model.mean)
    step, loss, _, _ = shot(widget, 5, 12)
    model, losses = by_hand(15, seed=5)
    assert step == 15
    assert loss == pytest.approx(np.mean(losses[-3:]), rel=1e-6)
    assert torch.equal(widget.model.mean, model.mean)


def test_what_was_recorded_is_what_the_kernel_gives_at_the_same_step():
    widget = playground(field=lambda model, points: model.mean - points)
    assert widget.spec["steps"] == [0, 3, 6, 9, 12]
    assert widget.spec["losses"][0] is None
    step = -1
    for i in range(5):
        step, loss, levels, rest = shot(widget, 0, step)
        assert step == widget.spec["steps"][i]
        if i:
            assert loss == pytest.approx(widget.spec["losses"][i], rel=1e-6)
        else:
            assert math.isnan(loss)
        stored, track = recorded(widget, i)
        assert np.array_equal(levels, stored)
        assert np.array_equal(rest, track)


def test_another_seed_is_another_run_and_the_same_one_repeats_it():
    widget = playground()
    first = [shot(widget, 7, step)[2] for step in (-1, 0, 3)]
    again = [shot(widget, 7, step)[2] for step in (-1, 0, 3)]
    other = [shot(widget, 8, step)[2] for step in (-1, 0, 3)]
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_an_answer_that_was_not_heard_is_given_again():
    widget = playground()
    step, loss, levels, rest = shot(widget, 0, 12)
    again = shot(widget, 0, 12)
    assert (step, loss) == again[:2]
    assert np.array_equal(levels, again[2])
    assert np.array_equal(rest, again[3])
    assert widget.steps == 15
    assert widget.losses == by_hand(15, seed=0)[1]


def test_a_view_that_was_left_behind_is_told():
    widget = playground()
    shot(widget, 0, 12)
    shot(widget, 0, 15)
    with pytest.raises(ValueError, match="another view has trained this model on; press Reset"):
        shot(widget, 0, 12)
    with pytest.raises(ValueError, match="another view has trained this model on; press Reset"):
        shot(widget, 1, 15)
    assert widget.steps == 18


def test_the_density_shown_is_the_models():
    widget = playground(lambda: Blob((1.0, -2.0)), record=1, extent=4.0)
    levels, _ = recorded(widget, 1)
    cell = 8 / GRID
    x = (np.arange(GRID) + 0.5) * cell - 4
    mean = widget.model.mean.detach().numpy()
    # The top row is the largest y.
    exact = np.exp(-((x[None] - mean[0]) ** 2 + (-x[:, None] - mean[1]) ** 2) / 2)
    assert np.abs(levels - 255 * exact / exact.max()).max() <= 0.51
    # And it integrates to one, to the rounding and to what lies outside.
    peak = exact.max() / (2 * math.pi)
    assert levels.sum() / 255 * peak * cell**2 == pytest.approx(1, abs=0.03)


def test_samples_and_field_are_the_models_to_the_rounding():
    widget = playground(field=lambda model, points: 0.5 * points, record=1, extent=3.0)
    _, track = recorded(widget, 1)
    unit = 1.05 * 3.0 / FULL
    field = track[2 * POINTS :].reshape(ARROWS, ARROWS, 2) / FULL
    at = (2 * np.arange(ARROWS) + 1) / ARROWS - 1
    longest = math.hypot(at[0], at[0])
    assert np.abs(field[..., 0] - at[None] / longest).max() <= 1 / FULL
    assert np.abs(field[..., 1] + at[:, None] / longest).max() <= 1 / FULL
    samples = track[: 2 * POINTS].reshape(-1, 2) * unit
    with torch.random.fork_rng():
        torch.manual_seed(0)
        with torch.no_grad():
            exact = widget.model.sample(POINTS).numpy()
    seen = np.abs(exact) < 3
    assert np.abs(samples - exact)[seen].max() <= unit


def test_a_field_keeps_its_directions_however_long_it_is():
    small, large = (
        recorded(playground(field=lambda model, points, k=k: k * points.flip(1), record=1), 1)[1]
        for k in (1e-8, 1e8)
    )
    assert np.array_equal(small, large)
    broken = playground(
        field=lambda model, points: points / (points[:, :1] > 0).float() * 1e300, record=1
    )
    assert np.isin(recorded(broken, 1)[1][2 * POINTS :], 0).all()


def test_a_field_may_be_a_gradient_in_the_kernel_too():
    def uphill(model, points):
        points.requires_grad_()
        return torch.autograd.grad(model.log_prob(points).sum(), points)[0]

    widget = playground(field=uphill)
    straight = playground(field=lambda model, points: model.mean - points)
    assert np.array_equal(shot(widget, 0, 12)[3], shot(straight, 0, 12)[3])


def test_samples_that_are_not_finite_are_out_of_sight():
    places = torch.tensor([[torch.inf, 0.0], [-torch.inf, 0.0], [torch.nan, 0.0], [1e30, 0.0]])
    widget = playground(sample=lambda model, n: places.repeat(n // 4 + 1, 1)[:n])
    track = recorded(widget, 0)[1].reshape(-1, 2)
    assert track[:4].tolist() == [[FULL, 0], [-FULL, 0], [FULL, 0], [FULL, 0]]


def test_the_data_shown_are_the_data():
    points = np.frombuffer(playground(extent=4.0).points, "<i2").reshape(-1, 2) * 4.2 / FULL
    assert len(points) == POINTS
    assert np.abs(points[0] - DATA[0].numpy()).max() < 4.2 / FULL
    assert np.abs(points[-1] - DATA[-1].numpy()).max() < 4.2 / FULL


def test_the_global_generator_is_left_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    widget = playground()
    shot(widget, 0, 12)
    shot(widget, 4, -1)
    assert torch.equal(before, torch.get_rng_state())


def test_a_trainer_of_ones_own():
    seen = []

    def trainer(model):
        optimizer = Adam(model.parameters(), lr=0.1)

        def step(batch):
            assert batch.shape == (32, 2)
            optimizer.zero_grad()
            ((model.mean - batch.mean(0)) ** 2).sum().backward()
            optimizer.step()
            seen.append(1)
            return 0.25

        return step

    widget = playground(trainer=trainer, batch_size=32)
    assert len(seen) == 12
    assert widget.losses == [0.25] * 12


def test_only_what_the_model_has_is_offered():
    class Bare(nn.Module):
        mean = nn.Parameter(torch.zeros(2))

    trainer = lambda model: lambda batch: 1.0  # noqa: E731
    field = lambda model, points: points  # noqa: E731
    widget = playground(Bare, trainer=trainer, field=field)
    assert widget.spec["views"] == ["field"]
    assert widget.spec["rows"] == 2
    assert set(widget.values) == {"picture"}
    assert playground(density=False).spec["views"] == ["samples"]
    assert playground().spec["views"] == ["density", "samples"]
    assert playground().spec["rows"] == 3
    with pytest.raises(ValueError, match="density, sample, field: expected one at least"):
        playground(Bare, trainer=trainer)


def test_a_loss_that_is_not_a_number_stops_and_keeps_what_was_learned():
    widget = playground()
    mean = widget.model.mean.detach().clone()
    widget._step = lambda batch: math.nan
    with pytest.raises(FloatingPointError, match="the loss is nan in step 13: reset"):
        shot(widget, 0, 12)
    assert torch.equal(widget.model.mean, mean)
    model = playground().model  # the step of its own
    widget = playground(lambda: model)
    mean = model.mean.detach().clone()
    model.loss = lambda batch: {"loss": (model.mean * math.nan).sum()}
    for _ in range(2):
        with pytest.raises(FloatingPointError, match="the loss is nan in step 13: reset"):
            shot(widget, 0, 12)
    assert torch.equal(model.mean, mean)
    with pytest.raises(FloatingPointError):
        playground(trainer=lambda model: lambda batch: math.inf)


def test_a_density_that_is_nowhere_or_infinite_is_painted_and_does_not_fail():
    nowhere = playground(density=lambda model, points: torch.full((len(points),), -torch.inf))
    assert recorded(nowhere, 0)[0].max() == 0
    spike = playground(
        density=lambda model, points: torch.where(points[:, 0] > 3.9, torch.inf, 0.0)
    )
    assert recorded(spike, 0)[0].max() == 255
    assert recorded(spike, 0)[0][:, 0].max() == 0


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"data: expected finite points \(N, 2\), got \(5, 3\)"):
        playground(data=torch.zeros(5, 3))
    with pytest.raises(ValueError, match="data: expected finite points"):
        playground(data=torch.full((5, 2), math.nan))
    for name in ("every", "record", "batch_size"):
        with pytest.raises(ValueError, match=f"at least 1, got .*{name}=0"):
            playground(**{name: 0})
    for extent in (0, -1, math.nan, math.inf):
        with pytest.raises(ValueError, match=f"extent: expected more than 0, got {extent}"):
            playground(extent=extent)
    with pytest.raises(ValueError, match=r"record: the frames take 3\d\d,\d{3} bytes, and"):
        playground(record=300, every=1)


def test_the_still_picture_is_the_last():
    widget = playground(lambda: Blob((1.0, -2.0)))
    assert widget.values == {"picture": 4, "show": 0}
    assert widget._alt.startswith("Density after 12 training steps")
    assert widget.spec["alone"]
