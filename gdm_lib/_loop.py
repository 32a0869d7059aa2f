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
import inspect
import math
import operator
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from tqdm import tqdm

from gdm_lib._batches import Batch, Data, Source, Transform, seed_of, source_of
from gdm_lib._checkpoint import Checkpoint, Kept, agree_on, not_finite, together
from gdm_lib._players import History, NonFiniteLossError, Player
from gdm_lib.nn import learning

__all__ = [
    "Callback",
    "Measure",
    "run",
    "whole",
]

LONGEST = 10**9
"""Steps of a run: a larger number is a slip."""

Measure = Callable[[Any], Mapping[str, float]]
Callback = Callable[[int, Any, History], object]


def run(
    model: nn.Module,
    turns: Sequence[Player],
    data: Data,
    *,
    steps: int | None,
    epochs: int | None,
    batch_size: int | None,
    usual_batch_size: int,
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
        usual_batch_size: if ``batch_size`` is left out and ``data`` makes no batches of its own.
        valid: evaluated by the loss of the only player.
        config: facts of the callers that a checkpoint must agree with to be resumed.
    """
    plain = fabric is None
    fabric = _fabric_of(turns[0].parameters[0].device) if fabric is None else fabric
    if not isinstance(fabric, Fabric):
        raise ValueError(f"fabric must be a lightning_fabric.Fabric, got {fabric!r}")
    rank, world = fabric.global_rank, fabric.world_size
    if world > 1 and not torch.distributed.is_initialized():
        raise ValueError(f"fabric has {world} processes to start: call fabric.launch() before")
    with together(fabric):
        ema, clip_grad_norm = _check_settings(ema, clip_grad_norm, resume, checkpoint)
        _check_callables(schedule=schedule, transform=transform, measure=measure, callback=callback)
        seed = whole("seed", seed)
        valid_every = _interval("valid_every", valid_every)
        measure_every = _interval("measure_every", measure_every)
        callback_every = _interval("callback_every", callback_every)
        checkpoint_every = _interval("checkpoint_every", checkpoint_every)
        accumulate = _at_least_one("accumulate", accumulate, " part")
        given = batch_size is not None
        batch_size = usual_batch_size if batch_size is None else whole("batch_size", batch_size)
        source = source_of(
            *(data, "data"),
            batch_size=batch_size,
            given=given,
            transform=transform,
            seed=seed,
            rank=rank,
            world=world,
            resumable=checkpoint is not None,
        )
        batch_size = source.batch_size
        valid_source = (
            valid
            if valid is None
            else source_of(
                *(valid, "valid"),
                batch_size=batch_size,
                given=given,
                transform=transform,
                seed=seed,
                rank=rank,
                world=world,
            )
        )
        if not isinstance(data, DataLoader):
            _check_batch_size(batch_size, source.items, world, accumulate)
        if world > 1:
            _check_statistics(model, fabric)
        batches = sum(player.new_batch for player in turns)
        epoch_steps = max(1, source.per_epoch // batches)
        total = _count_steps(steps, epochs, epoch_steps)
        for player in turns:
            _check_rates(player)

    players = list({id(player): player for player in turns}.values())
    history = History()
    known: dict[str, Any] = {"seed": seed, "batch_size": batch_size, "items": source.items}
    known |= {"processes": world, "ema": ema, "accumulate": accumulate, "data": source.kind}
    known |= config
    agree_on(fabric, {"steps": total, **known})
    saved = Checkpoint(Path(checkpoint or ""), model, players, fabric, history, known)
    if checkpoint is not None:
        with together(fabric):
            if fabric.is_global_zero:
                saved.check_writable()
    average = None if ema is None else _Average(model, players, ema)
    if average is not None:
        history.ema = average.model.to(fabric.device)
    noise = torch.Generator(fabric.device)

    def load(part: Batch) -> Batch:
        x, *y = (tensor.to(fabric.device) for tensor in part)
        x = x if transform is None else transform(x, noise)
        if not isinstance(x, Tensor):
            raise ValueError(f"transform must return a tensor, got {type(x).__name__}")
        return (_in_kind_of(kind, x), *(_in_kind_of(kind, _label(tensor)) for tensor in y))

    def due(every: int | None) -> bool:
        return step % (every or epoch_steps) == 0 or step == total

    def check_weights(keep: bool) -> None:
        with together(fabric):
            if broken := kept.broken():
                _explain_weights(players, kept, broken, f"After step {step}", history)
        if keep:
            kept.keep(step)

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
        source.given_back(),
        nullcontext() if valid_source is None else valid_source.given_back(),
        _deferred_interrupt() as interrupt,
    ):
        games = {}
        for player in players:
            _let_play(player, players)  # what averages gradients asks now whose these are
            pair = _Loss(model, player), player.optimizer
            # In a plain run Fabric's wrappers would change nothing, and take time at every step.
            games[player.method] = _Game(*(pair if plain else fabric.setup(*pair)))
        if resume:
            with together(fabric):
                state = saved.read(total)
            told = "no file" if state is None else f"step {state.step}, digest {state.digest[:8]}"
            agree_on(fabric, {"checkpoint": told})
            if state is not None:
                with together(fabric):
                    step = saved.load(state)
        kind = turns[0].parameters[0].dtype
        kept = Kept([model] if average is None else [model, average.model])
        kept.step = step
        with together(fabric):
            _check_start(model, players)
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
                    parts = [load(part) for part in source.parts(batch, accumulate)]
                    batch += 1
                game = games[player.method]
                terms = _backward(fabric, player, game, parts, history)
                gradients = [p.grad for p in player.parameters if p.grad is not None]
                exact = clip_grad_norm is not None
                size = get_total_norm(gradients) if exact else _total(gradients)
                # One transfer from the device for all that is logged and checked.
                *values, how_large, stop = _gather(
                    fabric, [*terms.values(), size], interrupt.is_set()
                )
                if not math.isfinite(sum(values)) or not math.isfinite(how_large):
                    found = dict(zip(terms, values, strict=True))
                    _explain_non_finite(
                        fabric, model, players, player, found, parts, kept, step, history
                    )

                if clip_grad_norm is not None:
                    clip_grads_with_norm_(player.parameters, clip_grad_norm, size)
                if schedule is not None:
                    _set_rates(player, schedule, step)
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
            # Several processes must stop after the same step: the one that all of them agreed on.
            stopping = bool(stop) or (world == 1 and interrupt.is_set())
            saving = checkpoint is not None and (stopping or due(checkpoint_every))
            rarely = step & (step - 1) == 0  # a copy costs as much as a part of a step
            looked_at = (valid, valid_every), (measure, measure_every), (callback, callback_every)
            if (
                rarely
                or saving
                or stopping
                or step == total
                or any(what is not None and due(every) for what, every in looked_at)
            ):
                check_weights(keep=rarely or saving)
            if valid_source is not None and due(valid_every):
                with aside("valid"):
                    means = _evaluate(fabric, game.loss, load, valid_source, batch_size)
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
            stopping = bool(stop) or (world == 1 and interrupt.is_set())
            if checkpoint is not None and (stopping or due(checkpoint_every)):
                check_weights(keep=False)  # the callback has had them in its hands
                with together(fabric):
                    if fabric.is_global_zero:
                        saved.save(step)
            line.show(step, history, shown)
    history.interrupted = step < total
    return history


# Arguments


def whole(name: str, value: object) -> int:
    """A whole number that is given as one.

    Raises:
        ValueError: it is given as something else.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(cast(Any, value))
    except TypeError:
        raise ValueError(f"{name} must be a whole number, an int, got {value!r}") from None


def _at_least_one(name: str, value: object, unit: str = "") -> int:
    count = whole(name, value)
    if count < 1:
        raise ValueError(f"{name} must be at least 1{unit}, got {count}")
    return count


def _interval(name: str, every: object) -> int | None:
    return None if every is None else _at_least_one(name, every, " step")


def _number(name: str, value: object) -> float:
    try:
        if isinstance(value, bool | str | bytes):
            raise TypeError
        return float(cast(Any, value))
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise ValueError(f"{name} must be a number, got {value!r}") from None


def _check_batch_size(batch_size: int, items: int, world: int, accumulate: int) -> None:
    if not 1 <= batch_size <= items:
        raise ValueError(
            f"batch_size must lie in 1..{items}, the number of items in data, got {batch_size}"
        )
    if batch_size % (world * accumulate):
        among = f" among {world} processes" if world > 1 else ""
        into = f" into {accumulate} parts" if accumulate > 1 else ""
        raise ValueError(
            f"batch_size must divide evenly{among}{into}, got {batch_size}; give another "
            "batch_size, or accumulate"
        )


def _count_steps(steps: int | None, epochs: int | None, per_epoch: int) -> int:
    if (steps is None) == (epochs is None):
        raise ValueError(f"give either steps or epochs, got steps={steps} and epochs={epochs}")
    if steps is not None:
        total = count = _at_least_one("steps", steps)
    else:
        count = _at_least_one("epochs", epochs)
        total = count * per_epoch
    if total > LONGEST:
        name = "epochs" if steps is None else "steps"
        raise ValueError(f"{name} must be at most {LONGEST // (total // count):,}, got {count:,}")
    return total


def _check_settings(
    ema: float | None, clip_grad_norm: float | None, resume: bool, checkpoint: Path | str | None
) -> tuple[float | None, float | None]:
    ema = None if ema is None else _number("ema", ema)
    if ema is not None and not 0 <= ema < 1:
        raise ValueError(f"ema must lie in [0, 1), got {ema}")
    clip_grad_norm = None if clip_grad_norm is None else _number("clip_grad_norm", clip_grad_norm)
    if clip_grad_norm is not None and not clip_grad_norm > 0:
        raise ValueError(f"clip_grad_norm must be positive, got {clip_grad_norm}")
    if not isinstance(resume, bool):
        raise ValueError(f"resume must be True or False, got {resume!r}")
    if checkpoint is not None and not isinstance(checkpoint, Path | str):
        raise ValueError(f"checkpoint must be a path, got {checkpoint!r}")
    if resume and checkpoint is None:
        raise ValueError("resume needs checkpoint, the file to go on from")
    return ema, clip_grad_norm


def _check_callables(**functions: object) -> None:
    for name, function in functions.items():
        if function is not None and not callable(function):
            raise ValueError(f"{name} must be a function, got {function!r}")


def _check_rates(player: Player) -> None:
    for rate in player.rates:
        if not math.isfinite(float(rate)):
            raise ValueError(f"optimizer must have a finite learning rate, got {float(rate)}")


def _set_rates(player: Player, schedule: Callable[[int], float], step: int) -> None:
    found = schedule(step)
    try:
        factor = float(found)
        fine = all(math.isfinite(float(rate * factor)) for rate in player.rates)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        fine = False
    if not fine:
        raise ValueError(
            f"schedule must return a finite factor on the learning rate, got {found!r} for "
            f"schedule({step}); that step was not taken, and the model keeps the weights of before"
        )
    for group, rate in zip(player.optimizer.param_groups, player.rates, strict=True):
        group["lr"] = rate * factor


def _check_statistics(model: nn.Module, fabric: Fabric) -> None:
    """On several processes a running mean must be that of all of them."""
    batch = nn.modules.batchnorm._BatchNorm
    instance = nn.modules.instancenorm._InstanceNorm
    for name, module in model.named_modules():
        apart = isinstance(module, batch) and not isinstance(module, nn.SyncBatchNorm)
        if apart or (isinstance(module, instance) and module.track_running_stats):
            kind = type(module).__name__
            way = "gdm_lib.bijections.BatchNorm, which shares them"
            if fabric.device.type != "cpu" and apart:
                way = f"nn.SyncBatchNorm.convert_sync_batchnorm(model), or {way}"
            if not apart:
                way = f"{kind} with track_running_stats=False"
            raise ValueError(
                f"model.{name} is an nn.{kind}, whose statistics would be those of one process "
                f"of {fabric.world_size}; take {way}, or train on one process"
            )


def _check_start(model: nn.Module, players: Sequence[Player]) -> None:
    trained = {id(p) for player in players for p in player.parameters}
    names = not_finite((n, p) for n, p in model.named_parameters() if id(p) in trained)
    if names:
        raise ValueError(
            f"model must have finite weights before the first step, and {_listed(names)} is not "
            "finite; build the model anew, or load other weights"
        )


# Data


def _in_kind_of(kind: torch.dtype, tensor: Tensor) -> Tensor:
    """Real numbers in the precision of the weights: NumPy's are in double precision."""
    return tensor.to(kind) if tensor.is_floating_point() and kind.is_floating_point else tensor


def _label(y: Tensor) -> Tensor:
    """Whole numbers are classes, whose type indexes."""
    whole_numbers = not y.is_floating_point() and not y.is_complex() and y.dtype != torch.bool
    return y.long() if whole_numbers else y


# Randomness


def _reseed(noise: torch.Generator, seed: int, stream: str, index: int, rank: int) -> None:
    """Seed the global generators and ``noise``, each its own way."""
    torch.default_generator.manual_seed(seed_of(seed, stream, index, rank))
    if noise.device.type != "cpu":
        torch.get_device_module(noise.device).manual_seed(seed_of(seed, stream, index, rank))
    noise.manual_seed(seed_of(seed, stream + " transform", index, rank))


# One turn


class _Loss(nn.Module):
    """Gradient averaging and autocast act on ``forward``; what is trained is the player's loss."""

    def __init__(self, model: nn.Module, player: Player) -> None:
        super().__init__()
        self.model, self.player = model, player

    def forward(self, x: Tensor, *y: Tensor) -> dict[str, Tensor]:
        with learning(self.model):
            return self.player.loss(x, *y)


class _Game(NamedTuple):
    """A player, as Fabric set it up where the caller gave one."""

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
            terms = _terms(game.loss, part)
            _check_terms(terms, player, history)
            if len(parts) > 1:
                terms = {name: term / len(parts) for name, term in terms.items()}
            fabric.backward(terms["loss"])
        total = {n: total[n] + t.detach() if total else t.detach() for n, t in terms.items()}
    fabric.strategy.precision.unscale_gradients(player.optimizer)
    return total


def _terms(loss: nn.Module, part: Batch) -> Any:
    """What the loss returns; data with labels for a model of none are refused as such."""
    try:
        return loss(*part)
    except (TypeError, ValueError) as error:
        told = str(error)
        refused = told.startswith(("y must be None", "context must be None"))
        if isinstance(error, TypeError):
            inner = cast(_Loss, getattr(loss, "module", loss))  # as Fabric wrapped it, or bare
            method = f"model.{inner.player.method}"
            refused = not _takes_two(getattr(inner.model, inner.player.method))
            told = f"{method} takes no y"
        if len(part) == 1 or not refused:
            raise
        raise ValueError(
            f"{told}; data comes with labels: give its x alone, of a Dataset "
            "torch.stack([x for x, y in data])"
        ) from error


def _takes_two(method: Callable[..., object]) -> bool:
    try:
        inspect.signature(method).bind(None, None)
    except TypeError:
        return False
    except ValueError:  # one without a signature
        pass
    return True


def _total(gradients: Sequence[Tensor]) -> Tensor:
    """Finite, unless a gradient isn't finite or is huge. Cheaper than a norm."""
    return torch.stack([gradient.sum() for gradient in gradients]).sum()


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
    players: Sequence[Player],
    player: Player,
    terms: dict[str, float],
    parts: Sequence[Batch],
    kept: Kept,
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
            return  # only the sum has overflowed
        where = where or [f"the norm of {whose or 'the '}gradient overflows"]
    if broken := kept.broken():
        found = f"In step {step + 1}, {' and '.join(where)}, and before it"
        _explain_weights(players, kept, broken, found, history)
    tensors = [tensor for part in parts for tensor in part]
    if any(t.is_floating_point() and not bool(t.isfinite().all()) for t in tensors):
        advice = "The batch holds such values itself: clean the data, or look at the transform."
    else:
        advice = (
            "The batch is finite: try a smaller learning rate, bound what is exponentiated (of a "
            "MAF by update=bounded_scale), and look for a log of 0 or a division by 0 there."
        )
    left = "The step was not taken: the model keeps the weights of the step before."
    if player.name:
        left = f"The {player.name}'s turn was not taken: the model keeps the weights from before it"
    raise NonFiniteLossError(f"In step {step + 1}, {' and '.join(where)}. {advice} {left}", history)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _explain_weights(
    players: Sequence[Player], kept: Kept, broken: Sequence[str], found: str, history: History
) -> NoReturn:
    """Give the last finite weights back, and say since when and why they aren't any more."""
    groups = [group for player in players for group in player.optimizer.param_groups]
    halves = any(p.dtype == torch.float16 for group in groups for p in group["params"])
    if halves:
        advice = (
            "They are in float16, where an optimizer's eps becomes 0 and 65504 is the largest "
            "number: train in 32 bits, after model.float(), under a Fabric without 16-true."
        )
    elif any(group.get("eps") == 0 for group in groups):
        advice = (
            "The optimizer has eps=0 and divides by 0 where a gradient is 0: leave eps out, or "
            "make it positive, such as 1e-8."
        )
    else:
        advice = "The loss and the gradients were finite: try a smaller learning rate."
    since = f"after step {kept.step}" if kept.step else "before the first step"
    kept.give_back()
    raise NonFiniteLossError(
        f"{found} the weights are not finite any more: {_listed(broken)}. They were last seen to "
        f"be finite {since}, and the model has been given back its weights from then. {advice}",
        history,
    )


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
    load: Callable[[Batch], Batch],
    source: Source,
    batch_size: int,
) -> dict[str, float]:
    """Every term's mean over a whole set, its last and smaller batch weighted as it should be."""
    sums: dict[str, float] = {}
    items = 0
    for count, batch in source.once(batch_size):
        # A process left without an item joins in with weight 0: the others wait for its call.
        terms = loss(*load(batch))
        weight = count * fabric.world_size
        *values, _ = _gather(fabric, [weight * term for term in terms.values()])
        for name, value in zip(terms, values, strict=True):
            sums[name] = sums.get(name, 0.0) + value
        items += count
    items = items if fabric.world_size == 1 else source.items
    return {name: value / items for name, value in sums.items()}


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
