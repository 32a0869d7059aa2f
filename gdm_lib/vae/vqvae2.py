"""VQ-VAE-2: codes at several scales, and a prior for each.

Ali Razavi, Aäron van den Oord and Oriol Vinyals, *Generating Diverse High-Fidelity Images with
VQ-VAE-2*, 2019, https://arxiv.org/abs/1906.00446. Equation and section numbers below are the
paper's.

A VQ-VAE's grid of codes is either fine, and its prior has to carry shapes over long distances, or
coarse, and detail is lost. Here there is one of each, or more. All levels see the image, and each
sees what the coarser ones have already said, so that it says something else (algorithm 1)::

    e_top = Quantize(E_top(x))    e_bottom = Quantize(E_bottom(x, e_top))    x^ = D(e_top, e_bottom)

The loss is that of a VQ-VAE (equation 2), with one commitment for each level and, by default,
codebooks that are moving averages. Then priors learn the codes, coarse to fine::

    p(z) = p(z_top | y) p(z_bottom | z_top, y)

Symbols: ``L`` levels, counted from the coarsest, 0, to the finest; ``K`` entries of ``D`` features
in each codebook; ``p`` features of a prior; ``y`` the class; ``B`` the batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from gdm_lib._inputs import (
    a_tensor,
    batch_of,
    check,
    check_counts,
    check_some,
    labels_of,
    levels_of,
    rows,
)
from gdm_lib.autoregression import Autoregressive, PixelStep
from gdm_lib.autoregressive.gated_pixelcnn import GatedLayer, GatedPixelCNN
from gdm_lib.likelihoods import IsotropicGaussian, check_items
from gdm_lib.nn import (
    ClassEmbedding,
    check_count,
    check_image,
    check_sizes,
    context_of,
    evaluates,
    exact,
    gate,
    in_dtype_of,
    several_processes,
    through,
    trains,
    uniform,
)
from gdm_lib.protocols import Likelihood
from gdm_lib.vae.vae import seen_by
from gdm_lib.vae.vqvae import ResidualBlock, VectorQuantiser, straight_through

__all__ = [
    "VQVAE2",
    "BottomPrior",
    "ConditioningStack",
    "Level",
    "MaskedAttention",
    "TopPrior",
    "reject",
]

ARXIV = "1906.00446"


# Section 3.1: a hierarchy of codes


class Level(nn.Module):
    """One level of the hierarchy: its codebook, and the networks around it (figure 2).

    Args:
        encoder: features of the next finer level, for the finest the data -> ``(B, F, *grid)``.
        project: those features, and behind them what ``finer`` of the next coarser level makes, if
            there is one -> ``(B, D, *grid)``, which is quantised.
        quantiser: the codebook.
        grid: shape of one item's codes.
        up: entries ``(B, D, *grid)`` -> what the decoder sees of them, on the finest grid.
        finer: entries, and behind them what the next coarser level's makes -> features on the next
            finer grid; None for the finest level.
    """

    def __init__(
        self,
        encoder: nn.Module,
        project: nn.Module,
        quantiser: VectorQuantiser,
        *,
        grid: Sequence[int],
        up: nn.Module,
        finer: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.grid = check_sizes("grid", grid)
        self.encoder, self.project, self.quantiser = encoder, project, quantiser
        self.up, self.finer = up, finer


class VQVAE2(nn.Module):
    """A VQ-VAE with codes at several scales; and, once they are trained, a prior over each.

    Codes are a tuple of one tensor a level, coarse to fine. ``fit(model, x)`` trains all but the
    priors. Then each is trained by itself, and ``model.priors = nn.ModuleList([top, bottom])``::

        top = TopPrior((1, *model.grids[0]), levels=K, context_dim=..., embed=...)
        bottom = BottomPrior((1, *model.grids[1]), levels=K, coarser=[(K, *model.grids[0])], ...)
        codes = model.encode(x)
        fit(top, (codes[0][:, None], y))
        fit(bottom, (codes[1][:, None], bottom.given(codes[:1], y)))

    ``log_prob`` is a lower bound, the one term of the codes that the encoder chooses, as a
    VQ-VAE's. Without priors all codes are taken to be as likely.

    Trained plainly the model tends to say all in its finest level, which has the most codes.
    ``level_dropout`` is a cure that the paper does not have: so often an item is decoded without
    its finer levels, and the coarser ones must carry what they can.

    Args:
        hierarchy: two levels or more, coarse to fine.
        decoder: what the ``up`` of all levels make, one behind the other -> parameters of the
            likelihood.
        likelihood: ``p(x|z)``.
        data_shape: shape of one item.
        beta: weight of the commitments; the paper's is 0.25.
        level_dropout: how likely a training step sets the entries of an item's finer levels to
            zero before they are decoded, from 0 to 1. It keeps the coarsest 1 to ``L - 1`` levels,
            each number as likely.
        priors: of each level's codes, coarse to fine, or None.
    """

    bound = True

    def __init__(
        self,
        hierarchy: Sequence[Level],
        decoder: nn.Module,
        likelihood: Likelihood,
        *,
        data_shape: Sequence[int],
        beta: float = 0.25,
        level_dropout: float = 0.0,
        priors: Sequence[Autoregressive] | None = None,
    ) -> None:
        super().__init__()
        if len(hierarchy) < 2:
            raise ValueError(f"hierarchy must have two levels or more, got {len(hierarchy)}")
        if not (isinstance(beta, int | float) and 0 <= beta < math.inf):
            raise ValueError(f"beta must be a finite number from 0, got {beta!r}")
        _check_share("level_dropout", level_dropout)
        self.data_shape = check_sizes("data_shape", data_shape)
        self.grids = tuple(level.grid for level in hierarchy)
        self.hierarchy, self.decoder = nn.ModuleList(hierarchy), decoder
        self.likelihood, self.beta, self.level_dropout = likelihood, beta, level_dropout
        self.priors = None if priors is None else nn.ModuleList(priors)

    @classmethod
    def image(
        cls,
        data_shape: Sequence[int],
        *,
        depth: int = 2,
        count: int = 512,
        dim: int = 64,
        width: int = 128,
        inner: int = 64,
        blocks: int = 2,
        stride: int = 4,
        likelihood: Likelihood | None = None,
        beta: float = 0.25,
        decay: float | None = 0.99,
        restart: int = 0,
        level_dropout: float = 0.0,
    ) -> VQVAE2:
        """Networks for images as the paper has them (appendix, table of the encoder and decoder).

        A code of the finest level stands for 4x4 pixels, one of the next coarser for 8x8, and so
        on. Defaults are those for ImageNet.

        Args:
            data_shape: ``(C, H, W)``, height and width multiples of ``stride * 2 ** (depth - 1)``.
            depth: ``L``; the paper has 2 for ImageNet and 3 for faces of 1024x1024 pixels.
            count: ``K`` of each level.
            dim: ``D`` of each level.
            width: features of all layers between.
            inner: features within a residual block.
            blocks: residual blocks in each network.
            stride: how many pixels a side a code of the finest level stands for, 4 as in the
                paper, or 2, for small pictures with fine detail.
            likelihood: ``IsotropicGaussian()`` if left out.
            beta: see the class.
            decay: see ``VectorQuantiser``.
            restart: see ``VectorQuantiser``.
            level_dropout: see the class.
        """
        check_count("depth", depth, 2)
        check_counts(width=width, inner=inner)
        check_count("blocks", blocks)
        if stride not in (2, 4):
            raise ValueError(f"stride must be 2 or 4, got {stride!r}")
        halvings = depth - 1 + stride // 2
        shape = check_image("data_shape", data_shape, 2**halvings, f"{halvings} strides of 2")
        likelihood = IsotropicGaussian() if likelihood is None else likelihood
        params = likelihood.params_shape(shape)
        channels = math.prod(params[:-2])

        def residual() -> list[nn.Module]:
            return [*(ResidualBlock(width, inner) for _ in range(blocks)), nn.ReLU()]

        def half(features: int) -> nn.Module:
            return nn.Conv2d(features, width, 4, 2, 1)

        def double(features_in: int, features_out: int) -> nn.Module:
            return nn.ConvTranspose2d(features_in, features_out, 4, 2, 1)

        hierarchy = []
        for i in range(depth):
            below = depth - 1 - i  # finer levels
            first = [half(width if below else shape[0])]
            if not below and stride == 4:
                first += [nn.ReLU(), half(width)]
            said = dim if i else 0  # of the coarser levels
            finer = (
                nn.Conv2d(dim + said, width, 3, padding=1),
                *residual(),
                double(width, dim),
            )
            level = Level(
                nn.Sequential(*first, *residual()),
                nn.Conv2d(width + said, dim, 1),
                VectorQuantiser(count, dim, decay=decay, restart=restart),
                grid=(shape[1] // (stride << below), shape[2] // (stride << below)),
                up=nn.Sequential(*(double(dim, dim) for _ in range(below))),
                finer=nn.Sequential(*finer) if below else None,
            )
            hierarchy.append(level)
        first_up = [double(width, width), nn.ReLU()] if stride == 4 else []
        decoder = nn.Sequential(
            nn.Conv2d(depth * dim, width, 3, padding=1),
            *residual(),
            *first_up,
            double(width, channels),
            # Parameters of the likelihood, (P, C, H, W) or (C, H, W).
            nn.Unflatten(1, params[:-2]) if len(params) > 3 else nn.Identity(),
        )
        return cls(
            hierarchy,
            decoder,
            likelihood,
            data_shape=shape,
            beta=beta,
            level_dropout=level_dropout,
        )

    def _levels(self) -> list[Level]:
        return cast(list[Level], list(self.hierarchy))

    def _quantised(self, x: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """What is quantised, codes and entries of each level, coarse to fine (algorithm 1)."""
        check_items("x", x, self.data_shape, self.likelihood)
        levels = self._levels()
        features: list[Tensor] = []
        seen = seen_by(levels[-1].encoder, self.likelihood, x)
        for level in reversed(levels):
            seen = through(level.encoder, seen)
            features.append(seen)
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        said: list[Tensor] = []
        for i, level in enumerate(levels):
            z = through(level.project, torch.cat([features.pop(), *said], 1))
            if z.shape[1:] != (level.quantiser.dim, *level.grid):
                raise ValueError(
                    f"hierarchy[{i}].project must give (B, {level.quantiser.dim}, *grid) with "
                    f"grid {level.grid}, got {tuple(z.shape)}"
                )
            codes = level.quantiser(z)
            entries = exact(level.quantiser.embed(codes))
            found.append((z, codes, entries))
            if level.finer is not None:
                z_q = straight_through(z, entries)
                said = [through(level.finer, torch.cat([z_q, *said], 1))]
        return found

    def _decoded(self, entries: Sequence[Tensor]) -> Tensor:
        parts = [through(level.up, e) for level, e in zip(self._levels(), entries, strict=True)]
        params: Tensor = through(self.decoder, torch.cat(parts, 1))
        return params

    @evaluates
    def encode(self, x: Tensor) -> tuple[Tensor, ...]:
        """Codes: ``(B, *data_shape)`` -> int64 ``(B, *grid)`` of each level, coarse to fine.

        Raises:
            ValueError: the encoder makes something of ``x`` that isn't finite and has no code.
        """
        found = self._quantised(x)
        if not all(bool(z.isfinite().all()) for z, _, _ in found):
            raise ValueError("x must be encoded as finite vectors, got nan or infinite ones")
        return tuple(codes for _, codes, _ in found)

    @evaluates
    def decode(self, codes: Sequence[Tensor], keep: Sequence[bool] | None = None) -> Tensor:
        """Parameters of ``p(x|z)``: codes of each level -> ``(B, *params_shape)``.

        What a level holds shows when others are left out (figure 3), or taken from another image.

        Args:
            codes: ``(B, *grid)`` of each level, coarse to fine.
            keep: of each level whether it is decoded; the entries of others are zeros. All are if
                it is left out.

        Raises:
            TypeError: ``codes`` is no sequence of tensors.
            ValueError: ``codes`` or ``keep`` has another length, or the codes of a level another
                shape, another dtype than int64, or others than 0 to ``K - 1``.
        """
        self._check_codes(codes)
        keep = [True] * len(codes) if keep is None else list(keep)
        if len(keep) != len(codes) or not all(isinstance(kept, bool) for kept in keep):
            raise ValueError(
                f"keep must have one bool for each of {len(codes)} levels, such as "
                f"{(True, *[False] * (len(codes) - 1))}, got {tuple(keep)}"
            )
        entries = [level.quantiser.embed(c) for level, c in zip(self._levels(), codes, strict=True)]
        return self._decoded([e if k else e * 0 for e, k in zip(entries, keep, strict=True)])

    @evaluates
    def decode_mean(self, codes: Sequence[Tensor], keep: Sequence[bool] | None = None) -> Tensor:
        """E[x|z], the picture that is usually shown: see ``decode``; ``(B, *data_shape)``."""
        return self.likelihood.mean(self.decode(codes, keep))

    @trains
    def loss(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        """Equation 2. The first term is in nats per item; the others are squared distances,
        averaged over a level's codes and items, and summed over the levels.

        Args:
            x: ``(B, *data_shape)``.
            y: what the priors are conditioned on. It doesn't reach the loss, which no prior enters.

        Returns:
            ``loss``, and beside it ``nats``, ``codebook``, ``commitment`` and, for each level,
            ``perplexity_0`` and so on, that of the batch's codes, over all processes.
        """
        found = self._quantised(x)
        check_some("x", x)
        self._check_condition(y, len(x))
        seen = [straight_through(z, entries) for z, _, entries in found]
        if self.level_dropout and self.training:
            seen = self._dropped(seen)
        nats = -self.likelihood.log_prob(self._decoded(seen), self._data(x)).mean()
        terms, loss = {"nats": nats.detach()}, nats
        codebook = commitment = torch.zeros_like(nats)
        for i, (level, (z, codes, entries)) in enumerate(zip(self._levels(), found, strict=True)):
            mine = (z.detach() - entries).square().sum(1).mean()
            loss = loss if level.quantiser.decay is not None else loss + mine
            codebook = codebook + mine.detach()
            commitment = commitment + (z - entries.detach()).square().sum(1).mean()
            terms[f"perplexity_{i}"] = _perplexity(codes, level.quantiser.count).to(nats.dtype)
        return {
            "loss": loss + self.beta * commitment,
            "codebook": codebook,
            "commitment": commitment.detach(),
            **terms,
        }

    def _dropped(self, seen: list[Tensor]) -> list[Tensor]:
        """Of some items nothing but the coarsest levels. One number decides for an item: that an
        item loses level ``l`` has the probability ``level_dropout * l / (L - 1)``, and then it
        loses all finer ones."""
        last = len(seen) - 1
        number = uniform((len(seen[0]), 1), seen[0])
        return [
            s * (number >= self.level_dropout * i / last).view(-1, *[1] * (s.ndim - 1)).to(s.dtype)
            for i, s in enumerate(seen)
        ]

    @evaluates
    def log_prob(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """A lower bound on log p(x), in nats, ``(B,)``: that of the codes under the priors, and of
        the data given them."""
        found = self._quantised(x)
        given = self.likelihood.log_prob(self._decoded([e for _, _, e in found]), self._data(x))
        # nan where an encoder puts out nan, which no code can say.
        broken = sum(0 * z.detach().flatten(1).sum(1) for z, _, _ in found)
        return given + self.code_log_prob([codes for _, codes, _ in found], y) + broken

    @evaluates
    def code_log_prob(self, codes: Sequence[Tensor], y: Tensor | None = None) -> Tensor:
        """log p(z) in nats: codes of each level -> ``(B,)``. Without priors each code has
        ``1 / K``."""
        self._check_codes(codes)
        n = len(codes[0])
        self._check_condition(y, n)
        total = exact(self._levels()[0].quantiser.codebook.detach()).new_zeros(n)
        for i, level in enumerate(self._levels()):
            if self.priors is None:
                total = total - math.prod(level.grid) * math.log(level.quantiser.count)
            else:
                prior = self._prior(i)
                mine = codes[i].reshape(-1, *prior.data_shape)
                total = total + prior.log_prob(mine, _given(prior, codes[:i], y))
        return total

    @torch.no_grad()
    @evaluates
    def sample(
        self, n: int, y: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Codes from the priors, data from the codes: ``(n, *data_shape)``."""
        codes = self.sample_codes(n, y, generator=generator)
        return self.likelihood.sample(self.decode(codes), generator=generator)

    @torch.no_grad()
    @evaluates
    def sample_codes(
        self, n: int, y: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, ...]:
        """Codes from the priors, coarse to fine: int64 ``(n, *grid)`` of each level. Without
        priors, each code is as likely as another."""
        check_count("n", n)
        self._check_condition(y, n)
        codes: list[Tensor] = []
        for i, level in enumerate(self._levels()):
            if self.priors is None:
                unit = uniform((n, *level.grid), level.quantiser.codebook, generator)
                count = level.quantiser.count
                codes.append((unit * count).long().clamp(max=count - 1))
            else:
                prior = self._prior(i)
                drawn = prior.sample(n, _given(prior, codes, y), generator=generator)
                codes.append(drawn.view(n, *level.grid))
        return tuple(codes)

    def _data(self, x: Tensor) -> Tensor:
        return x if hasattr(self.likelihood, "levels") else in_dtype_of(self, x)

    def _prior(self, i: int) -> Autoregressive:
        if not isinstance(self.priors, nn.ModuleList) or len(self.priors) != len(self.hierarchy):
            got = f"{len(self.priors)}" if isinstance(self.priors, nn.ModuleList) else "no such"
            raise ValueError(
                f"priors must be an nn.ModuleList of {len(self.hierarchy)} models, one for each "
                f"level, coarse to fine, got {got}"
            )
        return cast(Autoregressive, self.priors[i])

    def _check_condition(self, y: Tensor | None, n: int) -> None:
        told = (
            p.classes if isinstance(p, BottomPrior) else p.context_dim for p in self.priors or []
        )
        if not any(told):
            context_of(y, n, 0, None)

    def _check_codes(self, codes: Sequence[Tensor]) -> None:
        depth = len(self.hierarchy)
        if not isinstance(codes, tuple | list):
            raise TypeError(
                f"codes must be a tuple of {depth} tensors, coarse to fine, got "
                f"{type(codes).__name__}"
            )
        if len(codes) != depth:
            raise ValueError(
                f"codes must be a tuple of {depth} tensors, coarse to fine, got {len(codes)}"
            )
        for i, (level, mine) in enumerate(zip(self._levels(), codes, strict=True)):
            steps = a_tensor, batch_of(level.grid), levels_of(level.quantiser.count)
            check(f"codes[{i}]", mine, *steps)
            if len(mine) != len(codes[0]):
                raise ValueError(
                    f"codes[{i}] must have as many items as codes[0], {len(codes[0])}, got "
                    f"{len(mine)}"
                )


def _perplexity(codes: Tensor, count: int) -> Tensor:
    """Over the processes that share a batch; see ``vqvae.perplexity``."""
    chosen = torch.bincount(codes.flatten(), minlength=count).to(torch.get_default_dtype())
    if several_processes():
        dist.all_reduce(chosen)
    return torch.special.entr(chosen / chosen.sum()).sum().exp()


def _given(prior: Autoregressive, coarser: Sequence[Tensor], y: Tensor | None) -> Tensor | None:
    return prior.given(coarser, y) if isinstance(prior, BottomPrior) else y


def _check_share(name: str, value: float) -> None:
    if not (isinstance(value, int | float) and 0 <= value <= 1):
        raise ValueError(f"{name} must be a number from 0 to 1, got {value!r}")


# Section 3.2: priors over the codes


class MaskedAttention(nn.Module):
    """Multi-head self-attention over the places before a place, in raster order, added to what
    comes in.

    It stands within a causal network, as in PixelSNAIL (1712.09763, the paper's source for it): a
    query is made of the features at a place, a key and a value of features and the code there. A
    place that stands before all others has nothing to look at; so that each has something, the
    first of the keys is a zero that belongs to a zero value.

    Args:
        p: features of the stream.
        seen: features of a code.
        places: ``H W``; a learned vector tells each.
        heads: they share the features evenly.
        dropout: of the logits, as in the paper.
    """

    def __init__(self, p: int, seen: int, places: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        check_counts(p=p, seen=seen, places=places, heads=heads)
        _check_share("dropout", dropout)
        if p % heads:
            raise ValueError(f"heads must divide the {p} features, got {heads}")
        self.heads = heads
        self.where = nn.Parameter(0.02 * torch.randn(places, p))
        self.query, self.out = nn.Linear(p, p), nn.Linear(p, p)
        self.memory = nn.Linear(p + seen, 2 * p)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor, image: Tensor) -> Tensor:
        """Features ``(B, p, H, W)`` and what the network sees of the codes, ``(B, seen, H, W)``
        -> ``(B, p, H, W)``."""
        here = h.flatten(2).transpose(1, 2) + self.where
        memory = self.memory(torch.cat([here, image.flatten(2).transpose(1, 2)], 2))
        later = torch.ones(2 * [len(self.where)], dtype=torch.bool, device=h.device).triu(1)
        # One place on, behind the zero: what is not later then is strictly before.
        found = self.attend(self.query(here), F.pad(memory, (0, 0, 1, -1)), later)
        return h + found.transpose(1, 2).view_as(h)

    def attend(self, query: Tensor, memory: Tensor, hidden: Tensor | None = None) -> Tensor:
        """``(B, N, p)`` of ``N`` queries and ``M`` keys beside their values, ``(B, M, 2p)``;
        ``hidden (N, M)`` tells which aren't seen."""
        q, k, v = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in (query, *memory.chunk(2, 2))
        )
        logits = self.dropout(q @ k.transpose(2, 3) / math.sqrt(q.shape[3]))
        if hidden is not None:
            logits = logits.masked_fill(hidden, -math.inf)
        found: Tensor = self.out((logits.softmax(3) @ v).transpose(1, 2).flatten(2))
        return found


class _Pointwise(nn.Module):
    """ReLU and a 1x1 convolution, twice, added to what comes in."""

    def __init__(self, p: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.ReLU(), nn.Conv2d(p, p, 1), nn.ReLU(), nn.Conv2d(p, p, 1))

    def forward(self, h: Tensor) -> Tensor:
        return h + self.net(h)


class TopPrior(GatedPixelCNN):
    """The prior of the coarsest codes: a Gated PixelCNN with attention after every so many layers,
    and residual 1x1 convolutions on top.

    Defaults are the paper's for ImageNet (appendix, table of the priors) where it has one.

    Args:
        data_shape: ``(1, H, W)``, the grid behind a 1.
        levels: ``K``.
        p: features of each stack.
        layers: gated layers after the first.
        every: attention stands behind every so many of them.
        heads: of each attention.
        stack: residual blocks of 1x1 convolutions.
        kernel: see ``GatedPixelCNN``.
        first_kernel: see ``GatedPixelCNN``.
        head: see ``GatedPixelCNN``.
        level_features: features of the learned vector of a code. (Not in the paper.)
        dropout: behind each residual layer, and on the logits of attention.
        context_dim: features of the context, see ``Autoregressive``.
        embed: makes the context of ``y``, ``ClassEmbedding`` for instance.
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        *,
        levels: int = 512,
        p: int = 512,
        layers: int = 20,
        every: int = 5,
        heads: int = 8,
        stack: int = 20,
        kernel: int = 5,
        first_kernel: int = 7,
        head: int | None = None,
        level_features: int = 64,
        dropout: float = 0.1,
        context_dim: int = 0,
        embed: nn.Module | None = None,
    ) -> None:
        check_count("every", every, 1)
        check_count("stack", stack)
        _check_share("dropout", dropout)
        super().__init__(
            _check_grid(data_shape),
            levels=levels,
            p=p,
            layers=layers,
            kernel=kernel,
            first_kernel=first_kernel,
            head=head,
            level_features=level_features,
            context_dim=context_dim,
            embed=embed,
        )
        if every > layers:
            raise ValueError(f"every must be at most layers, {layers}, got {every}: no attention")
        self.every, places = every, math.prod(self.data_shape)
        self.attention = nn.ModuleList(
            MaskedAttention(p, self.seen, places, heads, dropout) for _ in range(layers // every)
        )
        self.stack = nn.Sequential(*(_Pointwise(p) for _ in range(stack)))
        self.dropout = nn.Dropout(dropout)

    def after(self, i: int) -> MaskedAttention | None:
        """The attention that stands behind layer ``i``, if one does."""
        stands = i and i % self.every == 0
        return cast(MaskedAttention, self.attention[i // self.every - 1]) if stands else None

    def features(self, image: Tensor, context: Tensor | None = None) -> Tensor:
        """See ``PixelModel``."""
        v = h = image
        for i, layer in enumerate(self.layers):
            v, h = layer(v, h, context)
            h = self.dropout(h) if i else h
            if (attention := self.after(i)) is not None:
                h = attention(h, image)
        return self.head(self.stack(h))

    def pixel(self, n: int, context: Tensor | None = None) -> PixelStep:
        """See ``PixelModel``."""
        return _TopStep(self, n, context)


class _TopStep(PixelStep):
    """When a row begins, the vertical stack runs over the few rows that each of its layers sees.
    At a pixel each layer of the horizontal stack is a matrix product, and attention has one query;
    keys and values of the pixels before lie ready."""

    def __init__(self, model: TopPrior, n: int, context: Tensor | None) -> None:
        super().__init__()
        self.model, self.context, self.index = model, context, -1
        width = model.data_shape[2]
        self.layers = cast(list[GatedLayer], list(model.layers))
        # What each vertical convolution sees of the rows above.
        self.kept = [
            v.weight.new_zeros(n, v.in_channels, v.above, width)
            for v in (layer.vertical for layer in self.layers)
        ]
        self.across = [layer.horizontal.step(n, width) for layer in self.layers]
        self.outs = [layer.out.step(n, 1) for layer in self.layers]
        self.from_v: list[Tensor] = []
        # Keys beside values, of the pixels seen so far behind the zero.
        self.memory = {
            i: attention.where.new_zeros(n, len(attention.where) + 1, 2 * attention.where.shape[1])
            for i in range(len(self.layers))
            if (attention := model.after(i)) is not None
        }
        self.here = dict[int, Tensor]()

    def next_row(self) -> None:
        if self.index >= 0:
            self.kept[0] = torch.cat([self.kept[0][:, :, 1:], self.across[0].finished()], 2)
        self.index += 1
        context = self.context
        if context is not None and context.shape[2] > 1:
            context = context[:, :, self.index : self.index + 1]
        v, self.from_v = self.kept[0], []
        for i, layer in enumerate(self.layers):
            if i:
                v = torch.cat([self.kept[i], v], 2)
                self.kept[i] = v[:, :, 1:]
            v, from_v = layer.down(layer.vertical.row(v), context)
            self.from_v.append(from_v[:, :, 0])

    def at(self, column: int) -> None:
        self.column = column
        for step in self.across:
            step.at(column)

    def put(self, features: Tensor) -> None:
        self.across[0].put(features)
        place = self.index * self.model.data_shape[2] + self.column
        for i, here in self.here.items():
            attention = cast(MaskedAttention, self.model.after(i))
            self.memory[i][:, place + 1] = attention.memory(torch.cat([here, features], 1))

    def forward(self, features: Tensor) -> Tensor:
        h, place = features, self.index * self.model.data_shape[2] + self.column
        for i, (across, out) in enumerate(zip(self.across, self.outs, strict=True)):
            new = out(gate(across(h) + self.from_v[i][:, :, self.column]))
            h = h + new if i else new
            if (attention := self.model.after(i)) is not None:
                self.here[i] = here = h + attention.where[place]
                query = attention.query(here)[:, None]
                h = h + attention.attend(query, self.memory[i][:, : place + 1])[:, 0]
        pixel = self.model.stack(h[:, :, None, None])
        return cast(Tensor, self.model.head(pixel)).flatten(1)


class ConditioningStack(nn.Module):
    """Coarser codes, and the class, as a context for each place of a finer grid.

    Each coarser level, from the coarsest: a learned vector for each code, added to what the level
    before it says; residual blocks; and a transposed convolution to the next grid.

    Args:
        coarser: ``(K, H, W)`` of each coarser level, coarse to fine.
        grid: the finer grid, ``(H, W)``, each a multiple of the one before.
        width: features of all layers, and of the context.
        blocks: residual blocks of each level.
        classes: how many there are; 0: without a class.
    """

    def __init__(
        self,
        coarser: Sequence[Sequence[int]],
        grid: Sequence[int],
        width: int,
        *,
        blocks: int = 20,
        classes: int = 0,
    ) -> None:
        super().__init__()
        check_counts(width=width)
        check_count("blocks", blocks)
        check_count("classes", classes)
        if not len(coarser):
            raise ValueError("coarser must have (K, H, W) of one level or more, got none")
        shapes = [check_image(f"coarser[{i}]", shape) for i, shape in enumerate(coarser)]
        self.counts, self.grids = [s[0] for s in shapes], [s[1:] for s in shapes]
        self.codes = nn.ModuleList(nn.Embedding(count, width) for count in self.counts)
        self.label = ClassEmbedding(classes, width) if classes else None
        self.nets = nn.ModuleList()
        for (h, w), (fine_h, fine_w) in zip(
            self.grids, [*self.grids[1:], tuple(grid)], strict=True
        ):
            if fine_h % h or fine_w % w:
                raise ValueError(
                    f"coarser must have grids of which each divides the next, to {tuple(grid)}, "
                    f"got {self.grids}"
                )
            by = (fine_h // h, fine_w // w)
            residual = (ResidualBlock(width, width) for _ in range(blocks))
            up = nn.ConvTranspose2d(width, width, by, by)
            self.nets.append(nn.Sequential(*residual, nn.ReLU(), up))

    def forward(self, y: Tensor) -> Tensor:
        """``(B, N)`` as ``BottomPrior.given`` makes it -> ``(B, width, H, W)``.

        Raises:
            ValueError: another shape or dtype, or a label or a code out of range.
        """
        sizes = [*[1] * (self.label is not None), *(h * w for h, w in self.grids)]
        check("y", y, a_tensor, batch_of((sum(sizes),), f"(B, {sum(sizes)}), as given makes it"))
        parts = list(y.split(sizes, 1))
        context: Tensor | float = 0.0
        if self.label is not None:
            context = self.label(parts.pop(0)[:, 0])[:, :, None, None]
        for part, count, grid, embed, net in zip(
            parts, self.counts, self.grids, self.codes, self.nets, strict=True
        ):
            check("y", part, levels_of(count))
            context = net(embed(part).transpose(1, 2).unflatten(2, grid) + context)
        return cast(Tensor, context)


class BottomPrior(GatedPixelCNN):
    """The prior of finer codes: a Gated PixelCNN whose context at each place is what a
    ``ConditioningStack`` makes of the coarser ones.

    Its ``y`` is what ``given`` makes of those and of the class. Defaults are the paper's for
    ImageNet (appendix, table of the priors) where it has one.

    Args:
        data_shape: ``(1, H, W)``, the grid behind a 1.
        coarser: ``(K, H, W)`` of each coarser level, coarse to fine.
        levels: ``K``.
        p: features of each stack.
        layers: gated layers after the first.
        blocks: residual blocks of the conditioning stack.
        width: features of the conditioning stack; ``p`` if left out.
        classes: how many there are; 0: the codes don't depend on the class.
        kernel: see ``GatedPixelCNN``.
        first_kernel: see ``GatedPixelCNN``.
        head: see ``GatedPixelCNN``.
        level_features: features of the learned vector of a code. (Not in the paper.)
        dropout: behind each residual layer.
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        coarser: Sequence[Sequence[int]],
        *,
        levels: int = 512,
        p: int = 512,
        layers: int = 20,
        blocks: int = 20,
        width: int | None = None,
        classes: int = 0,
        kernel: int = 5,
        first_kernel: int = 7,
        head: int | None = None,
        level_features: int = 64,
        dropout: float = 0.1,
    ) -> None:
        _check_share("dropout", dropout)
        shape, width = _check_grid(data_shape), p if width is None else width
        super().__init__(
            shape,
            levels=levels,
            p=p,
            layers=layers,
            kernel=kernel,
            first_kernel=first_kernel,
            head=head,
            level_features=level_features,
            context_dim=width,
            embed=ConditioningStack(coarser, shape[1:], width, blocks=blocks, classes=classes),
        )
        self.classes, self.dropout = classes, nn.Dropout(dropout)

    def given(self, coarser: Sequence[Tensor], y: Tensor | None = None) -> Tensor:
        """``y`` of all methods: the label, if the prior has classes, and the codes of all coarser
        levels, flat, one behind the other. Without classes the label is left out.

        Args:
            coarser: codes ``(B, *grid)`` of each coarser level, coarse to fine.
            y: labels ``(B,)``.

        Returns:
            int64 ``(B, N)``.

        Raises:
            TypeError: ``y`` is no tensor.
            ValueError: ``y`` is missing, or is not one label from 0 to ``classes - 1`` each.
        """
        parts = [codes.flatten(1) for codes in coarser]
        if self.classes:
            if y is None:
                raise ValueError(
                    f"y must have one label for each of {len(parts[0])} items, got None; this "
                    f"prior was made with classes={self.classes}"
                )
            check("y", y, rows(len(parts[0]), labels=True), labels_of(self.classes))
            parts = [y[:, None].to(parts[0].dtype), *parts]
        return torch.cat(parts, 1)

    def features(self, image: Tensor, context: Tensor | None = None) -> Tensor:
        """See ``PixelModel``."""
        v = h = image
        for i, layer in enumerate(self.layers):
            v, h = layer(v, h, context)
            h = self.dropout(h) if i else h
        return self.head(h)


def _check_grid(data_shape: Sequence[int]) -> tuple[int, int, int]:
    shape = check_image("data_shape", data_shape)
    if shape[0] != 1:
        raise ValueError(f"data_shape must be (1, H, W), one code for each place, got {shape}")
    return shape


# Section 3.3: diversity for quality


def reject(samples: Tensor, score: Callable[[Tensor], Tensor], keep: float) -> Tensor:
    """Those samples that score best, the best first.

    The paper scores samples of a class by the probability of that class that a classifier gives
    them: ``n`` good ones of a class are ``reject(model.sample(4 * n, y), lambda x:
    classifier(x).softmax(1)[:, label], 0.25)``. Each class is asked for by itself.

    Args:
        samples: ``(B, *data_shape)``.
        score: of each, ``(B, *data_shape) -> (B,)``.
        keep: share of the samples that is kept, above 0 and up to 1; one at least.

    Returns:
        ``(keep B, *data_shape)``.

    Raises:
        ValueError: ``keep`` is out of range, or a score is missing or nan.
    """
    if not (isinstance(keep, int | float) and 0 < keep <= 1):
        raise ValueError(f"keep must be a number above 0 and up to 1, got {keep!r}")
    with torch.no_grad():
        scores = score(samples)
    if scores.shape != (len(samples),) or bool(scores.isnan().any()):
        got = "nan" if scores.shape == (len(samples),) else f"{tuple(scores.shape)}"
        raise ValueError(f"score must give a number for each of {len(samples)} items, got {got}")
    best = scores.argsort(descending=True, stable=True)
    return samples[best[: max(1, round(keep * len(samples)))]]
