"""How the table of a family was measured: every model on the same data, tuned by one rule.

Made anew by ``gdm table flows`` and ``gdm table autoregressive``, and shown in a chapter by
``gdm_lib.viz.family_table``.

The data are ``data.digits``, 8x8 pixels of 17 grey levels: 1,200 images to learn from, the other
238 of the training part to choose by, and the test part. The rule: each model is
trained with each of the learning rates, for the same number of steps on batches of the same size,
with a cosine; of a run, the weights that do best on the images to choose by are kept, and of the
rates the one that does best there. Where that is the lowest or the highest, one beyond it is tried
too. The best rate is run from three seeds, and measured on the test
part. Seconds are those of the process, and of the steps alone.

All figures are bits per dimension of the grey levels, so those of one family can be compared with
those of the other. Flows see the levels dequantised and through a logit, and theirs are upper
bounds.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import MultivariateNormal
from torch.optim import Adam

import gdm_lib
from gdm_lib.bijections import Chain, Dequantise, Flatten, Flow, Logit
from gdm_lib.data import digits
from gdm_lib.data.levels import to_levels
from gdm_lib.training import NonFiniteLossError, cosine, fit
from gdm_lib.viz import families

__all__ = ["FAMILIES", "RATES", "SEEDS", "STEPS", "Entry", "Parts", "measure", "table"]

SHAPE = (1, 8, 8)
TRAIN = 1200
BATCH = 32
CHECKS = 16
DRAWS = 10
"""Of the dequantisation, averaged over in a flow's test figure."""
STEPS = 600
"""Of each run."""
RATES = (1e-3, 3e-3, 1e-2)
LEAST, MOST = 1e-6, 10.0
"""No rate beyond is tried."""
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Entry:
    """A row of a table.

    Attributes:
        name: as the table shows it.
        paper: the class, ``module:Name``.
        build: the untrained model, from the global generator.
        start: called with the model and the training images, before the first step.
    """

    name: str
    paper: str
    build: Callable[[], nn.Module]
    start: Callable[[nn.Module, Tensor], object] | None = None


# -- the flows: one dequantisation and one logit for all


def _on_logits(flow: nn.Module) -> Flow:
    """A flow of vectors of 64, or of images, behind what all flows have in front."""
    made = cast(Flow, flow)
    flat = [] if made.data_shape == SHAPE else [Flatten(SHAPE)]
    return Flow(
        Chain(Logit(), *flat, made.bijection),
        made.base,
        dequantise=Dequantise(digits.LEVELS),
        data_shape=SHAPE,
    )


def _nice() -> nn.Module:
    from gdm_lib.flows.nice import NICE

    return _on_logits(NICE(SHAPE, couplings=4, hidden=(80, 80)))


def _realnvp() -> nn.Module:
    from gdm_lib.flows.realnvp import RealNVP

    return RealNVP.image(SHAPE, levels=digits.LEVELS, scales=2, hidden=16, blocks=1)


def _maf() -> nn.Module:
    from gdm_lib.flows.maf import MAF

    return _on_logits(MAF(64, layers=5, hidden=(42, 42)))


def _glow() -> nn.Module:
    from gdm_lib.flows.glow import Glow

    return _on_logits(Glow(SHAPE, levels=digits.LEVELS, scales=2, steps=6, hidden=36))


# -- the autoregressive models


def _made() -> nn.Module:
    from gdm_lib.autoregressive.made import MADE
    from gdm_lib.likelihoods import Categorical

    return MADE(SHAPE, (40, 40), likelihood=Categorical(digits.LEVELS))


def _pixelcnn() -> nn.Module:
    from gdm_lib.autoregressive.pixelcnn import PixelCNN

    return PixelCNN(SHAPE, levels=digits.LEVELS, h=24, layers=8, head=48)


def _row_lstm() -> nn.Module:
    from gdm_lib.autoregressive.pixelrnn import PixelRNN, RowLSTM

    return PixelRNN(SHAPE, lstm=RowLSTM, levels=digits.LEVELS, h=28, layers=2, head=48)


def _diagonal() -> nn.Module:
    from gdm_lib.autoregressive.pixelrnn import PixelRNN

    return PixelRNN(SHAPE, levels=digits.LEVELS, h=26, layers=2, head=48)


def _gated() -> nn.Module:
    from gdm_lib.autoregressive.gated_pixelcnn import GatedPixelCNN

    return GatedPixelCNN(SHAPE, levels=digits.LEVELS, p=20, layers=5)


def _pp() -> nn.Module:
    from gdm_lib.autoregressive.pixelcnn_pp import PixelCNNpp

    return PixelCNNpp(SHAPE, levels=digits.LEVELS, components=5, features=9, blocks=1, dropout=0.0)


def _initialise(model: nn.Module, x: Tensor) -> None:
    cast(Any, model).initialise(x[:256])


FAMILIES: dict[str, tuple[Entry, ...]] = {
    "flows": (
        Entry("NICE", "gdm_lib.flows.nice:NICE", _nice),
        Entry("Real NVP", "gdm_lib.flows.realnvp:RealNVP", _realnvp),
        Entry("MAF", "gdm_lib.flows.maf:MAF", _maf),
        Entry("Glow", "gdm_lib.flows.glow:Glow", _glow),
    ),
    "autoregressive": (
        Entry("MADE", "gdm_lib.autoregressive.made:MADE", _made),
        Entry("PixelCNN", "gdm_lib.autoregressive.pixelcnn:PixelCNN", _pixelcnn),
        Entry("Row LSTM", "gdm_lib.autoregressive.pixelrnn:RowLSTM", _row_lstm),
        Entry("Diagonal BiLSTM", "gdm_lib.autoregressive.pixelrnn:DiagonalBiLSTM", _diagonal),
        Entry("Gated PixelCNN", "gdm_lib.autoregressive.gated_pixelcnn:GatedPixelCNN", _gated),
        Entry("PixelCNN++", "gdm_lib.autoregressive.pixelcnn_pp:PixelCNNpp", _pp, _initialise),
    ),
}
"""The models of each family, by the year of the paper."""


# -- measuring


def _bits(nats: Tensor) -> float:
    return float(nats.mean()) / (math.prod(SHAPE) * math.log(2))


@torch.no_grad()
def bits_per_dim(model: nn.Module, x: Tensor, draws: int) -> float:
    """Of images, over draws of the dequantisation where the model has one."""
    if not isinstance(model, Flow):
        return _bits(-cast(Any, model).log_prob(x))
    noise = torch.Generator().manual_seed(0)
    each = [-model.log_prob(x, generator=noise) for _ in range(draws)]
    return _bits(torch.stack(each))


@dataclass(frozen=True)
class Parts:
    """Images to learn from, to choose by, and to measure on."""

    train: Tensor
    valid: Tensor
    test: Tensor


def _parts(family: str) -> Parts:
    data = digits.load()
    x, test = data.train.x, data.test.x
    if family != "flows":
        x, test = to_levels(x, digits.LEVELS), to_levels(test, digits.LEVELS)
    return Parts(x[:TRAIN], x[TRAIN:], test)


def _run(entry: Entry, parts: Parts, rate: float, steps: int, seed: int) -> dict[str, Any]:
    """One training, and what its best weights do."""
    torch.manual_seed(seed)
    model = entry.build()
    if entry.start is not None:
        entry.start(model, parts.train)
    best, best_step, state, away = math.inf, 0, model.state_dict(), 0.0

    def check(step: int, now: nn.Module, _: object) -> None:
        nonlocal best, best_step, state, away
        begun = time.process_time()
        bits = bits_per_dim(now, parts.valid, 2)
        if bits < best:
            best, best_step, state = bits, step, copy.deepcopy(now.state_dict())
        away += time.process_time() - begun

    begun = time.process_time()
    with suppress(NonFiniteLossError):  # what it was before counts
        fit(
            model,
            parts.train,
            steps=steps,
            batch_size=BATCH,
            optimizer=partial(Adam, lr=rate, fused=True),
            schedule=cosine(steps),
            clip_grad_norm=50.0,
            callback=check,
            callback_every=max(1, steps // CHECKS),
            seed=seed,
            progress=False,
        )
    seconds = time.process_time() - begun - away
    model.load_state_dict(state)
    return {
        "valid": best,
        "best": best_step,
        "seconds": round(seconds, 1),
        "test": bits_per_dim(model.eval(), parts.test, DRAWS),
    }


def measure(entry: Entry, parts: Parts, steps: int = STEPS) -> dict[str, Any]:
    """A row: the rate is chosen with the first seed, which counts among the three."""
    tried = {rate: _run(entry, parts, rate, steps, SEEDS[0]) for rate in RATES}
    while (rate := min(tried, key=lambda rate: tried[rate]["valid"])) in (beyond := _ends(tried)):
        if not LEAST < beyond[rate] < MOST:
            break
        tried[beyond[rate]] = _run(entry, parts, beyond[rate], steps, SEEDS[0])
    runs = [tried[rate], *(_run(entry, parts, rate, steps, seed) for seed in SEEDS[1:])]
    return {
        "name": entry.name,
        "paper": entry.paper,
        "parameters": sum(p.numel() for p in entry.build().parameters()),
        "rate": rate,
        "valid": {f"{r:g}": _told(run["valid"]) for r, run in tried.items()},
        "best_steps": [run["best"] for run in runs],
        "seconds": [run["seconds"] for run in runs],
        "test": [round(run["test"], 4) for run in runs],
    }


def _ends(rates: Iterable[float]) -> dict[float, float]:
    """The lowest and the highest rate, each with the next beyond it: 1e-3, 3e-3, 1e-2, 3e-2, ..."""

    def beside(rate: float, by: int) -> float:
        return float(f"{10 ** ((round(2 * math.log10(rate)) + by) / 2):.0e}")

    least, most = min(rates), max(rates)
    return {least: beside(least, -1), most: beside(most, 1)}


def _told(bits: float) -> float | None:
    return round(bits, 4) if math.isfinite(bits) else None  # JSON has no infinity


def _baseline(name: str, parameters: int, bits: float) -> dict[str, Any]:
    return {"name": name, "parameters": parameters, "test": [round(bits, 4)]}


def histogram(train: Tensor, test: Tensor) -> float:
    """Bits per dimension of ``test`` under a histogram of each pixel, one added to each count.

    Args:
        train: levels, ``(N, ...)``.
        test: levels of the same shape.
    """
    counts = F.one_hot(train.flatten(1), digits.LEVELS).sum(0) + 1.0
    log_p = (counts / counts.sum(1, keepdim=True)).log()  # (pixels, levels)
    return _bits(-log_p.gather(1, test.flatten(1).T).sum(0))


def gaussian(train: Tensor, test: Tensor) -> float:
    """Bits per dimension of ``test`` under one Gaussian with a full covariance, on what the flows
    see: dequantised, ten times over, and through the logit."""
    noise = torch.Generator().manual_seed(1)
    front, logit = Dequantise(digits.LEVELS), Logit()
    seen = [logit(front(train, generator=noise)[0])[0].flatten(1) for _ in range(DRAWS)]
    points = torch.cat(seen).double()
    fitted = MultivariateNormal(points.mean(0), torch.cov(points.T))
    noise, nats = torch.Generator().manual_seed(0), []
    for _ in range(DRAWS):
        z, from_front = front(test, generator=noise)
        z, from_logit = logit(z)
        nats.append(-(fitted.log_prob(z.flatten(1).double()) + from_front + from_logit))
    return _bits(torch.stack(nats))


def table(
    family: str, *, steps: int = STEPS, directory: Path | None = None, say: bool = True
) -> dict[str, Any]:
    """Measure a family and store its table.

    Args:
        family: of ``FAMILIES``.
        steps: of each run.
        directory: the folder of the tables; ``viz.families.where()`` if left out.
        say: print each row when it is there.

    Returns:
        What is stored, see ``viz.families``.

    Raises:
        ValueError: there is no such family.
        OSError: the folder can't be written.
    """
    if family not in FAMILIES:
        raise ValueError(f"there is no table of {family!r}; those there are: {', '.join(FAMILIES)}")
    families.check_writable(family, directory=directory)
    parts = _parts(family)
    with torch.random.fork_rng([]):
        rows = []
        for entry in FAMILIES[family]:
            rows.append(measure(entry, parts, steps))
            if say:
                print(rows[-1], flush=True)
    return families.save(_told_of(family, parts, rows, steps), directory=directory)


def _baselines(family: str, parts: Parts) -> list[dict[str, Any]]:
    flows = family == "flows"
    levels = [to_levels(x, digits.LEVELS) if flows else x for x in (parts.train, parts.test)]
    rows = [_baseline("histogram of each pixel", 64 * (digits.LEVELS - 1), histogram(*levels))]
    if flows:
        bits = gaussian(parts.train, parts.test)
        rows.append(_baseline("Gaussian, full covariance", 64 + 64 * 65 // 2, bits))
    return rows


def _told_of(family: str, parts: Parts, rows: list[dict[str, Any]], steps: int) -> dict[str, Any]:
    return {
        "family": family,
        "command": f"gdm table {family}",
        "data": f"digits, 8x8, {digits.LEVELS} levels: {TRAIN:,} to train, "
        f"{len(parts.valid)} to choose by, {len(parts.test)} to test",
        "batch size": BATCH,
        "steps": steps,
        "rates": list(RATES),
        "seeds": list(SEEDS),
        "torch": torch.__version__,
        "gdm_lib": gdm_lib.__version__,
        "rows": [*_baselines(family, parts), *rows],
    }
