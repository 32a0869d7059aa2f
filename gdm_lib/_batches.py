"""What a training loop reads: batches from arrays, data sets and loaders, in an order that depends
on the seed alone.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
)

__all__ = ["Array", "Batch", "Data", "Source", "Transform", "seed_of", "source_of"]

Array = Tensor | np.ndarray
Data = Array | tuple[Array, Array | None] | Dataset[Any] | DataLoader[Any]
"""``x``, or ``(x, y)``, tensors or NumPy arrays whose first dimension counts the items; a map-style
``Dataset`` of such items; or a ``DataLoader`` of such batches."""

Transform = Callable[[Tensor, torch.Generator], Tensor]
Batch = tuple[Tensor, ...]
"""``(x,)`` or ``(x, y)``."""

# Samplers whose order follows from the state of torch's generators when the epoch begins.
SEEDED = (SequentialSampler, RandomSampler, SubsetRandomSampler, WeightedRandomSampler)


class Source(Protocol):
    """Where the batches of a run come from.

    Attributes:
        items: how many there are.
        batch_size: items in a batch, over all processes together.
        per_epoch: batches in an epoch.
        kind: what a checkpoint must agree with to be resumed.
    """

    items: int
    batch_size: int
    per_epoch: int
    kind: str

    def parts(self, number: int, count: int) -> list[Batch]:
        """This process's share of batch ``number`` = 0, 1, 2, ... of the run, in so many parts."""
        ...

    def once(self, batch_size: int) -> Iterator[tuple[int, Batch]]:
        """Every item once, in batches, and how many of a batch count: 0 for a process that has
        none left, and joins in for the others."""
        ...

    def given_back(self) -> Any:
        """A context, after which the caller's generators are as before."""
        ...


def source_of(
    data: Data,
    name: str,
    *,
    batch_size: int,
    given: bool,
    transform: Transform | None,
    seed: int,
    rank: int = 0,
    world: int = 1,
    resumable: bool = False,
) -> Source:
    """The source that ``data`` is.

    Args:
        data: what the caller gave.
        name: of the argument, for messages.
        batch_size: items in a batch, over all processes together.
        given: whether the caller gave that; a loader has a size of its own.
        transform: whether bytes are turned into numbers depends on it.
        seed: of the order.
        rank: number of this process.
        world: how many processes share each batch.
        resumable: whether a run must be able to go on later, in the same order.

    Raises:
        ValueError: ``data`` isn't what a run can read.
    """
    if isinstance(data, DataLoader):
        loader = _Loader(data, name, seed, world, resumable)
        if given and name == "data" and batch_size != loader.batch_size:
            raise ValueError(
                f"batch_size must be left out with a DataLoader, which makes batches of "
                f"{loader.batch_size} itself, got {batch_size}"
            )
        return loader
    return _Items(data, name, batch_size, transform, seed, rank, world)


def seed_of(seed: int, stream: str, index: int, rank: int = 0) -> int:
    """Hashed, so that neither streams nor neighbouring seeds share their numbers."""
    digest = hashlib.blake2b(f"{seed} {stream} {index} {rank}".encode(), digest_size=7).digest()
    return int.from_bytes(digest, "big")


class _Items:
    """Tensors, arrays or a map-style data set: each epoch is a new shuffle cut into batches."""

    kind = "items"

    def __init__(
        self,
        data: Any,
        name: str,
        batch_size: int,
        transform: Transform | None,
        seed: int,
        rank: int,
        world: int,
    ) -> None:
        self.items, self.read = _reader(data, name, transform)
        self.batch_size, self.per_epoch = batch_size, self.items // max(1, batch_size)
        self.rank, self.world = rank, world

        @lru_cache(maxsize=1)
        def order(epoch: int) -> Tensor:
            shuffle = torch.Generator().manual_seed(seed_of(seed, "order", epoch))
            return torch.randperm(self.items, generator=shuffle)

        self.order = order

    def parts(self, number: int, count: int) -> list[Batch]:
        place = number % self.per_epoch * self.batch_size
        rows = self.order(number // self.per_epoch)[place : place + self.batch_size]
        return [self.read(part) for part in rows.chunk(self.world)[self.rank].chunk(count)]

    def once(self, batch_size: int) -> Iterator[tuple[int, Batch]]:
        for rows in torch.arange(self.items).split(batch_size):
            mine = rows[self.rank :: self.world]
            yield len(mine), self.read(mine if len(mine) else rows[:1])

    @contextmanager
    def given_back(self) -> Iterator[None]:
        yield


class _Loader:
    """A ``DataLoader``, in its own order and its own batches.

    Its generators are seeded where an epoch begins and before each batch, from the seed and the
    number of the batch: what a batch holds doesn't depend on where the run was begun.
    """

    def __init__(
        self, loader: DataLoader[Any], name: str, seed: int, world: int, resumable: bool
    ) -> None:
        self.loader, self.name, self.seed = loader, name, seed
        if isinstance(loader.dataset, IterableDataset):
            raise ValueError(
                f"{name}: a DataLoader needs a map-style Dataset, whose order can be repeated, got "
                "an iterable one; stack its items into a tensor"
            )
        if world > 1:
            raise ValueError(
                f"{name} can't be a DataLoader on {world} processes, since fit itself splits each "
                "batch among them; give its dataset"
            )
        sampler = loader.sampler
        own = type(loader.batch_sampler) not in (BatchSampler, type(None))
        if resumable and (own or type(sampler) not in SEEDED or loader.persistent_workers):
            what = type(loader.batch_sampler if own else sampler).__name__
            what = "persistent workers" if loader.persistent_workers else f"the sampler {what}"
            raise ValueError(
                f"{name}: a DataLoader with {what} can't be resumed in the same order; leave "
                "out checkpoint, or give a DataLoader with shuffle=True or False alone"
            )
        self.items, self.per_epoch = len(cast(Any, loader.dataset)), len(loader)
        if not self.per_epoch:
            raise ValueError(
                f"{name} must have at least one item, and a DataLoader one batch, got {self.items} "
                f"items in batches of {loader.batch_size} with drop_last={loader.drop_last}"
            )
        made = loader if loader.batch_size else loader.batch_sampler
        self.batch_size: int = getattr(made, "batch_size", 1)
        self.kind = f"DataLoader, {type(sampler).__name__}, {loader.num_workers} workers"
        if loader.drop_last:
            self.kind += ", drop_last"
        places = (loader, sampler, getattr(loader.batch_sampler, "sampler", None))
        found = [getattr(place, "generator", None) for place in places]
        self.generators = list({id(g): g for g in found if g is not None}.values())
        self.upcoming = -1
        self.batches: Iterator[Any] = iter(())
        if loader.collate_fn is not None and loader.batch_size is not None:
            with torch.random.fork_rng([]):
                _batch_of(self._collated, name)

    def _collated(self) -> Any:
        return self.loader.collate_fn([self.loader.dataset[0]])

    def parts(self, number: int, count: int) -> list[Batch]:
        place = number % self.per_epoch
        if place == 0 or number != self.upcoming:
            self._begin("order", number // self.per_epoch)
            for earlier in range(number - place, number):
                self._draw("batch", earlier)
        batch = self._draw("batch", number)
        self.upcoming = number + 1
        if len(batch[0]) % count:
            raise ValueError(
                f"accumulate must cut every batch of the DataLoader into even parts, got {count} "
                f"for a batch of {len(batch[0])}; give the DataLoader drop_last=True or another "
                "batch_size, or leave out accumulate"
            )
        return list(zip(*(part.chunk(count) for part in batch), strict=True))

    def once(self, batch_size: int) -> Iterator[tuple[int, Batch]]:
        self._begin("valid", 0)
        for number in range(self.per_epoch):
            batch = self._draw("valid batch", number)
            yield len(batch[0]), batch
        self.batches, self.upcoming = iter(()), -1

    def _begin(self, stream: str, epoch: int) -> None:
        seed = seed_of(self.seed, stream, epoch)
        for generator in self.generators:
            generator.manual_seed(seed)
        if hasattr(self.loader.sampler, "set_epoch"):
            self.loader.sampler.set_epoch(epoch)
        with torch.random.fork_rng([]):
            torch.default_generator.manual_seed(seed)
            self.batches = iter(self.loader)

    def _draw(self, stream: str, number: int) -> Batch:
        with torch.random.fork_rng([]):
            torch.default_generator.manual_seed(seed_of(self.seed, stream, number))
            try:
                return _batch_of(lambda: next(self.batches), self.name)
            except StopIteration:
                raise ValueError(
                    f"{self.name}: the DataLoader has length {self.per_epoch}, but made fewer "
                    "batches"
                ) from None

    @contextmanager
    def given_back(self) -> Iterator[None]:
        states = [(generator, generator.get_state()) for generator in self.generators]
        try:
            yield
        finally:
            self.batches = iter(())  # ends its workers
            for generator, state in states:
                generator.set_state(state)


# Items


_Reader = Callable[[Tensor], Batch]


def _reader(data: Any, name: str, transform: Transform | None) -> tuple[int, _Reader]:
    """The number of items, and what reads the batch of given rows."""
    if isinstance(data, TensorDataset):
        data = data.tensors
    if isinstance(data, Dataset):
        return _dataset_reader(cast(Any, data), name)
    parts = tuple(data) if isinstance(data, tuple | list) else (data,)
    if len(parts) == 2 and parts[1] is None:
        parts = parts[:1]
    if not 1 <= len(parts) <= 2 or not all(isinstance(t, Tensor | np.ndarray) for t in parts):
        raise ValueError(
            f"{name} must be a tensor x or a pair of tensors (x, y), or NumPy arrays, a map-style "
            f"Dataset or a DataLoader, got ({', '.join(type(t).__name__ for t in parts)})"
            f"{_way_out(data)}"
        )
    tensors = [_tensor(part, name) for part in parts]
    shapes = " and ".join(str(tuple(t.shape)) for t in tensors)
    if any(t.ndim == 0 or len(t) != len(tensors[0]) for t in tensors):
        raise ValueError(f"{name}: x and y must have the same first dimension, got {shapes}")
    if len(tensors[0]) == 0:
        raise ValueError(f"{name} must have at least one item, got none")
    if tensors[0].dtype == torch.uint8 and transform is None:
        raise ValueError(
            f"{name} holds bytes; take x / 255, or give a transform that does; a model of the "
            "levels 0 to 255 takes x.long()"
        )

    def read(rows: Tensor) -> Batch:
        return tuple(t[rows.to(t.device)] for t in tensors)

    return len(tensors[0]), read


def _way_out(data: Any) -> str:
    """What to give instead of something that is near to data."""
    if all(isinstance(getattr(data, name, None), Tensor) for name in "xy"):
        return "; give its x, or (its x, its y) to a model of y"
    if callable(getattr(data, "to_numpy", None)):
        return "; give its to_numpy()"
    if isinstance(data, Mapping):
        return "; give the entry that holds x, or a pair of two of them"
    if isinstance(data, tuple | list | range | Iterator):
        return "; stack the items into one tensor, as torch.stack or torch.tensor do"
    return ""


def _tensor(part: Array, name: str) -> Tensor:
    if isinstance(part, Tensor):
        if part.layout != torch.strided or part.is_quantized or part.is_meta:
            raise ValueError(f"{name} must be dense, got a tensor {part.layout} on {part.device}")
        return part.detach()
    if isinstance(part, np.ma.MaskedArray):
        raise ValueError(f"{name} must have every value, got a masked array; give its filled(...)")
    try:
        native = part.astype(part.dtype.newbyteorder("="), copy=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a read-only array is only read
            backwards = min(native.strides, default=0) < 0
            return torch.from_numpy(native.copy() if backwards else native)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} must hold numbers that torch has, got an array of {part.dtype}; take "
            'x.astype("float32"), or "int64" for levels and labels'
        ) from error


def _dataset_reader(dataset: Any, name: str) -> tuple[int, _Reader]:
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        raise ValueError(
            f"{name} must be a map-style Dataset with a length, got an iterable one; stack its "
            "items into a tensor"
        )
    items = len(dataset)
    if items == 0:
        raise ValueError(f"{name} must have at least one item, got none")

    def read(rows: Tensor) -> Batch:
        return _batch_of(lambda: default_collate([dataset[i] for i in rows.tolist()]), name)

    with torch.random.fork_rng([]):
        read(torch.tensor([0]))
    return items, read


def _batch_of(make: Callable[[], Any], name: str) -> Batch:
    """A batch, if it is one of ``x`` or ``(x, y)``."""
    try:
        batch = make()
    except (TypeError, RuntimeError) as error:
        raise ValueError(
            f"{name}: the items can't be put into one batch ({error}); each must be x or (x, y), "
            "tensors or numbers, all of one shape"
        ) from error
    parts: Sequence[Any] = batch if isinstance(batch, tuple | list) else (batch,)
    if len(parts) == 2 and parts[1] is None:
        parts = parts[:1]
    if not 1 <= len(parts) <= 2 or not all(isinstance(t, Tensor | np.ndarray) for t in parts):
        got = ", ".join(type(part).__name__ for part in parts)
        if isinstance(batch, Mapping):
            got = f"a dict of {', '.join(map(repr, batch))}"
        raise ValueError(
            f"{name}: each item must be x or (x, y), got {got}; give a Dataset that returns the "
            "tensors alone, or a collate_fn that picks them"
        )
    tensors = tuple(_tensor(part, name) for part in parts)
    if any(t.ndim == 0 or len(t) != len(tensors[0]) for t in tensors):
        shapes = " and ".join(str(tuple(t.shape)) for t in tensors)
        raise ValueError(f"{name}: x and y must have the same first dimension, got {shapes}")
    return tensors
