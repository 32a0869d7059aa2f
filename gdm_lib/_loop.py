"""The loop behind ``gdm_lib.training``: what every run of the book needs, whoever plays in it.

A *player* is one loss of a model together with the parameters that it trains and their optimizer.
A step is one or more *turns*, each of one player: a likelihood has one turn a step, an adversarial
model some of its critic and one of its generator. While one plays, nobody else's parameters ask
for gradients.

Lightning Fabric brings devices, mixed precision and several processes. The loop brings data order
and noise that depend on the seed alone, a history, averaged weights, checkpoints that resume to the
same numbers, and a stop that says where a NaN came from.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils.data import Dataset, TensorDataset, default_collate
from tqdm import tqdm

from gdm_lib import _tensorfile

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "Callback",
    "Data",
    "History",
    "Measure",
    "NonFiniteLossError",
    "Player",
    "Transform",
    "run",
]

Data = Tensor | tuple[Tensor, Tensor] | Dataset[Any]
"""``x``, or ``(x, y)``, whose first dimension counts the items; or a map-style ``Dataset``."""

Transform = Callable[[Tensor, torch.Generator], Tensor]
Measure = Callable[[Any], Mapping[str, float]]
Callback = Callable[[int, Any, "History"], object]


@dataclass
class History:
    """What a run logged: plain lists, one entry for each step, validation or measurement.

    With several players the terms of ``train`` begin with the player's name: ``generator loss``.
    """

    train: dict[str, list[float]] = field(default_factory=dict)
    """Every term of the loss, by name, on each step's batch (before the step was taken). A player
    with several turns a step is logged on its last one."""
    train_steps: list[int] = field(default_factory=list)
    """1, 2, 3, ...: the number of steps taken when the entry was logged."""
    valid: dict[str, list[float]] = field(default_factory=dict)
    """Every term on the whole validation set."""
    valid_steps: list[int] = field(default_factory=list)
    measured: dict[str, list[float]] = field(default_factory=dict)
    """What ``measure`` returned, by name."""
    measured_steps: list[int] = field(default_factory=list)
    seconds: float = 0.0
    """Wall-clock time of the run, summed over resumed parts."""
    interrupted: bool = False
    """True: stopped by the keyboard before its last step."""
    ema: nn.Module | None = None
    """A copy of the model that carries the averaged weights, in eval mode; ``None`` without."""

    def plot(self, *terms: str, ax: Axes | None = None) -> Axes:
        """Draw the curves of the terms named, or of all (``gdm_lib.viz.training_curves``)."""
        from gdm_lib import viz  # a run without pictures does without matplotlib

        return viz.training_curves(self, terms or tuple(self.train), ax=ax)


class NonFiniteLossError(FloatingPointError):
    """A term of the loss, or a gradient, is NaN or infinite. The weights are still those from
    before the turn in which it came up; ``history`` is the run up to the step before."""

    def __init__(self, message: str, history: History) -> None:
        super().__init__(message)
        self.history = history


@dataclass
class Player:
    """One loss of a model, and what it trains.

    Attributes:
        method: the name of the loss, for messages: ``loss``, ``generator_loss``.
        loss: called with a batch, ``x`` or ``x, y``; returns scalar terms, ``"loss"`` among them.
        parameters: what it trains.
        optimizer: of these parameters.
        name: stands before its terms in the history; empty for a player that is alone.
        new_batch: whether its turn takes a batch of its own, or that of the turn before.
        averaged: whether the moving average follows its parameters; others are copied.
        after: called after each step of its optimizer, with gradients off.
    """

    method: str
    loss: Callable[..., dict[str, Tensor]]
    parameters: list[nn.Parameter]
    optimizer: Optimizer
    name: str = ""
    new_batch: bool = True
    averaged: bool = True
    after: Callable[[], object] | None = None

    def __post_init__(self) -> None:
        self.rates = [group["lr"] for group in self.optimizer.param_groups]

    def title(self, term: str) -> str:
        """The name of a term in the history."""
        return f"{self.name} {term}" if self.name else term


def run(
    model: nn.Module,
    turns: Sequence[Player],
    data: Data,
    *,
    steps: int | None,
    epochs: int | None,
    batch_size: int,
    accumulate: int,
    schedule: Callable[[int], float] | None,
    clip_grad_norm: float | None,
    ema: float | None,
    transform: Transform | None,
    valid: Data | None,
    valid_every: int | None,
    measure: Measure | None,
    measure_every: int | None,
    callback: Callback | None,
    callback_every: int | None,
    checkpoint: Path | str | None,
    checkpoint_every: int | None,
    resume: bool,
    seed: int,
    fabric: Fabric | None,
    progress: bool,
    config: Mapping[str, object],
) -> History:
    """Train ``model`` in place, and return the history of it.

    Args are those of ``training.fit`` and ``training.fit_adversarial``, but for

    Args:
        turns: of one step, in order; a player with several stands there several times.
        valid: evaluated by the loss of the only player.
        config: facts of the callers that a checkpoint must agree with to be resumed.
    """
    _check_settings(ema, clip_grad_norm, resume, checkpoint)
    _check_intervals(
        valid_every=valid_every,
        measure_every=measure_every,
        callback_every=callback_every,
        checkpoint_every=checkpoint_every,
    )
    items, read = _reader(data, "data", transform)
    valid_items, valid_read = (0, read) if valid is None else _reader(valid, "valid", transform)
    fabric = fabric or _fabric_of(turns[0].parameters[0].device)
    rank, world = fabric.global_rank, fabric.world_size
    _check_batch_size(batch_size, items, world, accumulate)
    batches = sum(player.new_batch for player in turns)
    per_epoch = items // batch_size
    epoch_steps = max(1, per_epoch // batches)
    total = _count_steps(steps, epochs, epoch_steps)

    players = list({id(player): player for player in turns}.values())
    history = History()
    known: dict[str, Any] = {"seed": seed, "batch_size": batch_size, "items": items}
    known |= {"processes": world, "ema": ema, "accumulate": accumulate, **config}
    saved = _Checkpoint(Path(checkpoint or ""), model, players, fabric, history, known)
    average = None if ema is None else _Average(model, players, ema)
    if average is not None:
        history.ema = average.model
    noise = torch.Generator(fabric.device)

    @lru_cache(maxsize=1)
    def order(epoch: int) -> Tensor:
        shuffle = torch.Generator().manual_seed(_seed(seed, "order", epoch))
        return torch.randperm(items, generator=shuffle)

    def rows_of(batch: int) -> Tensor:
        place = batch % per_epoch * batch_size
        return order(batch // per_epoch)[place : place + batch_size].chunk(world)[rank]

    def load(read: _Reader, rows: Tensor) -> tuple[Tensor, ...]:
        x, *y = (part.to(fabric.device) for part in read(rows))
        return (x if transform is None else transform(x, noise), *y)

    def due(every: int | None) -> bool:
        return step % (every or epoch_steps) == 0 or step == total

    @contextmanager
    def aside(stream: str) -> Iterator[None]:
        _reseed(noise, seed, stream, 0, rank)
        model.eval()
        try:
            yield
        except KeyboardInterrupt:
            interrupt.set()
        finally:
            model.train()

    step = 0
    shown = [player.title("loss") for player in players]
    with (
        _left_as_found(model, fabric.device),
        _Progress(total, 0 if epochs is None else epoch_steps, progress and rank == 0) as line,
        _deferred_interrupt() as interrupt,
    ):
        games = {}
        for player in players:
            _let_play(player, players)  # what averages gradients asks now whose these are
            games[player.method] = _Game(*fabric.setup(_Loss(model, player), player.optimizer))
        if resume and saved.path.exists():
            step = saved.load()
        start = time.perf_counter() - history.seconds
        model.train()
        stopping = False
        while step < total and not stopping:
            logged: dict[str, float] = {}
            batch = step * batches
            for turn, player in enumerate(turns, step * len(turns)):
                _let_play(player, players)
                _reseed(noise, seed, "step", turn, rank)
                if player.new_batch:
                    parts = [load(read, part) for part in rows_of(batch).chunk(accumulate)]
                    batch += 1
                game = games[player.method]
                terms = _backward(fabric, player, game, parts, history)
                gradients = [p.grad for p in player.parameters if p.grad is not None]
                exact = clip_grad_norm is not None
                size = get_total_norm(gradients) if exact else _sum_of_squares(gradients)
                # One transfer from the device for all that is logged and checked.
                *values, how_large, stop = _gather(
                    fabric, [*terms.values(), size], interrupt.is_set()
                )
                if not math.isfinite(sum(values)) or not math.isfinite(how_large):
                    found = dict(zip(terms, values, strict=True))
                    _explain_non_finite(fabric, model, player, found, parts, step, history)

                if clip_grad_norm is not None:
                    clip_grads_with_norm_(player.parameters, clip_grad_norm, size)
                if schedule is not None:
                    groups = player.optimizer.param_groups
                    for group, rate in zip(groups, player.rates, strict=True):
                        group["lr"] = rate * schedule(step)
                game.stepper.step()
                if player.after is not None:
                    with torch.no_grad():
                        player.after()
                logged |= dict(zip(map(player.title, terms), values, strict=True))
            if average is not None:
                average.follow(step)

            step += 1
            history.train_steps.append(step)
            _log(history.train, logged)
            if valid is not None and due(valid_every):
                with aside("valid"):
                    means = _evaluate(fabric, game.loss, load, valid_read, valid_items, batch_size)
                    history.valid_steps.append(step)
                    _log(history.valid, means)
            if measure is not None and due(measure_every):
                with aside("measure"):
                    numbers = _measured(fabric, measure, history.ema or model, history)
                    history.measured_steps.append(step)
                    _log(history.measured, numbers)
            history.seconds = time.perf_counter() - start
            if callback is not None and due(callback_every):
                with aside("callback"):
                    callback(step, model, history)
            # Several processes must stop after the same step: the one that all of them agreed on.
            stopping = bool(stop) or (world == 1 and interrupt.is_set())
            if checkpoint is not None and (stopping or due(checkpoint_every)):
                saved.save(step)
            line.show(step, history, shown)
    history.interrupted = step < total
    return history


# Arguments


def _check_batch_size(batch_size: int, items: int, world: int, accumulate: int) -> None:
    if not 1 <= batch_size <= items:
        raise ValueError(
            f"batch_size must lie in 1..{items}, the number of items in data, got {batch_size}"
        )
    if accumulate < 1:
        raise ValueError(f"accumulate must be at least 1 part, got {accumulate}")
    if batch_size % (world * accumulate):
        among = f" among {world} processes" if world > 1 else ""
        into = f" into {accumulate} parts" if accumulate > 1 else ""
        raise ValueError(f"batch_size must divide evenly{among}{into}, got {batch_size}")


def _count_steps(steps: int | None, epochs: int | None, per_epoch: int) -> int:
    for name, count in (("steps", steps), ("epochs", epochs)):
        if count is not None and count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}")
    if steps is not None and epochs is None:
        return steps
    if epochs is not None and steps is None:
        return epochs * per_epoch
    raise ValueError(f"give either steps or epochs, got steps={steps} and epochs={epochs}")


def _check_settings(
    ema: float | None, clip_grad_norm: float | None, resume: bool, checkpoint: Path | str | None
) -> None:
    if ema is not None and not 0 <= ema < 1:
        raise ValueError(f"ema must lie in [0, 1), got {ema}")
    if clip_grad_norm is not None and not clip_grad_norm > 0:
        raise ValueError(f"clip_grad_norm must be positive, got {clip_grad_norm}")
    if resume and checkpoint is None:
        raise ValueError("resume needs checkpoint, the file to go on from")


def _check_intervals(**intervals: int | None) -> None:
    for name, every in intervals.items():
        if every is not None and every < 1:
            raise ValueError(f"{name} must be at least 1 step, got {every}")


# Data

_Reader = Callable[[Tensor], tuple[Tensor, ...]]


def _reader(data: Data, name: str, transform: Transform | None) -> tuple[int, _Reader]:
    """The number of items, and what reads the batch of given rows."""
    if isinstance(data, TensorDataset):
        data = cast("tuple[Tensor, Tensor]", data.tensors)
    if isinstance(data, Dataset):
        dataset = cast(Any, data)
        if not hasattr(dataset, "__len__"):
            raise ValueError(
                f"{name} must be a map-style Dataset with a length, got an iterable one"
            )

        def read(rows: Tensor) -> tuple[Tensor, ...]:
            batch = default_collate([dataset[i] for i in rows.tolist()])
            return (batch,) if isinstance(batch, Tensor) else tuple(batch)

        items, dtype = len(dataset), None
    else:
        tensors = tuple(data) if isinstance(data, tuple | list) else (data,)
        if not 1 <= len(tensors) <= 2 or not all(isinstance(t, Tensor) for t in tensors):
            kinds = ", ".join(type(t).__name__ for t in tensors)
            raise ValueError(
                f"{name} must be a tensor x or a pair of tensors (x, y), got ({kinds})"
            )
        shapes = " and ".join(str(tuple(t.shape)) for t in tensors)
        if any(t.ndim == 0 or len(t) != len(tensors[0]) for t in tensors):
            raise ValueError(f"{name}: x and y must have the same first dimension, got {shapes}")

        def read(rows: Tensor) -> tuple[Tensor, ...]:
            return tuple(t[rows.to(t.device)] for t in tensors)

        items, dtype = len(tensors[0]), tensors[0].dtype
    if items == 0:
        raise ValueError(f"{name} must have at least one item, got none")
    if dtype == torch.uint8 and transform is None:
        raise ValueError(f"{name} holds bytes; take x / 255, or give a transform that does")
    return items, read


# Randomness


def _seed(seed: int, stream: str, index: int, rank: int = 0) -> int:
    """Hashed, so that neither streams nor neighbouring seeds share their numbers."""
    digest = hashlib.blake2b(f"{seed} {stream} {index} {rank}".encode(), digest_size=7).digest()
    return int.from_bytes(digest, "big")


def _reseed(noise: torch.Generator, seed: int, stream: str, index: int, rank: int) -> None:
    """Seed the global generators and ``noise``, each its own way."""
    torch.default_generator.manual_seed(_seed(seed, stream, index, rank))
    if noise.device.type != "cpu":
        torch.get_device_module(noise.device).manual_seed(_seed(seed, stream, index, rank))
    noise.manual_seed(_seed(seed, stream + " transform", index, rank))


# One turn


class _Loss(nn.Module):
    """Gradient averaging and autocast act on ``forward``; what is trained is the player's loss."""

    def __init__(self, model: nn.Module, player: Player) -> None:
        super().__init__()
        self.model, self.player = model, player

    def forward(self, x: Tensor, *y: Tensor) -> dict[str, Tensor]:
        return self.player.loss(x, *y)


class _Game(NamedTuple):
    """A player as Fabric set it up."""

    loss: nn.Module
    stepper: Optimizer


@lru_cache(maxsize=8)
def _fabric_of(device: torch.device) -> Fabric:
    """One process on the device given, in the precision that the model has.

    Kept, since making one searches all installed packages for callbacks.
    """
    if device.type == "cpu":
        return Fabric(accelerator="cpu", devices=1)
    return Fabric(accelerator=device.type, devices=[device.index or 0])


def _let_play(player: Player, players: Sequence[Player]) -> None:
    """Its parameters ask for gradients, and those of all others for none."""
    if len(players) == 1:
        return
    for other in players:
        for parameter in other.parameters:
            parameter.requires_grad_(False)
    for parameter in player.parameters:
        parameter.requires_grad_(True)


def _backward(
    fabric: Fabric,
    player: Player,
    game: _Game,
    parts: Sequence[tuple[Tensor, ...]],
    history: History,
) -> dict[str, Tensor]:
    """Gradients of the loss over a batch given in parts; returns its terms."""
    player.optimizer.zero_grad()
    total: dict[str, Tensor] = {}
    for number, part in enumerate(parts, 1):
        wait = fabric.world_size > 1 and number < len(parts)  # processes average once, at the end
        with fabric.no_backward_sync(cast(Any, game.loss)) if wait else nullcontext():
            terms = game.loss(*part)
            _check_terms(terms, player, history)
            if len(parts) > 1:
                terms = {name: term / len(parts) for name, term in terms.items()}
            fabric.backward(terms["loss"])
        total = {n: total[n] + t.detach() if total else t.detach() for n, t in terms.items()}
    fabric.strategy.precision.unscale_gradients(player.optimizer)
    return total


def _sum_of_squares(gradients: Sequence[Tensor]) -> Tensor:
    """Finite, unless a gradient isn't finite or is huge. Half as dear as the norm."""
    flat = [gradient.reshape(-1) for gradient in gradients]
    return torch.stack([torch.dot(g, g) for g in flat]).sum()


def _check_terms(terms: object, player: Player, history: History) -> None:
    what = f"model.{player.method}"
    if not isinstance(terms, dict) or "loss" not in terms:
        got = f"the keys {list(terms)}" if isinstance(terms, dict) else type(terms).__name__
        raise ValueError(f'{what} must return a dict with a term "loss", got {got}')
    for name, term in terms.items():
        if not isinstance(term, Tensor) or term.ndim:
            got = f"shape {tuple(term.shape)}" if isinstance(term, Tensor) else repr(term)
            raise ValueError(f'term "{name}" of {what} must be a scalar tensor, got {got}')
    if not terms["loss"].requires_grad:
        whose = f"the {player.name}'s" if player.name else "the"
        raise ValueError(f'term "loss" of {what} must depend on {whose} parameters, it does not')
    known = [name for name in history.train if name.startswith(player.title(""))]
    if known and {player.title(name) for name in terms} != set(known):
        before = [name.removeprefix(player.title("")) for name in known]
        raise ValueError(
            f"{what} must return the same terms at every step, got {list(terms)} after {before}"
        )


def _gather(fabric: Fabric, scalars: list[Tensor], stop: bool = False) -> list[float]:
    """Scalars as numbers, averaged over the processes, and whether any process wants to stop."""
    row = torch.stack([s.detach().to(fabric.device) for s in scalars])
    if fabric.world_size == 1:
        return [*row.tolist(), stop]
    row = torch.cat([row, row.new_tensor([float(stop)])])
    return cast(Tensor, fabric.all_reduce(row, reduce_op="mean")).tolist()


def _log(log: dict[str, list[float]], values: Mapping[str, float]) -> None:
    for name, value in values.items():
        log.setdefault(name, []).append(value)


def _explain_non_finite(
    fabric: Fabric,
    model: nn.Module,
    player: Player,
    terms: dict[str, float],
    parts: Sequence[tuple[Tensor, ...]],
    step: int,
    history: History,
) -> None:
    """Say which term or gradient isn't finite, and what may be the reason."""
    whose = f"the {player.name}'s " if player.name else ""
    where = [
        f'{whose}term "{name}" is {value}'
        for name, value in terms.items()
        if not math.isfinite(value)
    ]
    if not where:
        if getattr(fabric.strategy.precision, "scaler", None) is not None:
            return  # 16-bit training overflows by design now and then; the scaler skips the step
        mine = {id(p) for p in player.parameters if p.grad is not None}
        gradients = {n: cast(Tensor, p.grad) for n, p in model.named_parameters() if id(p) in mine}
        where = [
            f"{whose or 'the '}gradient of {name} is not finite"
            for name, gradient in gradients.items()
            if not bool(gradient.isfinite().all())
        ][:3]
        if not where and bool(get_total_norm(gradients.values()).isfinite()):
            return  # only the sum of squares has overflowed
        where = where or [f"the norm of {whose or 'the '}gradient overflows"]
    tensors = [tensor for part in parts for tensor in part]
    if any(t.is_floating_point() and not bool(t.isfinite().all()) for t in tensors):
        advice = "The batch holds such values itself: clean the data, or look at the transform."
    else:
        advice = (
            "The batch is finite: try a smaller learning rate or clip_grad_norm, and look for a "
            "log of 0, a division by 0 or an exp of a large number there."
        )
    kept = "The step was not taken: the model keeps the weights of the step before."
    if player.name:
        kept = f"The {player.name}'s turn was not taken: the model keeps the weights from before it"
    raise NonFiniteLossError(f"In step {step + 1}, {' and '.join(where)}. {advice} {kept}", history)


class _Average:
    """A copy of the model whose weights are a moving average of those of its players.

    Buffers, and the weights of players that aren't averaged, are copied.
    """

    def __init__(self, model: nn.Module, players: Sequence[Player], decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        moving = {id(p) for player in players if player.averaged for p in player.parameters}
        pairs: list[tuple[Tensor, Tensor]]
        pairs = list(zip(self.model.parameters(), model.parameters(), strict=True))
        self.moving = [(mine, theirs) for mine, theirs in pairs if id(theirs) in moving]
        self.copied = [(mine, theirs) for mine, theirs in pairs if id(theirs) not in moving]
        self.copied += zip(self.model.buffers(), model.buffers(), strict=True)

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """After step ``step`` = 0, 1, 2, ...; the initial weights have no part in it."""
        mine, theirs = zip(*self.moving, strict=True)
        current = [parameter.detach() for parameter in theirs]
        get_ema_multi_avg_fn(min(self.decay, step / (step + 9)))(list(mine), current, 0)
        for old, new in self.copied:
            old.copy_(new)


def _measured(
    fabric: Fabric, measure: Measure, model: nn.Module, history: History
) -> dict[str, float]:
    """What ``measure`` says, the mean over the processes."""
    with torch.no_grad():
        found = measure(model)
    numbers = isinstance(found, Mapping) and all(
        isinstance(value, int | float) or (isinstance(value, Tensor) and value.ndim == 0)
        for value in found.values()
    )
    if not numbers:
        raise ValueError(f"measure must return a dict of numbers by name, got {found!r}")
    if history.measured and found.keys() != history.measured.keys():
        raise ValueError(
            f"measure must return the same names each time, got {list(found)} after "
            f"{list(history.measured)}"
        )
    if fabric.world_size == 1:
        return {name: float(value) for name, value in found.items()}
    row = torch.tensor([float(value) for value in found.values()], device=fabric.device)
    means = cast(Tensor, fabric.all_reduce(row, reduce_op="mean")).tolist()
    return dict(zip(found, means, strict=True))


@torch.no_grad()
def _evaluate(
    fabric: Fabric,
    loss: nn.Module,
    load: Callable[[_Reader, Tensor], tuple[Tensor, ...]],
    read: _Reader,
    items: int,
    batch_size: int,
) -> dict[str, float]:
    """Every term's mean over a whole set, its last and smaller batch weighted as it should be."""
    sums: dict[str, float] = {}
    for rows in torch.arange(items).split(batch_size):
        mine = rows[fabric.global_rank :: fabric.world_size]
        # A process left without an item joins in with weight 0: the others wait for its call.
        terms = loss(*load(read, mine if len(mine) else rows[:1]))
        weight = len(mine) * fabric.world_size
        *values, _ = _gather(fabric, [weight * term for term in terms.values()])
        for name, value in zip(terms, values, strict=True):
            sums[name] = sums.get(name, 0.0) + value
    return {name: value / items for name, value in sums.items()}


# Checkpoints


@dataclass
class _Checkpoint:
    """The state of a run in one file. Random numbers need none: they follow from the step."""

    path: Path
    model: nn.Module
    players: Sequence[Player]
    fabric: Fabric
    history: History
    config: dict[str, Any]

    def save(self, step: int) -> None:
        if not self.fabric.is_global_zero:
            return
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        if self.history.ema is not None:
            tensors |= {f"ema.{k}": v for k, v in self.history.ema.state_dict().items()}
        numbers: dict[str, Any] = {}
        for number, player in enumerate(self.players):
            for index, state in player.optimizer.state_dict()["state"].items():
                for name, value in state.items():
                    key = f"optimizer.{number}.{index}.{name}"
                    (tensors if isinstance(value, Tensor) else numbers)[key] = value
        logged = vars(self.history) | {"ema": None, "interrupted": False}
        record = {"step": step, "config": self.config, "history": logged, "optimizer": numbers}
        record["precision"] = self.fabric.strategy.precision.state_dict()
        _tensorfile.write(self.path, tensors, {"gdm_lib.training": json.dumps(record)})

    def load(self) -> int:
        """Put everything back as it was; returns the number of steps taken."""
        tensors, metadata = _tensorfile.read(self.path)
        if "gdm_lib.training" not in metadata:
            raise ValueError(f"checkpoint {self.path} was not written by gdm_lib.training")
        record = json.loads(metadata["gdm_lib.training"])
        for name, value in self.config.items():
            if record["config"].get(name) != value:
                raise ValueError(
                    f"checkpoint {self.path} is of another run: {name} was "
                    f"{record['config'].get(name)} there and is {value} now; "
                    "give the same value, another file, or resume=False"
                )
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "ema": {}, "optimizer": {}}
        for key, tensor in tensors.items():
            part, _, name = key.partition(".")
            parts[part][name] = tensor
        _tensorfile.load_state(self.model, parts["model"], self.path)
        if self.history.ema is not None:
            _tensorfile.load_state(self.history.ema, parts["ema"], self.path)
        states: list[dict[int, dict[str, Any]]] = [{} for _ in self.players]
        numbers = {key.partition(".")[2]: value for key, value in record["optimizer"].items()}
        for key, value in {**parts["optimizer"], **numbers}.items():
            number, index, name = key.split(".", 2)
            states[int(number)].setdefault(int(index), {})[name] = value
        for player, state in zip(self.players, states, strict=True):
            groups = player.optimizer.state_dict()["param_groups"]
            player.optimizer.load_state_dict({"state": state, "param_groups": groups})
        self.fabric.strategy.precision.load_state_dict(record["precision"])
        vars(self.history).update(record["history"] | {"ema": self.history.ema})
        return record["step"]


# The keyboard and the screen


@contextmanager
def _left_as_found(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Give back the global generators, each module's mode and what asked for gradients; leave no
    gradients."""
    modes = [(module, module.training) for module in model.modules()]
    asked = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            model.zero_grad()
            for module, training in modes:
                module.training = training
            for parameter, asks in asked:
                parameter.requires_grad_(asks)


@contextmanager
def _deferred_interrupt() -> Iterator[threading.Event]:
    """Let the first Ctrl-C only set the event, so that it never cuts a step in two."""
    event = threading.Event()
    previous = signal.getsignal(signal.SIGINT)
    ours = threading.current_thread() is threading.main_thread() and callable(previous)

    def first(signum: int, frame: object) -> None:
        event.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    if ours:
        signal.signal(signal.SIGINT, first)
    try:
        yield event
    except KeyboardInterrupt:
        event.set()
    finally:
        if ours:
            signal.signal(signal.SIGINT, previous)


class _Progress:
    """One line that follows the run: a bar on a terminal, in a notebook a text that is replaced
    in place (so that what is stored is its last state), elsewhere only the last state."""

    def __init__(self, total: int, per_epoch: int, enabled: bool) -> None:
        self.total, self.per_epoch, self.enabled = total, per_epoch, enabled
        self.start = self.shown = time.perf_counter()
        self.text = ""
        self.display: Any = None
        self.terminal = sys.stderr.isatty()

    def __enter__(self) -> _Progress:
        if self.enabled and (ipython := sys.modules.get("IPython")) is not None:
            shell = ipython.get_ipython()
            if shell is not None and hasattr(shell, "kernel"):
                from IPython.display import display

                self.display = display({"text/plain": " "}, raw=True, display_id=True)
        return self

    def show(self, step: int, history: History, terms: Sequence[str]) -> None:
        if not self.enabled:
            return
        done, total, unit = step, self.total, "step"
        if self.per_epoch:
            done, total, unit = -(-step // self.per_epoch), total // self.per_epoch, "epoch"
        told = "  ".join(f"{term} {history.train[term][-1]:.4g}" for term in terms)
        self.text = f"{unit} {done}/{total}  {told}"
        if history.valid:
            self.text += f"  valid {history.valid['loss'][-1]:.4g}"
        for name, values in list(history.measured.items())[:1]:
            self.text += f"  {name} {values[-1]:.4g}"
        now = time.perf_counter()
        if now - self.shown > 0.2:
            self.shown = now
            bar = "{desc} [{bar:20}] {elapsed}<{remaining}"
            self._write(
                tqdm.format_meter(
                    *(step, self.total, now - self.start),
                    ascii=True,
                    prefix=self.text,
                    bar_format=bar,
                )
            )

    def __exit__(self, *error: object) -> None:
        if self.text:
            self._write(f"{self.text}  {time.perf_counter() - self.start:.1f} s", last=True)

    def _write(self, text: str, last: bool = False) -> None:
        if self.display is not None:
            self.display.update({"text/plain": text}, raw=True)
        elif self.terminal:
            print(f"\r{text:<80}", end="\n" if last else "", file=sys.stderr, flush=True)
        elif last:
            print(text)
