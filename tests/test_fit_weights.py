"""Weights after a step: what isn't finite is never kept, never stored, and said truly."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim import Adam

from gdm_lib.training import NonFiniteLossError, fit, fit_adversarial
from gdm_lib.vae import VAE

fit = partial(fit, progress=False)
fit_adversarial = partial(fit_adversarial, progress=False)
SGD = partial(torch.optim.SGD, lr=0.1)


def vectors(n: int = 16, dim: int = 2) -> Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(7))


class Mean(nn.Module):
    """``idle`` has a gradient of exactly 0."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.idle = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.ones(3))
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
        self.register_buffer("running", torch.zeros(2))
        self.calls = 0

    def loss(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        self.calls += 1
        error = 0.5 * (self.w - x).square().sum(1).mean()
        return {"loss": error + (0 * self.idle).sum()}


def copied(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def poisoned(step: int, value: float = float("nan"), place: str = "idle") -> Any:
    """An optimizer that breaks a weight in step 1, 2, 3, ... though its gradients are finite."""

    class Poison(torch.optim.SGD):
        taken = 0

        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            super().step(closure)
            self.taken += 1
            if self.taken == step:
                self.param_groups[0]["params"][place == "idle"].data[0] = value

    return lambda parameters: Poison(parameters, lr=0.1)


def test_half_precision_names_the_step_and_the_way_out_works(tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = tmp_path / "vae.safetensors"
    model = VAE.mlp((6,), 2, hidden=(8,)).half()
    before = copied(model)
    x = (vectors(32, 6) > 0).half()
    run = partial(fit, data=x, steps=4, batch_size=8, checkpoint=path, checkpoint_every=1)
    run = partial(run, optimizer=partial(Adam, lr=1e-3, eps=1e-8))
    with pytest.raises(NonFiniteLossError, match="weights are not finite any more") as caught:
        run(model)
    message = str(caught.value)
    assert message.startswith("After step 1 ")
    assert "before the first step, and the model has been given back its weights" in message
    assert "train in 32 bits, after model.float()" in message
    assert same(copied(model), before)
    assert not path.exists()
    run(model.float(), resume=True)
    assert all(value.isfinite().all() for value in model.state_dict().values())


def test_eps_of_0_is_named_and_the_way_out_works(tmp_path: Path) -> None:
    path = tmp_path / "mean.safetensors"
    model = Mean()
    before = copied(model)
    run = partial(fit, data=vectors(), steps=5, batch_size=4, checkpoint=path)
    with pytest.raises(NonFiniteLossError, match=r"not finite any more: idle.* eps=0") as caught:
        run(model, optimizer=partial(Adam, eps=0.0))
    assert caught.value.history.train_steps == [1]
    assert same(copied(model), before)
    assert not path.exists()
    run(model, optimizer=partial(Adam, eps=1e-8), resume=True)
    assert model.idle.isfinite().all()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(("step", "kept"), [(1, 0), (2, 1), (3, 2), (6, 4), (11, 8)])
def test_the_last_finite_weights_are_given_back(step: int, kept: int, value: float) -> None:
    model, good = Mean(), Mean()
    if kept:
        fit(good, vectors(), steps=kept, batch_size=4, optimizer=SGD)
    with pytest.raises(NonFiniteLossError) as caught:
        fit(model, vectors(), steps=11, batch_size=4, ema=0.9, optimizer=poisoned(step, value))
    since = f"after step {kept}" if kept else "before the first step"
    assert f"idle. They were last seen to be finite {since}" in str(caught.value)
    assert "try a smaller learning rate" in str(caught.value)
    assert same(copied(model), copied(good))
    average = caught.value.history.ema
    assert average is not None
    assert all(p.isfinite().all() for p in average.parameters())


def test_a_loss_that_follows_broken_weights_says_so() -> None:
    model, good = Mean(), Mean()
    fit(good, vectors(), steps=4, batch_size=4, optimizer=SGD)
    with pytest.raises(
        NonFiniteLossError, match='In step 7, term "loss" is nan, and before it the weights'
    ) as caught:
        fit(model, vectors(), steps=20, batch_size=4, optimizer=poisoned(6, place="w"))
    assert "the step before" not in str(caught.value)
    assert same(copied(model), copied(good))


def test_no_checkpoint_stores_them_and_the_run_goes_on_from_the_last(tmp_path: Path) -> None:
    path = tmp_path / "mean.safetensors"
    run = partial(fit, data=vectors(), batch_size=4, checkpoint=path, checkpoint_every=1)
    model, whole = Mean(), Mean()
    fit(whole, vectors(), batch_size=4, steps=9, optimizer=SGD)
    with pytest.raises(NonFiniteLossError, match=r"After step 7 .* finite after step 6"):
        run(model, steps=9, optimizer=poisoned(7))
    stored = load_file(path)
    assert torch.equal(stored["model.w"], model.w)
    assert all(t.isfinite().all() for name, t in stored.items() if name != "model.mask")

    class Poison(torch.optim.SGD):  # by the name that the checkpoint knows
        pass

    resumed = Mean()
    run(resumed, steps=9, resume=True, optimizer=lambda parameters: Poison(parameters, lr=0.1))
    assert same(copied(resumed), copied(whole))


def test_a_buffer_counts_and_a_mask_of_infinities_does_not() -> None:
    class Runs(Mean):
        def loss(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
            terms = super().loss(x)
            self.running.fill_(float("nan") if self.calls == 2 else 1.0)
            return terms

    model = Runs()
    with pytest.raises(NonFiniteLossError, match=r"After step 2 .* any more: running"):
        fit(model, vectors(), steps=3, batch_size=4)
    assert model.running.tolist() == [1.0, 1.0]
    assert model.mask.tolist() == [0.0, -torch.inf]


def test_what_is_looked_at_has_been_checked() -> None:
    def watch(step: int, model: Mean, history: object) -> None:
        assert model.idle.isfinite().all()

    for settings in (
        {"callback": watch, "callback_every": 1},
        {"measure": lambda model: watch(0, model, None) or {}, "measure_every": 1},
        {"valid": vectors(4), "valid_every": 1},
    ):
        with pytest.raises(NonFiniteLossError, match="After step 3 "):
            fit(Mean(), vectors(), steps=20, batch_size=4, optimizer=poisoned(3), **settings)


def test_weights_broken_by_a_callback_are_not_stored(tmp_path: Path) -> None:
    def spoil(step: int, model: Mean, history: object) -> None:
        if step == 3:
            model.idle.data.fill_(float("nan"))

    path = tmp_path / "mean.safetensors"
    with pytest.raises(NonFiniteLossError, match="After step 3 "):
        fit(
            Mean(), vectors(), steps=4, batch_size=4, checkpoint=path, checkpoint_every=1,
            callback=spoil, callback_every=1,
        )  # fmt: skip
    assert load_file(path)["model.idle"].isfinite().all()


@pytest.mark.parametrize("factor", [float("inf"), float("nan"), -float("inf"), None, "fast", 1e308])
def test_a_schedule_that_is_not_finite_is_refused_at_its_step(factor: Any, tmp_path: Path) -> None:
    path = tmp_path / "mean.safetensors"
    model, good = Mean(), Mean()
    fit(good, vectors(), steps=3, batch_size=4, optimizer=SGD)
    run = partial(fit, data=vectors(), batch_size=4, checkpoint=path, checkpoint_every=1)
    rate = 1e10 if factor == 1e308 else 0.1
    scale = 0.1 / rate
    with pytest.raises(ValueError, match=r"schedule must return a finite factor .* schedule\(3\)"):
        run(
            model,
            steps=9,
            optimizer=partial(torch.optim.SGD, lr=rate),
            schedule=lambda step: factor if step == 3 else scale,
        )
    torch.testing.assert_close(model.w, good.w)
    run(model, steps=9, optimizer=SGD, resume=True)
    assert model.w.isfinite().all()


@pytest.mark.parametrize("rate", [float("inf"), float("nan")])
def test_a_learning_rate_that_is_not_finite_is_refused(rate: float) -> None:
    class Careless(torch.optim.SGD):
        def __init__(self, parameters: Any) -> None:
            super().__init__(parameters, lr=0.1)
            self.param_groups[0]["lr"] = rate

    with pytest.raises(ValueError, match="must have a finite learning rate"):
        fit(Mean(), vectors(), steps=2, batch_size=4, optimizer=Careless)


def test_weights_that_come_broken_are_refused_before_the_first_step() -> None:
    model = Mean()
    model.w.data[1] = float("nan")
    with pytest.raises(ValueError, match="finite weights before the first step, and w is not"):
        fit(model, vectors(), steps=2, batch_size=4)
    assert model.calls == 0


def test_a_huge_learning_rate_and_its_advice() -> None:
    model = Mean()
    run = partial(fit, data=1e4 * vectors(), steps=2, batch_size=4)
    with pytest.raises(NonFiniteLossError, match="try a smaller learning rate"):
        run(model, optimizer=partial(torch.optim.SGD, lr=1e38))
    assert torch.equal(model.w, torch.zeros(2))
    run(model, optimizer=SGD)


def test_a_game_gives_both_players_back(tmp_path: Path) -> None:
    class Game(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.generator, self.discriminator = nn.Linear(2, 2), nn.Linear(2, 1)

        def discriminator_loss(self, real: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
            made = self.generator(torch.randn_like(real)).detach()
            return {"loss": (self.discriminator(made) - self.discriminator(real)).mean()}

        def generator_loss(self, n: int, y: Tensor | None = None) -> dict[str, Tensor]:
            return {"loss": -self.discriminator(self.generator(torch.randn(n, 2))).mean()}

    def game() -> Game:
        torch.manual_seed(0)
        return Game()

    path = tmp_path / "game.safetensors"
    good, model = game(), game()
    fit_adversarial(good, vectors(), steps=4, batch_size=4, optimizer=SGD)
    with pytest.raises(NonFiniteLossError, match="last seen to be finite after step 4"):
        fit_adversarial(
            *(model, vectors()), steps=9, batch_size=4, optimizer=poisoned(6),
            checkpoint=path, checkpoint_every=4,
        )  # fmt: skip
    assert same(copied(model), copied(good))
    assert all(t.isfinite().all() for t in load_file(path).values())


def test_scaled_gradients_that_overflow_still_only_skip_a_step() -> None:
    fabric = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    model = Mean()
    fit(model, vectors(), steps=3, batch_size=4, fabric=fabric)
    assert model.w.isfinite().all()
