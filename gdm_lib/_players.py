"""Who plays in a training loop, and what is written down of a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.optim import Optimizer

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["History", "NonFiniteLossError", "Player"]


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
    """A term of the loss, a gradient or a weight is NaN or infinite.

    If it is a term or a gradient, the weights are still those from before the turn in which it
    came up. If it is a weight, the model has the last weights again that were seen to be finite;
    the message says after which step that was. ``history`` is the run up to the step before.
    """

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
