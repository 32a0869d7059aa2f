"""``Playground2D``: watch a model of points in the plane learn, and go on training it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
import torch
from matplotlib import font_manager
from PIL import Image, ImageColor, ImageDraw, ImageFont
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from gdm_lib.viz.style import COLORS, INK, PAPER
from gdm_lib.widgets._base import Widget, buffer, counted, script
from gdm_lib.widgets._frames import held, pack

__all__ = ["Playground2D"]

GRID = 64
"""Cells along each side of the density."""

ARROWS = 15
"""Arrows along each side of the field."""

POINTS = 250
"""Samples shown, and items of the data."""

SIDE, STRIP, GAP = 340, 84, 8
"""The plane, the loss below it and the room between, in CSS pixels."""

FULL = 32767

ADAM = partial(Adam, lr=1e-3)

LogDensity = Callable[[Any, Tensor], Tensor]
Sampler = Callable[[Any, int], Tensor]
Field = Callable[[Any, Tensor], Tensor]
Step = Callable[[Tensor], float]


class Playground2D(Widget):
    """Training in the plane, to play, pause, step, scrub through and begin anew.

    The first ``record`` pictures are made at once, and a page without kernel plays those. In
    JupyterLab the kernel goes on from there: the script asks for a picture, the kernel takes
    ``every`` training steps and answers, and between two pictures it is free for cells.

    Args:
        make: makes an untrained model.
        data: ``(N, 2)``.
        optimizer: makes the optimizer of ``model.loss(batch)["loss"]`` from the parameters.
        trainer: instead of that, for models that train otherwise: gets the model, returns a
            function that takes a training step on a batch ``(B, 2)`` and returns the loss.
        density: the model and points ``(G, 2)`` to log-densities ``(G,)``. By default
            ``model.log_prob`` if there is one; ``False`` for none.
        sample: the model and a number to samples ``(n, 2)``. By default ``model.sample``.
        field: the model and points ``(G, 2)`` to vectors ``(G, 2)``, such as a displacement or
            the gradient of a critic; by default there is none.
        batch_size: of the batches, drawn with replacement.
        every: training steps from one picture to the next. Choose it so that they take less than
            a tenth of a second: so long a cell may wait.
        record: pictures made at once.
        extent: the plane is shown from ``-extent`` to ``extent``.
        seed: of the first model and its batches. The global generator is left as it was.

    Raises:
        ValueError: ``data`` of another shape or not finite, ``every``, ``record`` or
            ``batch_size`` below 1, an empty plane, nothing to show, or a recording too large to
            store.
        FloatingPointError: the loss became NaN or infinite while recording.
    """

    _esm = script("playground2d")

    sheet = buffer()
    """The recorded densities: 255 is the largest of each picture. High values of y on top."""

    track = buffer()
    """Recorded samples and fields, 16-bit integers: of samples, ``FULL`` is 1.05 times ``extent``;
    of a field, the longest vector of each picture."""

    points = buffer()
    """Some items of the data, 16-bit integers like the samples."""

    def __init__(
        self,
        make: Callable[[], nn.Module],
        data: Tensor,
        *,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] = ADAM,
        trainer: Callable[[Any], Step] | None = None,
        density: LogDensity | bool = True,
        sample: Sampler | None = None,
        field: Field | None = None,
        batch_size: int = 256,
        every: int = 25,
        record: int = 40,
        extent: float = 4.0,
        seed: int = 0,
    ) -> None:
        data = data.detach().cpu().float()
        if data.dim() != 2 or data.shape[1] != 2 or not len(data) or not data.isfinite().all():
            raise ValueError(f"data: expected finite points (N, 2), got {tuple(data.shape)}")
        if min(every, record, batch_size) < 1:
            raise ValueError(
                f"every, record, batch_size: expected at least 1, got every={every}, "
                f"record={record}, batch_size={batch_size}"
            )
        if not 0 < extent < math.inf:
            raise ValueError(f"extent: expected more than 0, got {extent}")
        self._make, self._data, self._batch_size = make, data, batch_size
        self._trainer = trainer or partial(_minimise, optimizer=optimizer)
        self._every, self._extent, self._first_seed = every, float(extent), seed
        self._begin(seed)
        self._density: LogDensity | None = None
        if callable(density):
            self._density = density
        elif density and hasattr(self.model, "log_prob"):
            self._density = _log_prob
        self._sample = sample or (_sample if hasattr(self.model, "sample") else None)
        self._field = field
        views = {"density": self._density, "samples": self._sample, "field": field}
        names = [name for name, function in views.items() if function]
        if not names:
            raise ValueError(
                "density, sample, field: expected one at least; the model has neither log_prob "
                "nor sample"
            )

        shots = [self._shot()]
        for _ in range(record):
            self._train()
            shots.append(self._shot())
        sheet, layout = pack([shot["density"] for shot in shots])
        track = np.concatenate([shot["rest"] for shot in shots]).astype("<i2").tobytes()
        held(sheet + track, "record")
        shown = data[torch.linspace(0, len(data) - 1, min(len(data), POINTS)).long()]
        points = _quantised(shown.numpy(), extent)
        spec = {
            "views": names,
            "layout": layout,
            "steps": [shot["step"] for shot in shots],
            "losses": [shot["loss"] for shot in shots],
            "counts": [POINTS if self._sample else 0, ARROWS**2 if field else 0],
            "extent": extent,
            "arrows": ARROWS,
            "strip": [SIDE, STRIP],
            "seed": seed,
            "shades": (_shades() * 255).round().astype(int).flatten().tolist(),
        }
        super().__init__(
            spec,
            width=SIDE,
            aspect=SIDE / (SIDE + GAP + STRIP),
            rows=2 + (len(names) > 1),
            poster=_poster(shots, names[0], points, self._sample is not None),
            alt=f"{names[0].capitalize()} after {counted(shots[-1]['step'], 'training step')}, "
            "with the data; below, the loss.",
            values={"picture": record, **({"show": 0} if len(names) > 1 else {})},
            functions={"advance": self._advance},
            sheet=sheet,
            track=track,
            points=points.astype("<i2").tobytes(),
        )

    def _begin(self, seed: int) -> None:
        """A fresh model."""
        self._seed = seed
        self._left = -1  # the step that the picture before this one showed
        self.losses: list[float] = []
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.model = self._make()
            self._step = self._trainer(self.model)
            self._random = torch.get_rng_state()

    @property
    def steps(self) -> int:
        """Training steps that ``model`` has taken."""
        return len(self.losses)

    def _train(self) -> None:
        """Take the steps to the next picture."""
        self._left = self.steps
        with torch.random.fork_rng(), torch.enable_grad():
            torch.set_rng_state(self._random)
            for _ in range(self._every):
                batch = self._data[torch.randint(len(self._data), (self._batch_size,))]
                loss = self._step(batch)
                if not math.isfinite(loss):
                    raise FloatingPointError(
                        f"the loss is {loss} in step {self.steps + 1}: reset, and take a smaller "
                        "step size"
                    )
                self.losses.append(loss)
            self._random = torch.get_rng_state()

    def _advance(self, asked: Tensor) -> Tensor:
        """For the script: the next picture of the run with a seed, from the step it has seen.

        Args:
            asked: seed and step; a step below 0 begins a run and shows its untrained model. Who
                asks again, having not heard the answer, gets the same picture.

        Returns:
            Step and loss (NaN before the first step), the density's levels, and the rest of the
            picture as 16-bit integers.
        """
        seed, step = (int(value) for value in asked)
        if step < 0:
            self._begin(seed)
        elif (seed, step) == (self._seed, self.steps):
            self._train()
        elif (seed, step) != (self._seed, self._left):
            raise ValueError("another view has trained this model on; press Reset to begin anew")
        shot = self._shot()
        loss = math.nan if shot["loss"] is None else shot["loss"]
        parts = [[shot["step"], loss], shot["density"].ravel(), shot["rest"]]
        return torch.from_numpy(np.concatenate(parts).astype(np.float32))

    def _shot(self) -> dict[str, Any]:
        """What one picture shows, as integers."""
        last = self.losses[-self._every :]
        density = np.zeros((GRID, GRID), np.uint8)
        rest = [np.zeros(0, np.int16)]
        with torch.random.fork_rng():
            torch.manual_seed(0)  # the same noise in every picture, so that only the model moves
            if self._density:
                with torch.no_grad():
                    log_p = self._density(self.model, _cells(GRID, self._extent)).float()
                # No density at all, or an infinite one, is painted too.
                top = log_p.nan_to_num(-1e30).max().clamp(-1e30, 1e30)
                levels = (log_p - top).exp().nan_to_num(0.0) * 255
                density = levels.round().clamp(0, 255).byte().reshape(GRID, GRID).cpu().numpy()
            if self._sample:
                with torch.no_grad():
                    rest.append(_quantised(self._sample(self.model, POINTS), self._extent).ravel())
            if self._field:
                with torch.enable_grad():  # a field may be a gradient
                    vectors = self._field(self.model, _cells(ARROWS, self._extent)).detach()
                rest.append(_directions(vectors).ravel())
        mean = float(np.mean(last)) if last else math.nan
        return {
            "step": self.steps,
            "loss": None if math.isnan(mean) else mean,
            "density": density,
            "rest": np.concatenate(rest),
        }


def _minimise(
    model: Any, optimizer: Callable[[Iterable[nn.Parameter]], Optimizer]
) -> Callable[[Tensor], float]:
    made = optimizer(model.parameters())

    def step(batch: Tensor) -> float:
        made.zero_grad()
        loss = model.loss(batch)["loss"]
        if loss.isfinite():  # else the model keeps what it has learned
            loss.backward()
            made.step()
        return float(loss.detach())

    return step


def _log_prob(model: Any, points: Tensor) -> Tensor:
    log_p: Tensor = model.log_prob(points)
    return log_p


def _sample(model: Any, n: int) -> Tensor:
    points: Tensor = model.sample(n)
    return points


def _cells(n: int, extent: float) -> Tensor:
    """The middles of the cells of a grid, ``(n * n, 2)``, row by row from the top."""
    at = ((2 * torch.arange(n) + 1) / n - 1) * extent
    y, x = torch.meshgrid(-at, at, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], 1)


def _quantised(values: Tensor | np.ndarray, extent: float) -> np.ndarray:
    """Points as 16-bit integers; what is out of sight stays just out of sight."""
    numbers = np.nan_to_num(np.asarray(values, np.float64) / (1.05 * extent), nan=1.0)
    return (np.clip(numbers, -1, 1) * FULL).round().astype(np.int16)


def _directions(vectors: Tensor) -> np.ndarray:
    """Vectors as 16-bit integers, whatever their length; none where they are not finite."""
    numbers = np.asarray(vectors.cpu(), np.float64)
    numbers = np.where(np.isfinite(numbers).all(1, keepdims=True), numbers, 0.0)
    longest = np.linalg.norm(numbers, axis=1).max()
    return (numbers / (longest or 1.0) * FULL).round().astype(np.int16)


def _shades() -> np.ndarray:
    """Colours of the density, ``(256, 3)`` in [0, 1]: from the paper to the model's blue."""
    paper, blue = (np.array(ImageColor.getrgb(c)) / 255 for c in (PAPER, COLORS["model"]))
    t = np.linspace(0, 1, 256)[:, None] ** 0.6
    return (1 - t) * paper + t * blue


def _poster(
    shots: list[dict[str, Any]], view: str, points: np.ndarray, sampled: bool
) -> np.ndarray:
    """The last picture, as the script paints it; drawn three times as large, for smooth edges."""
    shot, k = shots[-1], 3
    side, top, bottom = k * SIDE, k * (SIDE + GAP), k * (SIDE + GAP + STRIP)
    sheet = Image.new("RGB", (side, bottom), PAPER)
    if view == "density":
        shades = (_shades()[shot["density"]] * 255).round().astype(np.uint8)
        sheet.paste(Image.fromarray(shades).resize((side, side), Image.Resampling.BILINEAR))

    def dots(places: np.ndarray, colour: str, radius: float, opacity: float) -> None:
        mask = Image.new("L", (side, side))
        draw = ImageDraw.Draw(mask)
        for x, y in places.reshape(-1, 2) * 1.05 / FULL:
            across, down, r = (1 + x) * side / 2, (1 - y) * side / 2, k * radius
            draw.ellipse((across - r, down - r, across + r, down + r), round(255 * opacity))
        sheet.paste(colour, (0, 0), mask)

    dots(points, INK, 1.3, 0.55 if view == "density" else 0.35)
    if view == "samples" and sampled:
        dots(shot["rest"][: 2 * POINTS], COLORS["model"], 1.9, 1.0)
    draw = ImageDraw.Draw(sheet)
    places = {s["step"]: s["loss"] for s in shots if s["loss"] is not None}
    low, high, last = min(places.values()), max(places.values()), shot["step"]
    draw.line(
        [
            (
                k * (10 + (SIDE - 20) * step / last),
                top + k * (20 + (STRIP - 30) * (high - loss) / (high - low or 1)),
            )
            for step, loss in places.items()
        ],
        COLORS["bound"],
        2 * k,
    )
    end = side - 10 * k
    draw.line([(end, top + 18 * k), (end, bottom - 6 * k)], INK, k)
    font = ImageFont.truetype(font_manager.findfont("DejaVu Sans"), 10 * k)
    draw.text((10 * k, top + 13 * k), "loss", INK, font, anchor="ls")
    draw.text((end, top + 13 * k), f"step {last}", INK, font, anchor="rs")
    return np.asarray(sheet.resize((SIDE, SIDE + GAP + STRIP), Image.Resampling.BOX))
