"""What ``fit`` is given: arrays, data sets, loaders and numbers. Each works, or is named."""

import math
import re
import signal
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    Sampler,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
)

from gdm_lib.bijections import BatchNorm
from gdm_lib.data import digits
from gdm_lib.training import NonFiniteLossError, fit, fit_adversarial
from tests.zoo import ZOO, made

fit = partial(fit, progress=False)
fit_adversarial = partial(fit_adversarial, progress=False)
X = torch.randn(20, 3, generator=torch.Generator().manual_seed(7))
Y = torch.arange(20) % 3


class Noisy(nn.Module):
    """Fits a mean under noise; remembers what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(3))
        self.drop = nn.Dropout(0.5)
        self.seen: list[tuple[Tensor, Tensor | None]] = []

    def loss(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        self.seen.append((x, y))
        return {"loss": (self.w - self.drop(x) + 0.1 * torch.randn_like(x)).square().mean()}


class Items(Dataset[Any]):
    """A map-style data set of what a function makes of each number."""

    def __init__(self, make: Any, n: int = 20) -> None:
        self.make, self.n = make, n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> Any:
        return self.make(i)


def seen(data: Any, **settings: Any) -> Noisy:
    model = Noisy()
    if not isinstance(data, DataLoader):
        settings = {"batch_size": 4} | settings
    fit(model, data, **({"steps": 8} | settings))
    return model


def same_run(one: Noisy, two: Noisy) -> bool:
    return torch.equal(one.w, two.w) and all(
        torch.equal(a, b) and (y is None) == (z is None) and (y is None or torch.equal(y, z))
        for (a, y), (b, z) in zip(one.seen, two.seen, strict=True)
    )


# Arrays


def read_only(x: Tensor) -> np.ndarray:
    array = x.numpy().copy()
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    "make",
    [
        lambda x: x.numpy(),
        read_only,
        lambda x: x.double(),
        lambda x: x.double().numpy(),
        lambda x: x.numpy().astype(">f4"),
        lambda x: x.numpy()[::-1].copy()[::-1],
        lambda x: np.asfortranarray(x.numpy()),
        lambda x: x.clone().requires_grad_(),
        lambda x: (x.numpy(),),
        lambda x: (x, None),
        lambda x: Items(lambda i: x[i].numpy()),
        lambda x: Items(lambda i: x[i].double()),
        lambda x: Items(lambda i: [x[i]]),
        lambda x: Subset(TensorDataset(torch.cat([x, x])), range(20)),
    ],
)
def test_arrays_and_precisions_train_like_float32_tensors(make: Any) -> None:
    assert same_run(seen(X), seen(make(X), valid=None))


@pytest.mark.parametrize(
    "make",
    [
        lambda x, y: (x.numpy(), y.numpy()),
        lambda x, y: [x, y.numpy().astype("int32")],
        lambda x, y: (x, y.to(torch.uint8)),
        lambda x, y: TensorDataset(x, y.int()),
        lambda x, y: Items(lambda i: (x[i], int(y[i]))),
        lambda x, y: Items(lambda i: (x[i].numpy(), np.int16(y[i]))),
    ],
)
def test_labels_of_any_width_are_int64(make: Any) -> None:
    model = seen(make(X, Y))
    assert same_run(seen((X, Y)), model)
    assert all(y is not None and y.dtype == torch.int64 for _, y in model.seen)


def test_the_callers_arrays_stay_as_they_are() -> None:
    array = X.numpy().copy()
    fit(Noisy(), array, steps=2, batch_size=4, transform=lambda x, generator: x.mul_(2))
    assert np.array_equal(array, X.numpy())


def test_double_precision_models_take_single_precision_data() -> None:
    model = Noisy().double()
    fit(model, X.numpy(), steps=2, batch_size=4)
    assert all(x.dtype == torch.float64 for x, _ in model.seen)


BOOK = ["vae", "realnvp", "made", "maf_of_y", "wavenet", "realnvp_image"]


@pytest.mark.parametrize("name", BOOK)
def test_models_of_the_book_take_arrays_and_loaders(name: str) -> None:
    x, y = ZOO[name].data(12)
    arrays = [part.numpy() for part in (x, y) if part is not None]
    arrays = [a.astype("float64") if a.dtype == np.float32 else a for a in arrays]
    runs = []
    for data in ((x, y), tuple(arrays)):
        model = made(name)
        settle = any(isinstance(part, BatchNorm) for part in model.modules())
        fit(model, data, steps=2, batch_size=4, settle=settle)
        runs.append(model)
    a, b = (model.state_dict() for model in runs)
    assert all(torch.equal(a[key], b[key]) for key in a)
    loader = DataLoader(TensorDataset(*(t for t in (x, y) if t is not None)), 4, shuffle=True)
    assert len(fit(made(name), loader, epochs=2).train_steps) == 6


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.array(["a", "b"]), r"data must hold numbers that torch has, got an array of <U1; take"),
        (np.array([None, 1]), "data must hold numbers that torch has, got an array of object"),
        (np.ma.masked_equal(X.numpy(), 0), r"got a masked array; give its filled\(...\)"),
        (np.zeros((0, 3), "float32"), "data must have at least one item, got none"),
        (np.float32(3), r"data must be a tensor x or a pair .* got \(float32\)"),
        (np.array(3.0), r"the same first dimension, got \(\)"),
        (np.zeros((20, 3), "uint8"), r"data holds bytes; take x / 255, .* takes x.long\(\)"),
        ((X.numpy(), Y[:7].numpy()), r"the same first dimension, got \(20, 3\) and \(7,\)"),
        (X.to_sparse(), "data must be dense"),
        (digits.load().train, "got \\(Labelled\\); give its x, or \\(its x, its y\\)"),
        ({"x": X}, r"got \(dict\); give the entry that holds x"),
        ([X[0], X[1], X[2]], "stack the items into one tensor"),
        ((None, X), r"got \(NoneType, Tensor\)"),
        ("mnist", r"got \(str\)"),
        (Items(lambda i: X[i], n=0), "data must have at least one item, got none"),
        (Items(lambda i: {"image": X[i]}), "each item must be x or .* got a dict of 'image'; give"),
        (Items(lambda i: (X[i], 1, 2)), r"each item must be x or \(x, y\), got Tensor, Tensor"),
        (Items(lambda i: "text"), "each item must be x or"),
        (Items(lambda i: object()), "items can't be put into one batch"),
        (Items(lambda i: (X[i], None)), "items can't be put into one batch"),
    ],
)
@pytest.mark.parametrize("name", ["data", "valid"])
def test_what_is_no_data_is_named_before_the_first_step(data: Any, message: str, name: str) -> None:
    model = Noisy()
    given = {"data": X, "steps": 2, "batch_size": 4} | {name: data}
    with pytest.raises(ValueError, match=re.sub("^data", name, message)):
        fit(model, **given)
    assert not model.seen


def test_items_of_several_shapes_are_named() -> None:
    with pytest.raises(ValueError, match=r"data: the items can't be put into one batch \(stack"):
        seen(Items(lambda i: X[i, : 1 + i % 2]))


def test_fewer_items_than_a_batch_are_named_and_the_way_out_works() -> None:
    with pytest.raises(ValueError, match=r"batch_size must lie in 1\.\.20, .* got 128"):
        fit(Noisy(), X, steps=2)
    fit(Noisy(), X, steps=2, batch_size=20)


@pytest.mark.parametrize("name", [name for name, animal in ZOO.items() if not animal.classes])
def test_labels_for_a_model_of_none_are_named_and_the_way_out_works(name: str) -> None:
    x, _ = ZOO[name].data(8)
    data = TensorDataset(x, Y[:8])
    with pytest.raises(ValueError, match=r"must be None.*data comes with labels: give its x alone"):
        fit(made(name), data, steps=1, batch_size=4)
    fit(made(name), torch.stack([x for x, y in data]), steps=1, batch_size=4)


def test_labels_for_a_loss_of_x_alone_are_named() -> None:
    class Alone(Noisy):
        def loss(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
            return super().loss(x)

    with pytest.raises(ValueError, match=r"model.loss takes no y; data comes with labels"):
        fit(Alone(), (X, Y), steps=1, batch_size=4)
    fit(Alone(), X, steps=1, batch_size=4)


def test_a_transform_that_returns_no_tensor_is_named() -> None:
    with pytest.raises(ValueError, match="transform must return a tensor, got ndarray"):
        fit(Noisy(), X, steps=1, batch_size=4, transform=lambda x, generator: x.numpy())


# Loaders


def loader(n: int = 20, *, y: bool = False, **settings: Any) -> DataLoader[Any]:
    parts = (X[:n], Y[:n]) if y else (X[:n],)
    return DataLoader(TensorDataset(*parts), **({"batch_size": 4} | settings))


def test_a_loader_keeps_its_own_order_and_batches() -> None:
    model = seen(loader(18, y=True), epochs=2, steps=None)
    assert [len(x) for x, _ in model.seen] == [4, 4, 4, 4, 2] * 2
    for epoch in (model.seen[:5], model.seen[5:]):
        assert torch.equal(torch.cat([x for x, _ in epoch]), X[:18])
        assert torch.equal(torch.cat([y for _, y in epoch if y is not None]), Y[:18])
    assert [len(x) for x, _ in seen(loader(18, drop_last=True), steps=5).seen] == [4] * 5


def test_a_shuffling_loader_shows_each_item_once_an_epoch_in_a_new_order() -> None:
    model = seen(loader(shuffle=True), epochs=2, steps=None)
    epochs = [torch.cat([x for x, _ in part]) for part in (model.seen[:5], model.seen[5:])]
    assert not torch.equal(*epochs)
    assert all(torch.equal(epoch.sort(0).values, X.sort(0).values) for epoch in epochs)


class Jittered(Dataset[Tensor]):
    """Draws from the global generator when an item is read."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, i: int) -> Tensor:
        return X[i] + torch.rand(3)


def weighted() -> WeightedRandomSampler:
    return WeightedRandomSampler(list(range(1, 21)), 20)


@pytest.mark.parametrize(
    "make",
    [
        lambda: loader(18),
        lambda: loader(18, shuffle=True),
        lambda: loader(shuffle=True, generator=torch.Generator().manual_seed(3)),
        lambda: loader(sampler=weighted()),
        lambda: DataLoader(Jittered(), batch_size=4, shuffle=True),
        lambda: DataLoader(Jittered(), batch_size=4, shuffle=True, num_workers=1),
    ],
)
def test_runs_over_loaders_repeat_and_resume_to_the_same_bits(make: Any, tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    whole = seen(make(), steps=8, seed=3)
    torch.manual_seed(1)
    again = make()
    next(iter(again))  # whatever was read of it before
    assert same_run(whole, seen(again, steps=8, seed=3))
    seen(make(), steps=3, seed=3, checkpoint=path)
    resumed = Noisy()
    fit(resumed, make(), steps=8, seed=3, checkpoint=path, resume=True)
    assert torch.equal(resumed.w, whole.w)
    assert all(
        torch.equal(a, b) for (a, _), (b, _) in zip(resumed.seen, whole.seen[3:], strict=True)
    )


def test_a_loaders_generators_are_given_back() -> None:
    generator = torch.Generator().manual_seed(3)
    before, globally = generator.get_state(), torch.get_rng_state()
    seen(loader(shuffle=True, generator=generator), valid=loader(shuffle=True))
    assert torch.equal(generator.get_state(), before)
    assert torch.equal(torch.get_rng_state(), globally)


def test_a_checkpoint_of_tensors_is_not_one_of_a_loader(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    seen(X, checkpoint=path)
    with pytest.raises(ValueError, match="data was items there and is DataLoader"):
        seen(loader(), checkpoint=path, resume=True)


def test_a_loader_validates_like_a_tensor_and_plays_games() -> None:
    models = [Noisy().eval(), Noisy().eval()]
    logs = []
    for model, valid in zip(models, (X[:10], loader(10)), strict=True):
        model.drop = nn.Identity()
        model.loss = lambda x, y=None, m=model: {"loss": (m.w - x).square().mean()}  # type: ignore[method-assign]
        logs.append(fit(model, X, steps=6, batch_size=4, valid=valid, valid_every=2).valid)
    assert logs[0] == logs[1]

    class Game(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.generator, self.discriminator = nn.Linear(2, 3), nn.Linear(3, 1)
            self.seen: list[Tensor] = []

        def discriminator_loss(self, real: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
            self.seen.append(real)
            return {"loss": self.discriminator(real).mean()}

        def generator_loss(self, n: int, y: Tensor | None = None) -> dict[str, Tensor]:
            return {"loss": -self.discriminator(self.generator(torch.randn(n, 2))).mean()}

    game = Game()
    history = fit_adversarial(game, loader(), steps=5, critic_steps=2)
    assert torch.equal(torch.cat(game.seen), torch.cat([X, X]))
    assert len(history.train_steps) == 5


class Endless(IterableDataset[Tensor]):
    def __iter__(self) -> Iterator[Tensor]:
        return iter(X)


class Backwards(Sampler[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(19, -1, -1))

    def __len__(self) -> int:
        return 20


class Short(Backwards):
    def __iter__(self) -> Iterator[int]:
        return iter(range(3))


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (lambda: DataLoader(Endless(), 4), {}, "needs a map-style Dataset, .* stack its items"),
        (lambda: loader(3, drop_last=True), {}, "got 3 items in batches of 4 with drop_last=True"),
        (loader, {"batch_size": 5}, "batch_size must be left out with a DataLoader, .* of 4"),
        (loader, {"accumulate": 3}, "accumulate must cut every batch of the DataLoader"),
        (lambda: DataLoader(Items(lambda i: {"x": X[i]}), 4), {}, "got a dict of 'x'; give"),
        (lambda: loader(sampler=Backwards()), {"checkpoint": "run"}, "the sampler Backwards can't"),
        (
            lambda: loader(batch_sampler=[[0, 1], [2, 3]], batch_size=1),
            {"checkpoint": "run"},
            "the sampler list can't be resumed",
        ),
        (lambda: loader(sampler=Short()), {}, "has length 5, but made fewer batches"),
    ],
)
def test_loaders_that_cannot_be_read_are_named(
    make: Any, settings: dict[str, Any], message: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        fit(Noisy(), make(), **({"steps": 3} | settings))


def test_a_sampler_of_ones_own_works_without_a_checkpoint() -> None:
    model = seen(loader(sampler=Backwards()), steps=5)
    assert torch.equal(torch.cat([x for x, _ in model.seen]), X.flip(0))
    model = seen(loader(batch_sampler=[[0, 1], [2, 3]], batch_size=1), steps=2)
    assert torch.equal(torch.cat([x for x, _ in model.seen]), X[:4])


# Modes


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "end", ["done", "interrupt", "second interrupt", "error", "nan", "refused"]
)
def test_modes_are_given_back_however_the_run_ends(training: bool, end: str) -> None:
    class Ends(Noisy):
        def loss(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
            assert self.training
            terms = super().loss(x)
            if len(self.seen) == 2:
                if "interrupt" in end:
                    signal.raise_signal(signal.SIGINT)
                if end == "second interrupt":
                    signal.raise_signal(signal.SIGINT)
                if end == "error":
                    raise RuntimeError("of the model's own")
                if end == "nan":
                    terms["loss"] = terms["loss"] * math.nan
            return terms

    model = Ends().train(training)
    model.drop.train(not training)
    settings = {"steps": 3, "batch_size": 4, "callback": lambda *args: None, "callback_every": 1}
    if end == "refused":
        settings["batch_size"] = 99
    try:
        fit(model, X, **settings)
    except (RuntimeError, NonFiniteLossError, ValueError):
        assert end in ("error", "nan", "refused")
    assert model.training == training
    assert model.drop.training != training


# Numbers


ODD: list[Any] = [
    -1, 0, 1, 3, 2.0, 0.5, True, False, None, 10**9 + 1, 10**12, 10**400, -(10**400), math.nan,
    math.inf, -math.inf, "3", "", b"3", [], (3,), {}, 1j, np.int64(3), np.int64(0),
    np.float64(0.5), np.float32("nan"), np.array(3), np.array([3, 4]), torch.tensor(3),
    torch.tensor(0.5), torch.tensor([1, 2]), object(), int, lambda step: 1.0,
]  # fmt: skip
NUMBERS = [
    "steps", "epochs", "batch_size", "accumulate", "clip_grad_norm", "ema", "valid_every",
    "measure_every", "callback_every", "checkpoint_every", "seed",
]  # fmt: skip
FUNCTIONS = ["transform", "measure", "callback", "optimizer", "critic_optimizer", "after_critic"]
OTHERS = ["resume", "settle", "checkpoint", "schedule", "transform", "measure", "callback",
          "optimizer", "fabric"]  # fmt: skip


@pytest.mark.parametrize("name", [*NUMBERS, *OTHERS])
def test_every_odd_argument_is_named_or_works(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    usual: dict[str, Any] = {"steps": 3, "batch_size": 4, "checkpoint": "run", "valid": X[:4]}
    usual |= {"measure": lambda model: {}, "callback": lambda *args: None}
    for value in ODD:
        if callable(value) and name in FUNCTIONS:
            continue  # what a caller's own function raises is the caller's
        settings = usual | {name: value}
        if name == "epochs":
            del settings["steps"]
        model = Noisy()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                history = fit(model, X, **settings)
        except ValueError as error:
            told = str(error)
        else:
            told = ""
        if told:
            assert name in told, (value, told)
            assert len(told) < 1000, value
            assert torch.equal(model.w, torch.zeros(3)), (value, told)
        else:
            assert 1 <= len(history.train_steps) <= 15, value
            assert model.w.isfinite().all()
            assert not isinstance(value, bool) or name in ("resume", "settle")


@pytest.mark.parametrize(
    "name",
    ["steps", "batch_size", "critic_steps", "accumulate", "after_critic", "critic_optimizer"],
)
def test_every_odd_argument_of_a_game_is_named_or_works(name: str) -> None:
    class Game(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.generator, self.discriminator = nn.Linear(2, 3), nn.Linear(3, 1)

        def discriminator_loss(self, real: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
            return {"loss": self.discriminator(real).square().mean()}

        def generator_loss(self, n: int, y: Tensor | None = None) -> dict[str, Tensor]:
            return {"loss": self.discriminator(self.generator(torch.randn(n, 2))).square().mean()}

    for value in ODD:
        if callable(value) and name in FUNCTIONS:
            continue
        settings = {"steps": 3, "batch_size": 4} | {name: value}
        try:
            history = fit_adversarial(Game(), X, **settings)
        except ValueError as error:
            told = str(error)
        else:
            told = ""
        if told:
            assert name in told, (value, told)
        else:
            assert 1 <= len(history.train_steps) <= 3, value


def test_an_optimizer_that_is_made_already_is_named_and_the_way_out_works() -> None:
    model = Noisy()
    with pytest.raises(ValueError, match=r"give partial\(Adam, lr=\.\.\.\), of functools"):
        fit(model, X, steps=1, batch_size=4, optimizer=torch.optim.Adam(model.parameters()))
    fit(model, X, steps=1, batch_size=4, optimizer=partial(torch.optim.Adam, lr=1e-3))
