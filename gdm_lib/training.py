"""Fitting a model: one short loop over Lightning Fabric.

Fabric brings devices, mixed precision and several processes; the loop brings what every
run of the book needs: data order and noise that depend on the seed alone, a history, averaged
weights, checkpoints that resume to the same numbers, and a stop that says where a NaN came from.
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
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Adam, Optimizer
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils.data import Dataset, TensorDataset, default_collate
from tqdm import tqdm

from gdm_lib import _tensorfile

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Data", "History", "NonFiniteLossError", "cosine", "fit"]

Data = Tensor | tuple[Tensor, Tensor] | Dataset[Any]
"""``x``, or ``(x, y)``, whose first dimension counts the items; or a map-style ``Dataset``."""


@dataclass
class History:
    """What a run logged: plain lists, one entry for each step or each validation."""

    train: dict[str, list[float]] = field(default_factory=dict)
    """Every term of the loss, by name, on each step's batch (before the step was taken)."""
    train_steps: list[int] = field(default_factory=list)
    """1, 2, 3, ...: the number of steps taken when the entry was logged."""
    valid: dict[str, list[float]] = field(default_factory=dict)
    """Every term on the whole validation set."""
    valid_steps: list[int] = field(default_factory=list)
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
    """A term of the loss, or a gradient, is NaN or infinite. The weights are still those of the
    last good step; ``history`` is the run up to it."""

    def __init__(self, message: str, history: History) -> None:
        super().__init__(message)
        self.history = history


def cosine(steps: int) -> Callable[[int], float]:
    """A ``schedule`` for ``fit``: half a cosine from 1 at step 0 to 0 at step ``steps``.

    Source: Loshchilov and Hutter, *SGDR*, 2016, 1608.03983, equation 5, without restarts.

    Raises:
        ValueError: ``steps`` is below 1.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    return lambda step: 0.5 * (1 + math.cos(math.pi * step / steps))


def fit(
    model: nn.Module,
    data: Data,
    *,
    steps: int | None = None,
    epochs: int | None = None,
    batch_size: int = 128,
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] | None = None,
    schedule: Callable[[int], float] | None = None,
    clip_grad_norm: float | None = None,
    ema: float | None = None,
    transform: Callable[[Tensor, torch.Generator], Tensor] | None = None,
    valid: Data | None = None,
    valid_every: int | None = None,
    callback: Callable[[int, Any, History], object] | None = None,
    callback_every: int | None = None,
    checkpoint: Path | str | None = None,
    checkpoint_every: int | None = None,
    resume: bool = False,
    seed: int = 0,
    fabric: Fabric | None = None,
    progress: bool = True,
) -> History:
    """Minimise ``model.loss`` over ``data``; ``model`` itself is trained, in place.

    Each epoch is a new shuffle cut into whole batches; the few items left over at its end are
    dropped (another shuffle drops others). On several processes each batch is split evenly among
    them and their gradients are averaged, so that the run is the same as on one.

    Everything random follows from ``seed``: the data order from the epoch, and the noise (the
    global generator's while ``model.loss`` runs, and ``transform``'s own) from the step and the
    process. Runs are repeatable bit for bit on one CPU; the caller's generator is left untouched,
    and neither validation nor ``callback`` changes what training does.

    Ctrl-C ends the run after the step at hand, with a history, and with a checkpoint if one was
    asked for; a second Ctrl-C ends it at once and leaves the checkpoint of before.

    Args:
        model: with ``loss(x)`` or ``loss(x, y)`` as in ``gdm_lib.protocols.LikelihoodModel``,
            each term a mean over the batch.
        data: the training set.
        steps: gradient steps in all; give this or ``epochs``.
        epochs: passes over ``data``.
        batch_size: items in a step, over all processes together.
        optimizer: makes the optimizer from the parameters; Adam with learning rate 1e-3 if left
            out.
        schedule: factor on the learning rate for step 0, 1, 2, ..., such as ``cosine(steps)``.
        clip_grad_norm: largest 2-norm of the gradient of all parameters together.
        ema: decay per step of an exponential moving average of the weights, for example 0.999,
            offered as ``history.ema``. It warms up as ``min(ema, t / (t + 9))`` at step
            t = 0, 1, 2, ..., so that the initial weights have no part in it. Buffers are copied.
        transform: makes each batch from ``(x, generator)``: dequantisation, binarisation.
            Runs on the model's device, on validation batches too.
        valid: a set to evaluate the loss on, with the model in eval mode and with the same noise
            each time.
        valid_every: steps from one evaluation to the next; once an epoch if left out. This and
            the two below also happen after the last step.
        callback: called as ``callback(step, model, history)``, on every process, with the model
            in eval mode and the global generator in the same state each time.
        callback_every: steps from one call to the next; once an epoch if left out.
        checkpoint: a ``.safetensors`` file to keep the state of the run in.
        checkpoint_every: steps from one checkpoint to the next; once an epoch if left out.
        resume: go on from ``checkpoint`` if it exists, to the same numbers as without a pause.
            A larger ``steps`` or ``epochs`` than before prolongs the run.
        seed: of everything random in the run.
        fabric: brings device, precision and processes; already launched where there are several.
            If left out: one process, on the device that the model is on, in its own precision.
        progress: show a line that follows the run.

    Returns:
        The history of the run.

    Raises:
        ValueError: an argument doesn't make sense, or ``checkpoint`` is of another run.
        NonFiniteLossError: a term of the loss or a gradient is NaN or infinite.
    """
    items, batch = _reader(data, "data", transform)
    valid_items, valid_batch = (0, batch) if valid is None else _reader(valid, "valid", transform)
    parameters = [p for p in model.parameters() if p.requires_grad]
    _check_model(model, parameters)
    fabric = fabric or _fabric_of(parameters[0].device)
    rank, world = fabric.global_rank, fabric.world_size
    _check_batch_size(batch_size, items, world)
    per_epoch = items // batch_size
    total = _count_steps(steps, epochs, per_epoch)
    _check_intervals(valid_every, callback_every, checkpoint_every)
    if ema is not None and not 0 <= ema < 1:
        raise ValueError(f"ema must lie in [0, 1), got {ema}")
    if clip_grad_norm is not None and not clip_grad_norm > 0:
        raise ValueError(f"clip_grad_norm must be positive, got {clip_grad_norm}")
    if resume and checkpoint is None:
        raise ValueError("resume needs checkpoint, the file to go on from")

    optim = Adam(parameters, lr=1e-3) if optimizer is None else optimizer(parameters)
    rates = [group["lr"] for group in optim.param_groups]
    loss, stepper = fabric.setup(_Loss(model), optim)
    history = History(ema=None if ema is None else _frozen_copy(model))
    config: dict[str, Any] = {"seed": seed, "batch_size": batch_size, "items": items}
    config |= {"processes": world, "ema": ema, "optimizer": type(optim).__name__}
    run = _Checkpoint(Path(checkpoint or ""), model, optim, fabric, history, config)
    noise = torch.Generator(fabric.device)

    @lru_cache(maxsize=1)
    def order(epoch: int) -> Tensor:
        shuffle = torch.Generator().manual_seed(_seed(seed, "order", epoch))
        return torch.randperm(items, generator=shuffle)

    def load(read: _Reader, rows: Tensor) -> tuple[Tensor, ...]:
        x, *y = (part.to(fabric.device) for part in read(rows))
        return (x if transform is None else transform(x, noise), *y)

    def due(every: int | None) -> bool:
        return step % (every or per_epoch) == 0 or step == total

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

    step = run.load() if resume and run.path.exists() else 0
    start = time.perf_counter() - history.seconds
    with (
        _left_as_found(model, fabric.device),
        _Progress(total, 0 if epochs is None else per_epoch, progress and rank == 0) as line,
        _deferred_interrupt() as interrupt,
    ):
        model.train()
        stopping = False
        while step < total and not stopping:
            _reseed(noise, seed, "step", step, rank)
            rows = order(step // per_epoch)[step % per_epoch * batch_size :][:batch_size]
            inputs = load(batch, rows.chunk(world)[rank])

            optim.zero_grad()
            terms = loss(*inputs)
            _check_terms(terms, history.train)
            fabric.backward(terms["loss"])
            fabric.strategy.precision.unscale_gradients(optim)
            norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
            # One transfer from the device for all that is logged and checked.
            *logged, grad_norm, stop = _gather(fabric, [*terms.values(), norm], interrupt.is_set())
            if not math.isfinite(sum(logged)) or not math.isfinite(grad_norm):
                _explain_non_finite(
                    fabric, model, dict(zip(terms, logged, strict=True)), inputs, step, history
                )

            if clip_grad_norm is not None:
                clip_grads_with_norm_(parameters, clip_grad_norm, norm)
            if schedule is not None:
                for group, rate in zip(optim.param_groups, rates, strict=True):
                    group["lr"] = rate * schedule(step)
            stepper.step()
            if history.ema is not None:
                _average(history.ema, model, min(cast(float, ema), step / (step + 9)))

            step += 1
            history.train_steps.append(step)
            _log(history.train, terms, logged)
            if valid is not None and due(valid_every):
                with aside("valid"):
                    means = _evaluate(fabric, loss, load, valid_batch, valid_items, batch_size)
                    history.valid_steps.append(step)
                    _log(history.valid, means, means.values())
            history.seconds = time.perf_counter() - start
            if callback is not None and due(callback_every):
                with aside("callback"):
                    callback(step, model, history)
            # Several processes must stop after the same step: the one that all of them agreed on.
            stopping = bool(stop) or (world == 1 and interrupt.is_set())
            if checkpoint is not None and (stopping or due(checkpoint_every)):
                run.save(step)
            line.show(step, history)
    history.interrupted = step < total
    return history


# Arguments


def _check_model(model: nn.Module, parameters: list[nn.Parameter]) -> None:
    if not callable(getattr(model, "loss", None)):
        raise ValueError(f"model must have a method loss(x, y=None), {type(model).__name__} hasn't")
    if not parameters:
        raise ValueError("model must have parameters that require gradients, it has none")


def _check_batch_size(batch_size: int, items: int, world: int) -> None:
    if not 1 <= batch_size <= items:
        raise ValueError(
            f"batch_size must lie in 1..{items}, the number of items in data, got {batch_size}"
        )
    if batch_size % world:
        raise ValueError(f"batch_size must divide evenly among {world} processes, got {batch_size}")


def _count_steps(steps: int | None, epochs: int | None, per_epoch: int) -> int:
    for name, count in (("steps", steps), ("epochs", epochs)):
        if count is not None and count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}")
    if steps is not None and epochs is None:
        return steps
    if epochs is not None and steps is None:
        return epochs * per_epoch
    raise ValueError(f"give either steps or epochs, got steps={steps} and epochs={epochs}")


def _check_intervals(valid: int | None, callback: int | None, checkpoint: int | None) -> None:
    names = ("valid_every", "callback_every", "checkpoint_every")
    for name, every in zip(names, (valid, callback, checkpoint), strict=True):
        if every is not None and every < 1:
            raise ValueError(f"{name} must be at least 1 step, got {every}")


# Data

_Reader = Callable[[Tensor], tuple[Tensor, ...]]


def _reader(
    data: Data, name: str, transform: Callable[[Tensor, torch.Generator], Tensor] | None
) -> tuple[int, _Reader]:
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


# One step


class _Loss(nn.Module):
    """Gradient averaging and autocast act on ``forward``; what is trained is ``loss``."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, *y: Tensor) -> dict[str, Tensor]:
        return self.model.loss(x, *y)  # type: ignore[operator]


def _fabric_of(device: torch.device) -> Fabric:
    """One process on the device given, in the precision that the model has."""
    if device.type == "cpu":
        return Fabric(accelerator="cpu", devices=1)
    return Fabric(accelerator=device.type, devices=[device.index or 0])


def _check_terms(terms: object, known: dict[str, list[float]]) -> None:
    if not isinstance(terms, dict) or "loss" not in terms:
        got = f"the keys {list(terms)}" if isinstance(terms, dict) else type(terms).__name__
        raise ValueError(f'model.loss must return a dict with a term "loss", got {got}')
    for name, term in terms.items():
        if not isinstance(term, Tensor) or term.ndim:
            got = f"shape {tuple(term.shape)}" if isinstance(term, Tensor) else repr(term)
            raise ValueError(f'term "{name}" of model.loss must be a scalar tensor, got {got}')
    if not terms["loss"].requires_grad:
        raise ValueError('term "loss" of model.loss must depend on the parameters, it does not')
    if known and terms.keys() != known.keys():
        raise ValueError(
            f"model.loss must return the same terms at every step, got {list(terms)} "
            f"after {list(known)}"
        )


def _gather(fabric: Fabric, scalars: list[Tensor], stop: bool = False) -> list[float]:
    """Scalars as numbers, averaged over the processes, and whether any process wants to stop."""
    row = torch.stack([s.detach().to(fabric.device) for s in scalars])
    if fabric.world_size == 1:
        return [*row.tolist(), stop]
    row = torch.cat([row, row.new_tensor([float(stop)])])
    return cast(Tensor, fabric.all_reduce(row, reduce_op="mean")).tolist()


def _log(log: dict[str, list[float]], names: Iterable[str], values: Iterable[float]) -> None:
    for name, value in zip(names, values, strict=True):
        log.setdefault(name, []).append(value)


def _explain_non_finite(
    fabric: Fabric,
    model: nn.Module,
    terms: dict[str, float],
    inputs: tuple[Tensor, ...],
    step: int,
    history: History,
) -> None:
    """Say which term or gradient isn't finite, and what may be the reason."""
    where = [
        f'term "{name}" is {value}' for name, value in terms.items() if not math.isfinite(value)
    ]
    if not where:
        if getattr(fabric.strategy.precision, "scaler", None) is not None:
            return  # 16-bit training overflows by design now and then; the scaler skips the step
        where = [
            f"the gradient of {name} is not finite"
            for name, p in model.named_parameters()
            if p.grad is not None and not bool(p.grad.isfinite().all())
        ]
        where = where[:3] or ["the norm of the gradient overflows"]
    if any(t.is_floating_point() and not bool(t.isfinite().all()) for t in inputs):
        advice = "The batch holds such values itself: clean the data, or look at the transform."
    else:
        advice = (
            "The batch is finite: try a smaller learning rate or clip_grad_norm, and look for a "
            "log of 0, a division by 0 or an exp of a large number there."
        )
    raise NonFiniteLossError(
        f"In step {step + 1}, {' and '.join(where)}. {advice} "
        "The step was not taken: the model keeps the weights of the step before.",
        history,
    )


def _frozen_copy(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).eval().requires_grad_(False)


@torch.no_grad()
def _average(averaged: nn.Module, model: nn.Module, decay: float) -> None:
    get_ema_multi_avg_fn(decay)(
        list(averaged.parameters()), [p.detach() for p in model.parameters()], 0
    )
    for old, new in zip(averaged.buffers(), model.buffers(), strict=True):
        old.copy_(new)


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
    optimizer: Optimizer
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
        for index, state in self.optimizer.state_dict()["state"].items():
            for name, value in state.items():
                key = f"optimizer.{index}.{name}"
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
        state: dict[int, dict[str, Any]] = {}
        values = parts["optimizer"] | {
            k.partition(".")[2]: v for k, v in record["optimizer"].items()
        }
        for key, value in values.items():
            index, _, name = key.partition(".")
            state.setdefault(int(index), {})[name] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        self.fabric.strategy.precision.load_state_dict(record["precision"])
        vars(self.history).update(record["history"] | {"ema": self.history.ema})
        return record["step"]


# The keyboard and the screen


@contextmanager
def _left_as_found(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Give back the global generators and each module's mode; leave no gradients."""
    modes = [(module, module.training) for module in model.modules()]
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            model.zero_grad()
            for module, training in modes:
                module.training = training


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

    def show(self, step: int, history: History) -> None:
        if not self.enabled:
            return
        done, total, unit = step, self.total, "step"
        if self.per_epoch:
            done, total, unit = -(-step // self.per_epoch), total // self.per_epoch, "epoch"
        self.text = f"{unit} {done}/{total}  loss {history.train['loss'][-1]:.4g}"
        if history.valid:
            self.text += f"  valid {history.valid['loss'][-1]:.4g}"
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
