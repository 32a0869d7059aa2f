"""Fitting a model: ``fit`` one that has a likelihood, ``fit_adversarial`` one that plays a game.

Both are thin calls of one loop (``gdm_lib._loop``), over Lightning Fabric.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from gdm_lib import _loop, bijections
from gdm_lib._batches import Data, Transform, seed_of, source_of
from gdm_lib._loop import Callback, Measure
from gdm_lib._players import History, NonFiniteLossError, Player
from gdm_lib.bijections import BatchNorm
from gdm_lib.protocols import AdversarialModel

__all__ = [
    "Data",
    "History",
    "NonFiniteLossError",
    "adam",
    "cosine",
    "fit",
    "fit_adversarial",
    "fit_annealed",
]

MOST_CRITIC_STEPS = 10_000

MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]


def cosine(steps: int) -> Callable[[int], float]:
    """A ``schedule`` for ``fit``: half a cosine from 1 at step 0 to 0 at step ``steps``.

    Source: Loshchilov and Hutter, *SGDR*, 2016, 1608.03983, equation 5, without restarts.

    Raises:
        ValueError: ``steps`` is below 1.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    return lambda step: 0.5 * (1 + math.cos(math.pi * step / steps))


def adam(lr: float) -> MakeOptimizer:
    """An ``optimizer`` for ``fit``: Adam with learning rate ``lr``, all parameters in one kernel.

    Source: Kingma and Ba, 2014, 1412.6980, with the paper's other settings.

    Raises:
        ValueError: ``lr`` is not positive and finite.
    """
    if not 0 < lr < math.inf:
        raise ValueError(f"lr must be positive and finite, got {lr}")
    return partial(Adam, lr=lr, fused=True)


def fit_annealed(
    model: nn.Module,
    data: Data,
    steps: int,
    lr: float,
    *,
    batch_size: int,
    progress: bool = False,
    **options: Any,
) -> History:
    """``fit`` as short runs want it: Adam whose rate falls from ``lr`` to 0, half a cosine.

    ``model`` is trained in place and left in evaluation mode.

    Args:
        model: see ``fit``.
        data: see ``fit``.
        steps: gradient steps in all.
        lr: the learning rate of the first step.
        batch_size: items in a step.
        progress: show a line that follows the run; off, since such runs come in dozens.
        options: all else that ``fit`` takes, but ``epochs``, ``optimizer`` and ``schedule``.

    Returns:
        The history of the run.

    Raises:
        ValueError: see ``fit``; ``lr`` or ``steps`` isn't positive; or an option is one of those
            that this sets.
        NonFiniteLossError: see ``fit``.
    """
    ours = sorted({"epochs", "optimizer", "schedule"} & set(options))
    if ours:
        raise ValueError(f"{', '.join(ours)}: set by fit_annealed itself; call fit to choose")
    history = fit(
        model,
        data,
        steps=steps,
        batch_size=batch_size,
        optimizer=adam(lr),
        schedule=cosine(steps),
        progress=progress,
        **options,
    )
    model.eval()
    return history


def fit(
    model: nn.Module,
    data: Data,
    *,
    steps: int | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    accumulate: int = 1,
    optimizer: MakeOptimizer | None = None,
    schedule: Callable[[int], float] | None = None,
    clip_grad_norm: float | None = None,
    ema: float | None = None,
    settle: bool = False,
    transform: Transform | None = None,
    valid: Data | None = None,
    valid_every: int | None = None,
    measure: Measure | None = None,
    measure_every: int | None = None,
    callback: Callback | None = None,
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
    them and their gradients are averaged, so that the run is the same as on one; torch's own batch
    norm, with statistics of each process alone, is refused there.

    A ``DataLoader`` is read in its own order and its own batches, the last and smaller one too.
    Its samplers, its workers and what its data set draws from torch's generators are seeded from
    ``seed`` and the number of the batch, so that such a run repeats and resumes like any other.

    Real numbers are converted to the precision of the model's weights, and whole numbers as ``y``
    to int64. Modules are given back in the modes in which they came, however the run ends.

    Everything random follows from ``seed``: the data order from the epoch, and the noise (the
    global generator's while ``model.loss`` runs, and ``transform``'s own) from the step and the
    process. Runs are repeatable bit for bit on one CPU; the caller's generator is left untouched,
    and neither validation nor ``callback`` changes what training does.

    Ctrl-C ends the run after the step at hand, with a history, and with a checkpoint if one was
    asked for; a second Ctrl-C ends it at once and leaves the checkpoint of before.

    Args:
        model: with ``loss(x)`` or ``loss(x, y)`` as in ``gdm_lib.protocols.LikelihoodModel``,
            each term a mean over the batch.
        data: the training set: ``x`` or ``(x, y)``, tensors or NumPy arrays; a map-style
            ``Dataset`` of such items, or a ``DataLoader`` of such batches.
        steps: gradient steps in all; give this or ``epochs``.
        epochs: passes over ``data``.
        batch_size: items in a step, over all processes together; 128 if left out. A
            ``DataLoader`` has its own.
        accumulate: parts that each process cuts its share of a batch into; their gradients are
            added up before the step. A large batch then takes the memory of one part.
        optimizer: makes the optimizer from the parameters; Adam with learning rate 1e-3 if left
            out.
        schedule: finite factor on the learning rate for step 0, 1, 2, ..., such as
            ``cosine(steps)``.
        clip_grad_norm: largest 2-norm of the gradient of all parameters together.
        ema: decay per step of an exponential moving average of the weights, for example 0.999,
            offered as ``history.ema``. It warms up as ``min(ema, t / (t + 9))`` at step
            t = 0, 1, 2, ..., so that the initial weights have no part in it. Buffers are copied.
        settle: whether, after the last step, each ``BatchNorm`` of the model, and of its averaged
            copy, is given the statistics of all ``data``, see ``bijections.settle``. A checkpoint
            has the running averages, and an interrupted run keeps them.
        transform: makes each batch from ``(x, generator)``: dequantisation, binarisation.
            Runs on the model's device, on validation batches too.
        valid: a set to evaluate the loss on, with the model in eval mode and with the same noise
            each time.
        valid_every: steps from one evaluation to the next; once an epoch if left out. This and
            the three below also happen after the last step.
        measure: called as ``measure(model)``, without gradients, with the averaged copy if there
            is one; what it returns, numbers by name, is kept in ``history.measured``.
        measure_every: steps from one call to the next; once an epoch if left out.
        callback: called as ``callback(step, model, history)``, on every process, with the model
            in eval mode and the global generator in the same state each time.
        callback_every: steps from one call to the next; once an epoch if left out.
        checkpoint: a ``.safetensors`` file to keep the state of the run in, replaced whole or not
            at all; missing folders are made. Whether it can be written is tried before the first
            step.
        checkpoint_every: steps from one checkpoint to the next; once an epoch if left out.
        resume: go on from ``checkpoint`` if it exists, to the same numbers as without a pause.
            A larger ``steps`` or ``epochs`` than before prolongs the run; a smaller one than it
            has taken is refused. The file has a SHA-256 over all that is in it, and is checked
            from end to end before anything is loaded; one without, of an older version, is
            refused, since nothing tells whether it is whole.
        seed: of everything random in the run.
        fabric: brings device, precision and processes; already launched where there are several.
            If left out: one process, on the device that the model is on, in its own precision.
        progress: show a line that follows the run.

    Returns:
        The history of the run.

    Raises:
        ValueError: an argument doesn't make sense, ``checkpoint`` can't be written, is damaged or
            is of another run, or processes differ in what they were given. Nothing is loaded then.
        NonFiniteLossError: a term of the loss, a gradient or a weight is NaN or infinite. Weights
            are looked at after steps 1, 2, 4, 8, ..., before whatever is done with them, and at
            the end; those last seen to be finite are given back, and no others are ever stored.
        RuntimeError: another process can't go on.
    """
    parameters = _trainable(model)
    if not callable(getattr(model, "loss", None)):
        raise ValueError(f"model must have a method loss(x, y=None), {type(model).__name__} hasn't")
    if not parameters:
        raise ValueError("model must have parameters that require gradients, it has none")
    make = partial(Adam, lr=1e-3) if optimizer is None else optimizer
    optim = _made("optimizer", make, parameters)
    if not isinstance(settle, bool):
        raise ValueError(f"settle must be True or False, got {settle!r}")
    if settle and not any(isinstance(part, BatchNorm) for part in model.modules()):
        raise ValueError(
            f"settle must be False: {type(model).__name__} has no gdm_lib.bijections.BatchNorm"
        )

    def loss(x: Tensor, *y: Tensor) -> dict[str, Tensor]:
        return cast(Any, model).loss(x, *y)

    history = _loop.run(
        model,
        [Player("loss", loss, parameters, optim)],
        data,
        steps=steps,
        epochs=epochs,
        batch_size=batch_size,
        usual_batch_size=128,
        accumulate=accumulate,
        schedule=schedule,
        clip_grad_norm=clip_grad_norm,
        ema=ema,
        transform=transform,
        valid=valid,
        valid_every=valid_every,
        measure=measure,
        measure_every=measure_every,
        callback=callback,
        callback_every=callback_every,
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
        resume=resume,
        seed=seed,
        fabric=fabric,
        progress=progress,
        config={"optimizer": type(optim).__name__},
    )
    if settle and not history.interrupted:
        device = parameters[0].device
        x, *y = _whole(data, transform, seed, parameters[0])
        for settled in (model, history.ema):
            if settled is not None:
                noise = torch.Generator(device).manual_seed(seed_of(seed, "settle noise", 0))
                bijections.settle(settled, x, y=y[0] if y else None, generator=noise)
    return history


def _whole(data: Data, transform: Transform | None, seed: int, like: Tensor) -> list[Tensor]:
    """All items of a set at once, where a weight is and in its precision."""
    device = like.device
    source = source_of(data, "data", batch_size=1000, given=False, transform=transform, seed=seed)
    noise = torch.Generator(device).manual_seed(seed_of(seed, "settle transform", 0))
    with source.given_back():
        batches = [batch for _, batch in source.once(1000)]
    x, *y = (torch.cat(parts).to(device) for parts in zip(*batches, strict=True))
    x = x if transform is None else transform(x, noise)
    return [part.to(like.dtype) if part.is_floating_point() else part for part in (x, *y)]


def fit_adversarial(
    model: nn.Module,
    data: Data,
    *,
    steps: int,
    batch_size: int | None = None,
    critic_steps: int = 1,
    optimizer: MakeOptimizer | None = None,
    critic_optimizer: MakeOptimizer | None = None,
    accumulate: int = 1,
    after_critic: Callable[[nn.Module], object] | None = None,
    schedule: Callable[[int], float] | None = None,
    clip_grad_norm: float | None = None,
    ema: float | None = None,
    transform: Transform | None = None,
    measure: Measure | None = None,
    measure_every: int | None = None,
    callback: Callback | None = None,
    callback_every: int | None = None,
    checkpoint: Path | str | None = None,
    checkpoint_every: int | None = None,
    resume: bool = False,
    seed: int = 0,
    fabric: Fabric | None = None,
    progress: bool = True,
) -> History:
    """Train a generator against a discriminator (a critic), in turns; ``model`` itself, in place.

    A step is ``critic_steps`` turns of the discriminator, each on a new batch of ``data``, and one
    of the generator, which makes as many items, under the labels of the last of these batches.
    While one plays, the parameters of the other ask for no gradients. The terms in the history
    begin with ``discriminator`` or ``generator``.

    What is said of seeds, processes and Ctrl-C at ``fit`` holds here too, turn for turn.

    Args:
        model: as in ``gdm_lib.protocols.AdversarialModel``, each term of both losses a mean over
            the batch.
        data: the training set, see ``fit``.
        steps: steps of the generator in all.
        batch_size: items in a turn, over all processes together; 64 if left out. A ``DataLoader``
            has its own.
        critic_steps: turns of the discriminator in a step; 5 in WGAN, 1 in most others.
        optimizer: makes the generator's optimizer from its parameters; if left out, Adam with
            learning rate 2e-4 and beta_1 0.5, as in DCGAN (1511.06434, section 4).
        critic_optimizer: makes the discriminator's; the same as the generator's if left out.
        accumulate: see ``fit``; each turn is cut into so many parts.
        after_critic: called as ``after_critic(model.discriminator)`` after each of its steps, with
            gradients off: weight clipping (1701.07875, algorithm 1).
        schedule: factor on both learning rates, see ``fit``.
        clip_grad_norm: see ``fit``; of each player's gradient alone.
        ema: see ``fit``; of the generator. The copy has the discriminator as it is.
        transform: see ``fit``.
        measure: see ``fit``: a distance between samples and data, say.
        measure_every: steps from one call to the next; once an epoch if left out.
        callback: see ``fit``.
        callback_every: see ``fit``.
        checkpoint: see ``fit``.
        checkpoint_every: see ``fit``.
        resume: see ``fit``.
        seed: see ``fit``.
        fabric: see ``fit``.
        progress: see ``fit``.

    Returns:
        The history of the run.

    Raises:
        ValueError: see ``fit``.
        NonFiniteLossError: see ``fit``; the message names the player of a term or a gradient.
        RuntimeError: another process can't go on.
    """
    game = _checked_game(model)
    critic_steps = _loop.whole("critic_steps", critic_steps)
    if not 1 <= critic_steps <= MOST_CRITIC_STEPS:
        bound = "least 1" if critic_steps < 1 else f"most {MOST_CRITIC_STEPS:,}"
        raise ValueError(f"critic_steps must be at {bound}, got {critic_steps}")
    if after_critic is not None and not callable(after_critic):
        raise ValueError(f"after_critic must be a function, got {after_critic!r}")
    steps = _loop.whole("steps", steps)
    theirs, ours = _trainable(game.discriminator), _trainable(game.generator)
    make = partial(Adam, lr=2e-4, betas=(0.5, 0.999)) if optimizer is None else optimizer
    make_critics = make if critic_optimizer is None else critic_optimizer
    optim = _made("optimizer", make, ours)
    critic_optim = _made("critic_optimizer", make_critics, theirs)

    def generator_loss(x: Tensor, *y: Tensor) -> dict[str, Tensor]:
        return game.generator_loss(len(x), *y)

    def clip() -> None:
        if after_critic is not None:
            after_critic(game.discriminator)

    critic = Player(
        "discriminator_loss",
        game.discriminator_loss,
        theirs,
        critic_optim,
        name="discriminator",
        averaged=False,
        after=clip,
    )
    generator = Player(
        "generator_loss", generator_loss, ours, optim, name="generator", new_batch=False
    )
    kinds = {"optimizer": type(optim).__name__, "critic_optimizer": type(critic_optim).__name__}
    return _loop.run(
        model,
        [*[critic] * critic_steps, generator],
        data,
        steps=steps,
        epochs=None,
        batch_size=batch_size,
        usual_batch_size=64,
        accumulate=accumulate,
        schedule=schedule,
        clip_grad_norm=clip_grad_norm,
        ema=ema,
        transform=transform,
        valid=None,
        valid_every=None,
        measure=measure,
        measure_every=measure_every,
        callback=callback,
        callback_every=callback_every,
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
        resume=resume,
        seed=seed,
        fabric=fabric,
        progress=progress,
        config={**kinds, "critic_steps": critic_steps},
    )


def _made(name: str, make: MakeOptimizer, parameters: list[nn.Parameter]) -> Optimizer:
    """The optimizer, if it is one."""
    if isinstance(make, Optimizer):
        raise ValueError(
            f"{name} must be a function that makes one from the parameters, got one that is made; "
            f"give partial({type(make).__name__}, lr=...), of functools, without parameters"
        )
    if not callable(make):
        raise ValueError(f"{name} must be a function that makes one, got {make!r}")
    made = make(parameters)
    if not isinstance(made, Optimizer):
        raise ValueError(f"{name} must make a torch.optim.Optimizer, it made {made!r}")
    return made


def _trainable(module: nn.Module) -> list[nn.Parameter]:
    if not isinstance(module, nn.Module):
        raise ValueError(f"model must be an nn.Module, got {type(module).__name__}")
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def _checked_game(model: nn.Module) -> AdversarialModel:
    """The model, if its parts are there and every parameter belongs to one of them."""
    name = type(model).__name__
    for part in ("generator", "discriminator"):
        if not isinstance(getattr(model, part, None), nn.Module):
            raise ValueError(f"model must have a module {part}, {name} hasn't")
        if not callable(getattr(model, f"{part}_loss", None)):
            wanted = "n" if part == "generator" else "real"
            raise ValueError(
                f"model must have a method {part}_loss({wanted}, y=None), {name} hasn't"
            )
        if not _trainable(getattr(model, part)):
            raise ValueError(f"model.{part} must have parameters that require gradients, it hasn't")
    game = cast(AdversarialModel, model)
    owned = {id(p) for part in (game.generator, game.discriminator) for p in part.parameters()}
    for parameter_name, parameter in model.named_parameters():
        if parameter.requires_grad and id(parameter) not in owned:
            raise ValueError(
                f"model.{parameter_name} is in neither model.generator nor model.discriminator, "
                "so no player would train it; put it into one of them, or freeze it with "
                "requires_grad_(False)"
            )
    return game
