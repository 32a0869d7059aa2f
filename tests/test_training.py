"""``fit`` against written-out loops, closed forms and runs of its own that were cut in two."""

import copy
import json
import math
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import pytest
import torch
from lightning_fabric import Fabric
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from gdm_lib.training import History, NonFiniteLossError, adam, cosine, fit, fit_annealed

matplotlib.use("Agg")
fit = partial(fit, progress=False)
SPLITS = ("training", "held-out")
SGD = partial(torch.optim.SGD, lr=0.1)


class Mean(nn.Module):
    """Fits ``w`` to the data's mean: the gradient is ``w - mean(x)``, by hand."""

    def __init__(self, dim: int = 2) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(dim))
        self.seen: list[Tensor] = []

    def loss(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        self.seen.append(x)
        return {"loss": 0.5 * (self.w - x).square().sum(1).mean()}


class Noisy(nn.Module):
    """Everything that could keep a resumed run from repeating: dropout, noise, running buffers."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(3, width), nn.BatchNorm1d(width), nn.Dropout(0.5), nn.Linear(width, 3)
        )

    def loss(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        error = (self.net(x + 0.1 * torch.randn_like(x)) - x).square().mean()
        weight = self.net[0].weight.square().mean()
        return {"loss": error + 0.01 * weight, "error": error, "weight": weight.detach()}


def noisy(seed: int = 0, width: int = 8) -> Noisy:
    torch.manual_seed(seed)
    return Noisy(width)


def vectors(n: int = 50, dim: int = 3) -> Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(7))


def jitter(x: Tensor, generator: torch.Generator) -> Tensor:
    return x + torch.rand(x.shape, generator=generator)


def same(a: nn.Module, b: nn.Module) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


# The loop


def test_gradient_descent_follows_its_closed_form() -> None:
    x = vectors(40, 2)
    model = Mean()
    history = fit(model, x, steps=25, batch_size=40, optimizer=SGD)
    torch.testing.assert_close(model.w.detach(), x.mean(0) * (1 - 0.9**25))
    spread = 0.5 * x.var(0, correction=0).sum()
    expected = [spread + 0.5 * (x.mean(0) * 0.9**t).square().sum() for t in range(25)]
    torch.testing.assert_close(torch.tensor(history.train["loss"]), torch.stack(expected))
    assert history.train_steps == list(range(1, 26))
    assert history.seconds > 0


def test_an_epoch_shows_each_item_at_most_once_in_a_new_order() -> None:
    x = torch.arange(10.0)[:, None]
    model = Mean(1)
    history = fit(model, x, epochs=3, batch_size=4)
    assert len(history.train_steps) == 6
    epochs = [torch.cat(model.seen[i : i + 2]).flatten().tolist() for i in (0, 2, 4)]
    assert all(len(set(epoch)) == 8 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_labels_stay_with_their_items() -> None:
    class Labelled(Mean):
        def loss(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
            assert y is not None
            assert torch.equal(x[:, 0].long(), y)
            return super().loss(x)

    x = torch.arange(12.0)[:, None]
    fit(Labelled(1), (x, x[:, 0].long()), epochs=2, batch_size=5)


def test_datasets_train_like_tensors() -> None:
    class Squares(Dataset[Tensor]):
        def __len__(self) -> int:
            return 50

        def __getitem__(self, i: int) -> Tensor:
            return vectors()[i]

    runs = []
    for data in (vectors(), (vectors(),), TensorDataset(vectors()), Squares()):
        model = noisy()
        fit(model, data, steps=9, batch_size=16)
        runs.append(model)
    assert all(same(runs[0], run) for run in runs[1:])


def test_runs_repeat_under_their_seed_alone() -> None:
    runs = []
    for seed, global_seed in ((3, 0), (3, 1), (4, 0)):
        model = noisy()
        torch.manual_seed(global_seed)
        history = fit(model, vectors(), steps=12, batch_size=8, seed=seed, transform=jitter)
        runs.append((model, history.train))
    assert same(runs[0][0], runs[1][0])
    assert runs[0][1] == runs[1][1]
    assert runs[0][1] != runs[2][1]


def test_noise_differs_from_step_to_step_and_between_its_streams() -> None:
    class Listener(Mean):
        def loss(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
            drawn.append(torch.rand(len(x), 3))
            return super().loss(x)

    drawn: list[Tensor] = []
    model = Listener(3)
    fit(model, torch.zeros(8, 3), steps=5, batch_size=8, transform=jitter)
    every = torch.stack(drawn + model.seen).flatten(1)
    assert len({tuple(row) for row in every.tolist()}) == 10


def test_the_caller_gets_back_generator_and_modes() -> None:
    model = noisy()
    model.train()
    model.net[2].eval()
    before = torch.get_rng_state()
    fit(model, vectors(), steps=3, batch_size=8, valid=vectors(), transform=jitter)
    assert torch.equal(before, torch.get_rng_state())
    assert model.training
    assert not model.net[2].training
    assert all(p.grad is None for p in model.parameters())


def test_watching_does_not_change_training() -> None:
    def watch(step: int, model: Noisy, history: History) -> None:
        assert not model.training
        assert history.train_steps[-1] == step
        drawn.append(torch.randn(2).tolist())
        steps.append(step)

    alone, watched = noisy(), noisy()
    drawn: list[list[float]] = []
    steps: list[int] = []
    fit(alone, vectors(), steps=13, batch_size=8)
    fit(watched, vectors(), steps=13, batch_size=8, valid=vectors(9), callback=watch)
    assert same(alone, watched)
    assert steps == [6, 12, 13]
    assert drawn[0] == drawn[1] == drawn[2]


def test_validation_is_the_mean_over_the_whole_set() -> None:
    model = Mean()
    valid = vectors(11, 2)
    history = fit(
        model, vectors(20, 2), steps=4, batch_size=4, optimizer=SGD, valid=valid, valid_every=3
    )
    assert history.valid_steps == [3, 4]
    torch.testing.assert_close(history.valid["loss"][-1], model.loss(valid)["loss"].item())


def test_clipping_and_schedule() -> None:
    model = Mean()
    x = torch.full((4, 2), 30.0)
    fit(model, x, steps=1, batch_size=4, optimizer=SGD, clip_grad_norm=1.0)
    torch.testing.assert_close(model.w.detach().norm(), torch.tensor(0.1))
    model = Mean()
    fit(model, x, steps=3, batch_size=4, optimizer=SGD, schedule=lambda step: float(step == 1))
    torch.testing.assert_close(model.w.detach(), torch.full((2,), 3.0))
    assert [cosine(4)(step) for step in (0, 2, 4)] == pytest.approx([1, 0.5, 0])
    assert cosine(4)(1) == pytest.approx(0.5 + 0.5**1.5)
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        cosine(0)


def test_averaged_weights_follow_their_recursion() -> None:
    weights: list[Tensor] = []
    model = Mean()
    history = fit(
        model,
        vectors(8, 2),
        steps=12,  # the warm-up ends at step 9
        batch_size=4,
        optimizer=SGD,
        ema=0.5,
        callback=lambda step, model, history: weights.append(model.w.detach().clone()),
        callback_every=1,
    )
    expected = weights[0]  # the initial weights, zero, have no part
    for t, w in enumerate(weights):
        decay = min(0.5, t / (t + 9))
        expected = decay * expected + (1 - decay) * w
    assert history.ema is not None
    torch.testing.assert_close(history.ema.w, expected)
    assert not history.ema.training
    assert not history.ema.w.requires_grad
    assert not torch.equal(history.ema.w, model.w)


def test_averaging_copies_buffers() -> None:
    model = noisy()
    history = fit(model, vectors(), steps=5, batch_size=8, ema=0.9)
    assert history.ema is not None
    assert torch.equal(history.ema.net[1].running_mean, model.net[1].running_mean)
    assert model.net[1].num_batches_tracked == 5


def test_mixed_precision_reaches_the_loss() -> None:
    class Watched(Mean):
        def loss(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
            kinds.append((x @ x.T).dtype)
            return super().loss(x)

    kinds: list[torch.dtype] = []
    model = Watched()
    fabric = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    fit(model, vectors(8, 2), steps=2, batch_size=8, fabric=fabric)
    assert kinds == [torch.bfloat16] * 2
    assert model.w.dtype == torch.float32


# Several processes


def test_two_processes_train_like_one(tmp_path: Path) -> None:
    env = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("ddp_fit.py"))]
    for processes in (1, 2):
        out = str(tmp_path / str(processes))
        subprocess.run(
            [*command, str(processes), out], env=env, check=True, timeout=120, capture_output=True
        )
    one, two = load_file(tmp_path / "1"), load_file(tmp_path / "2")
    assert len(one) == 8
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=0, atol=1e-6)
    logged = []
    for processes in (1, 2):
        with safe_open(tmp_path / str(processes), "pt") as file:
            logged.append(json.loads(file.metadata()["logged"]))
    for split in ("train", "valid"):
        for term in ("loss", "first"):
            a, b = (torch.tensor(log[split][term]) for log in logged)
            assert len(a) == {"train": 20, "valid": 2}[split]
            torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


# Checkpoints


@pytest.mark.parametrize("optimizer", [None, partial(torch.optim.SGD, lr=0.01, momentum=0.9)])
def test_a_resumed_run_repeats_an_uninterrupted_one(optimizer: object, tmp_path: Path) -> None:
    run = partial(
        fit,
        data=vectors(),
        batch_size=8,
        optimizer=optimizer,
        schedule=lambda step: 1 / (1 + step),
        ema=0.9,
        transform=jitter,
        valid=vectors(9),
        valid_every=4,
    )
    whole, parts = noisy(), noisy()
    expected = run(whole, steps=20)
    path = tmp_path / "run.safetensors"
    run(parts, steps=9, checkpoint=path)  # 6 steps to an epoch: 9 is in the middle of one
    parts = noisy(seed=1)
    torch.manual_seed(5)
    # Steps 9 and 20 are last ones, each of its call, so that each is evaluated too.
    history = run(parts, steps=20, checkpoint=path, resume=True)
    assert same(whole, parts)
    assert expected.train == history.train
    assert expected.train_steps == history.train_steps
    keep = [i for i, step in enumerate(history.valid_steps) if step != 9]
    assert [history.valid["loss"][i] for i in keep] == expected.valid["loss"]
    assert expected.ema is not None
    assert history.ema is not None
    assert same(expected.ema, history.ema)
    again = run(noisy(), steps=20, checkpoint=path, resume=True)
    assert again.train == history.train  # nothing left to do


def test_tied_weights_survive_a_checkpoint(tmp_path: Path) -> None:
    def tied() -> Mean:
        model = Mean()
        model.other = model.w
        return model

    run = partial(fit, data=vectors(8, 2), batch_size=4, checkpoint=tmp_path / "c.safetensors")
    whole, parts = tied(), tied()
    fit(whole, vectors(8, 2), batch_size=4, steps=6)
    run(copy.deepcopy(parts), steps=3)
    run(parts, steps=6, resume=True)
    assert same(whole, parts)
    assert parts.other is parts.w


def test_checkpoints_of_other_runs_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    run = partial(fit, data=vectors(), steps=4, batch_size=8, checkpoint=path)
    run(noisy())
    with pytest.raises(ValueError, match=r"does not fit Noisy: net.0.weight has shape \(8, 3\)"):
        run(noisy(width=4), resume=True)
    with pytest.raises(ValueError, match="seed was 0 there and is 1 now"):
        run(noisy(), resume=True, seed=1)
    with pytest.raises(ValueError, match="ema was None there"):
        run(noisy(), resume=True, ema=0.9)
    with pytest.raises(ValueError, match="optimizer was Adam there and is SGD now"):
        run(noisy(), resume=True, optimizer=SGD)
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        run(noisy(), resume=True)


def test_a_checkpoint_is_replaced_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.safetensors"
    fit(noisy(), vectors(), steps=2, batch_size=8, checkpoint=path)
    before = path.read_bytes()

    def full_disk(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match="No space left"):
        fit(noisy(), vectors(), steps=3, batch_size=8, checkpoint=path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


# Stops


class Breaks(Mean):
    """Finite for three steps, and then ``fault`` is added to the term named."""

    def __init__(self, term: str, fault: float) -> None:
        super().__init__()
        self.term, self.fault = term, fault

    def loss(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        terms = super().loss(x) | {"kl": torch.tensor(1.0), "nll": torch.tensor(2.0)}
        if len(self.seen) == 4:
            terms[self.term] = terms[self.term] + self.fault
        return terms


@pytest.mark.parametrize(("term", "fault"), [("kl", float("nan")), ("loss", float("inf"))])
def test_a_term_that_is_not_finite_stops_the_run(term: str, fault: float, tmp_path: Path) -> None:
    good, model = Mean(), Breaks(term, fault)
    path = tmp_path / "c.safetensors"
    fit(good, vectors(8, 2), steps=3, batch_size=4)
    with pytest.raises(NonFiniteLossError, match=rf'step 4, term "{term}" is {fault}') as caught:
        fit(model, vectors(8, 2), steps=9, batch_size=4, checkpoint=path)
    assert "smaller learning rate" in str(caught.value)
    assert torch.equal(good.w, model.w)
    assert caught.value.history.train_steps == [1, 2, 3]
    assert load_file(path)["model.w"].isfinite().all()


def test_a_gradient_that_is_not_finite_names_its_parameter() -> None:
    class Root(Mean):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.zeros(()))

        def loss(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
            return {"loss": super().loss(x)["loss"] + self.scale.sqrt()}

    model = Root()
    with pytest.raises(NonFiniteLossError, match="step 1, the gradient of scale is not finite"):
        fit(model, vectors(8, 2), steps=9, batch_size=4, clip_grad_norm=1.0)
    assert torch.equal(model.w.detach(), torch.zeros(2))


def test_data_that_is_not_finite_is_blamed() -> None:
    x = vectors(8, 2)
    x[3, 1] = float("nan")
    with pytest.raises(NonFiniteLossError, match="batch holds such values itself"):
        fit(Mean(), x, steps=9, batch_size=8)


class Interrupted(Noisy):
    """Someone presses Ctrl-C in the middle of step 8."""

    presses = 1

    def loss(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        terms = super().loss(x)
        self.calls = getattr(self, "calls", 0) + 1
        if self.calls == 8:
            for _ in range(self.presses):
                signal.raise_signal(signal.SIGINT)
        return terms


def test_an_interrupt_keeps_what_was_learned_and_can_be_resumed(tmp_path: Path) -> None:
    run = partial(fit, data=vectors(), steps=20, batch_size=8, ema=0.9)
    path = tmp_path / "c.safetensors"
    whole = noisy()
    expected = run(whole)
    torch.manual_seed(0)
    model = Interrupted()
    handler = signal.getsignal(signal.SIGINT)
    model.eval()
    history = run(model, checkpoint=path, checkpoint_every=100)
    assert history.interrupted
    assert history.train_steps == list(range(1, 9))
    assert history.train["loss"] == expected.train["loss"][:8]
    assert signal.getsignal(signal.SIGINT) is handler
    assert not model.training
    resumed = noisy(seed=3)
    history = run(resumed, checkpoint=path, resume=True)
    assert not history.interrupted
    assert same(whole, resumed)
    assert history.train == expected.train


def test_a_second_interrupt_stops_at_once(tmp_path: Path) -> None:
    model = Interrupted()
    model.presses = 2
    path = tmp_path / "c.safetensors"
    before = torch.get_rng_state()
    history = fit(model, vectors(), steps=20, batch_size=8, checkpoint=path, checkpoint_every=5)
    assert history.interrupted
    assert len(history.train_steps) == 7
    assert '"step": 5' in json.dumps(_metadata(path))
    assert torch.equal(before, torch.get_rng_state())


def test_a_callback_may_interrupt(tmp_path: Path) -> None:
    def enough(step: int, model: nn.Module, history: History) -> None:
        if step == 4:
            raise KeyboardInterrupt

    path = tmp_path / "c.safetensors"
    history = fit(
        *(noisy(), vectors()),
        epochs=3,
        batch_size=8,
        checkpoint=path,
        callback=enough,
        callback_every=2,
    )
    assert history.interrupted
    assert len(history.train_steps) == 4
    assert _metadata(path)["step"] == 4


def _metadata(path: Path) -> dict[str, object]:
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["gdm_lib.training"])


# Bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": torch.zeros(0, 2)}, "data must have at least one item"),
        ({"data": torch.tensor(1.0)}, "data: x and y must have the same first dimension"),
        ({"data": (torch.zeros(8, 2), torch.zeros(7))}, r"got \(8, 2\) and \(7,\)"),
        ({"data": (torch.zeros(8, 2),) * 3}, "data must be a tensor x or a pair"),
        ({"data": [[1.0, 2.0]]}, r"data must be a tensor x or a pair .* got \(list\)"),
        ({"data": slice(8)}, r"data must be a tensor x or a pair .* got \(slice\)"),
        ({"data": torch.zeros(8, 2, dtype=torch.uint8)}, "data holds bytes; take x / 255"),
        ({"valid": torch.zeros(0, 2)}, "valid must have at least one item"),
        ({"steps": None}, "either steps or epochs, got steps=None and epochs=None"),
        ({"epochs": 2}, "either steps or epochs, got steps=3 and epochs=2"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"batch_size": 9}, r"batch_size must lie in 1\.\.8, .* got 9"),
        ({"batch_size": 0}, r"batch_size must lie in 1\.\.8, .* got 0"),
        ({"valid_every": 0}, "valid_every must be at least 1 step"),
        ({"ema": 1.0}, r"ema must lie in \[0, 1\), got 1.0"),
        ({"clip_grad_norm": 0.0}, "clip_grad_norm must be positive"),
        ({"resume": True}, "resume needs checkpoint"),
        ({"model": nn.Linear(2, 2)}, r"method loss\(x, y=None\), Linear hasn't"),
        ({"model": Mean().requires_grad_(False)}, "parameters that require gradients"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, object], message: str) -> None:
    good = {"model": Mean(), "data": torch.zeros(8, 2), "steps": 3, "batch_size": 4}
    with pytest.raises(ValueError, match=message):
        fit(**(good | change))


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        (lambda w: w.sum(), "must return a dict .* got Tensor"),
        (lambda w: {"nll": w.sum()}, r"got the keys \['nll'\]"),
        (lambda w: {"loss": w}, r'term "loss" of model.loss must be a scalar .* shape \(2,\)'),
        (
            lambda w: {"loss": w.sum(), "beta": 0.5},
            'term "beta" .* must be a scalar tensor, got 0.5',
        ),
        (lambda w: {"loss": w.sum().detach()}, "must depend on the parameters"),
    ],
)
def test_bad_losses_are_named(terms: object, message: str) -> None:
    model = Mean()
    model.loss = lambda x, y=None: terms(model.w)  # type: ignore[operator]
    with pytest.raises(ValueError, match=message):
        fit(model, vectors(8, 2), steps=3, batch_size=4)


def test_terms_must_stay_the_same() -> None:
    model = Mean()
    names = iter(["a", "b"])
    model.loss = lambda x, y=None: {"loss": model.w.sum(), next(names): torch.tensor(0.0)}
    with pytest.raises(ValueError, match=r"got \['loss', 'b'\] after \['loss', 'a'\]"):
        fit(model, vectors(8, 2), steps=3, batch_size=4)


# What is shown


def test_a_history_plots_itself() -> None:
    ax = fit(noisy(), vectors(), steps=6, batch_size=8, valid=vectors(9)).plot()
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == [f"{t}, {s}" for t in ("loss", "error", "weight") for s in SPLITS]
    plt.close(ax.figure)


def test_progress_leaves_one_line_of_text(capsys: pytest.CaptureFixture[str]) -> None:
    fit(Mean(), vectors(8, 2), epochs=3, batch_size=4, valid=vectors(4, 2), progress=True)
    out, err = capsys.readouterr()
    assert out.startswith("epoch 3/3  loss ")
    assert "valid" in out
    assert out.count("\n") == 1
    assert err == ""


class TestFitAnnealed:
    data = torch.randn(64, 2, generator=torch.Generator().manual_seed(0)) + 3

    def test_it_is_adam_written_out(self):
        model, by_hand = Mean(), Mean()
        model.seen, by_hand.seen = [], []
        history = fit_annealed(model, self.data, 20, 0.3, batch_size=16, seed=4)
        optimizer = torch.optim.Adam(by_hand.parameters())
        for step, batch in enumerate(model.seen):
            optimizer.param_groups[0]["lr"] = 0.15 * (1 + math.cos(math.pi * step / 20))
            optimizer.zero_grad()
            by_hand.loss(batch)["loss"].backward()
            optimizer.step()
        torch.testing.assert_close(model.w, by_hand.w)
        assert len(history.train["loss"]) == 20
        assert {len(batch) for batch in model.seen} == {16}

    def test_the_rest_is_fits(self):
        """Options are handed on, and the run is that of ``fit`` to the bit, but for the mode."""
        models = Mean().train(), Mean().train()
        shift = {"transform": lambda x, generator: x + 1, "valid": self.data, "valid_every": 5}
        one = fit_annealed(models[0], self.data, 10, 0.1, batch_size=8, **shift)
        other = fit(
            models[1], self.data, steps=10, batch_size=8, optimizer=adam(0.1),
            schedule=cosine(10), **shift,
        )  # fmt: skip
        assert torch.equal(models[0].w, models[1].w)
        assert (one.train, one.valid) == (other.train, other.valid)
        assert [model.training for model in models] == [False, True]

    @pytest.mark.parametrize("option", ["epochs", "optimizer", "schedule"])
    def test_what_it_sets_itself_is_refused(self, option):
        with pytest.raises(ValueError, match=f"^{option}: set by fit_annealed itself"):
            fit_annealed(Mean(), self.data, 1, 0.1, batch_size=8, **{option: None})

    @pytest.mark.parametrize("lr", [0.0, -1e-3, float("nan"), float("inf")])
    def test_a_rate_is_positive(self, lr):
        with pytest.raises(ValueError, match="lr must be positive and finite, got"):
            fit_annealed(Mean(), self.data, 1, lr, batch_size=8)
