"""What tests of several modules need: seeds, weights, and a rule that remembers."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from gdm_lib.autoregression import Autoregressive, Place
from gdm_lib.bijections import BatchNorm


def seeded(seed: int = 0) -> torch.Generator:
    """A generator of its own."""
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Standard normal numbers, the same each time."""
    return torch.randn(*shape, dtype=dtype, generator=seeded(seed))


def same_weights() -> Iterator[None]:
    """A fixture: weights are the same whichever tests ran before."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def hostile(check: Callable[[random.Random], None], count: int = 1000, part: int = 0) -> None:
    """Run a check with that many dice, which hypothesis throws: the same in each run in which the
    same modules are loaded, since it takes numbers from them as well.

    What fails is made as small as it can be, and told throw by throw.

    Args:
        check: makes something hostile with its dice and asserts how it ends. It may be run again.
        count: how often.
        part: another part has other throws.
    """
    settings = hypothesis.settings(
        max_examples=count,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        # Without Phase.explain, for which hypothesis traces each line (sys.settrace): under it
        # CPython 3.11 has been seen to run in a circle, which no timeout can end.
        phases=[hypothesis.Phase.generate, hypothesis.Phase.shrink],
    )
    # Half of them favour the ends of each range, and can be made smaller; half favour nothing.
    kinds = [st.randoms(note_method_calls=True, use_true_random=kind) for kind in (False, True)]
    dice = st.one_of(kinds)
    hypothesis.seed(part)(settings(hypothesis.given(dice)(check)))()


def loud(module: nn.Module, std: float | None = None) -> Any:
    """Random weights, large enough that a leak shows, in double precision, in eval mode.

    Args:
        module: gets them.
        std: of all parameters; if left out, that of a weight keeps the size of what goes through.
    """
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for p in module.parameters():
            scaled = 1 / math.sqrt(max(1, p[0].numel())) if p.ndim > 1 else 0.3
            nn.init.normal_(p, std=scaled if std is None else std)
    return module.double().eval()


def shaken(module: nn.Module, std: float) -> Any:
    """The same module with noise on its parameters, and its batch norms with statistics: nothing
    is at its neutral start."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for p in module.parameters():
            p.data += std * torch.randn_like(p)
        for part in module.modules():
            if isinstance(part, BatchNorm):
                part.mean.normal_()
                part.var.uniform_(0.5, 2)
    return module


class Recorder:
    """A rule that draws, and remembers what it saw."""

    def __init__(self, model: Autoregressive) -> None:
        self.likelihood, self.generator = model.likelihood, seeded(3)
        self.params: list[Tensor] = []
        self.places: list[Place] = []

    def __call__(self, params: Tensor, place: Place) -> Tensor:
        self.params.append(params.clone())
        self.places.append(place)
        return self.likelihood.sample(params, generator=self.generator)
