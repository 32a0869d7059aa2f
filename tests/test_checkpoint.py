"""Checkpoints: more than a thousand damaged ones, each refused by name or resumed rightly."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume
from safetensors.torch import load_file, save, save_file
from torch import Tensor, nn

from gdm_lib import _checkpoint, _tensorfile, training
from tests.helpers import hostile

X = torch.randn(12, 2, generator=torch.Generator().manual_seed(7))
STEPS = 6


class Tiny(nn.Module):
    """A likelihood with a buffer, and a generator and a discriminator beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.generator, self.discriminator = nn.Linear(2, 2), nn.Linear(2, 1)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))

    def loss(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        self.calls += 1
        error = (self.generator(x + 0.1 * torch.randn_like(x)) - x).square().mean()
        return {"loss": error + self.discriminator(x).square().mean(), "error": error}

    def discriminator_loss(self, real: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        made = self.generator(torch.randn_like(real)).detach()
        return {"loss": (self.discriminator(made) - self.discriminator(real)).mean()}

    def generator_loss(self, n: int, y: Tensor | None = None) -> dict[str, Tensor]:
        return {"loss": -self.discriminator(self.generator(torch.randn(n, 2))).mean()}


def tiny(seed: int = 0) -> Tiny:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Tiny()


class Run:
    """One of the two loops, with all that a checkpoint keeps, and the optimizers that it made."""

    def __init__(self, loop: str) -> None:
        self.loop = getattr(training, loop)
        self.game = loop == "fit_adversarial"
        self.made: list[torch.optim.Optimizer] = []

    def optimizer(self, parameters: Any) -> torch.optim.Optimizer:
        self.made.append(torch.optim.Adam(parameters, lr=0.01))
        return self.made[-1]

    def __call__(self, model: nn.Module, path: Path | str | None = None, **settings: Any) -> Any:
        settings = {"steps": STEPS, "batch_size": 4, "ema": 0.9, "checkpoint": path} | settings
        settings |= {"optimizer": self.optimizer, "progress": False}
        if self.game:
            settings["critic_steps"] = 2
        else:
            settings = {"valid": X[:5], "valid_every": 2} | settings
        return self.loop(model, X, **settings)


@pytest.fixture(params=["fit", "fit_adversarial"])
def run(request: pytest.FixtureRequest) -> Run:
    return Run(request.param)


def bits(*modules: nn.Module) -> list[bytes]:
    return [
        tensor.detach().numpy().tobytes()
        for module in modules
        for tensor in module.state_dict().values()
    ]


# Ways to damage a file. Those of ``forged`` give it a right digest afterwards, as only somebody who
# knows the format can.


def split(content: bytes) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, str]]:
    """The tensors, the record and all metadata."""
    tensors, metadata = _tensorfile.decode(content, Path("whole"))
    return tensors, json.loads(metadata["gdm_lib.training"]), metadata


def joined(tensors: dict[str, Tensor], record: object, metadata: dict[str, str]) -> bytes:
    told = record if isinstance(record, str) else json.dumps(record)
    blank = {"gdm_lib.sha256": "0" * 64} if "gdm_lib.sha256" in metadata else {}
    return save(
        {k: v.contiguous().clone() for k, v in tensors.items()},
        metadata | {"gdm_lib.training": told} | blank,
    )


def flipped(content: bytes, rng: random.Random) -> bytes:
    damaged = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 8])):
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def cut(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content))]


def lengthened(content: bytes, rng: random.Random) -> bytes:
    return content + rng.randbytes(rng.choice([1, 8, 4096]))


def overwritten(content: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(content))
    length = rng.choice([1, 8, 100, 1000])
    filling = rng.choice([bytes(length), b"\xff" * length, rng.randbytes(length)])
    return content[:start] + filling + content[start + length :]


def moved(content: bytes, rng: random.Random) -> bytes:
    a, b = sorted(rng.sample(range(len(content)), 2))
    return content[b:] + content[a:b] + content[:a]


def header_length(content: bytes, rng: random.Random) -> bytes:
    length = rng.choice([0, 1, 2**63, 2**64 - 1, len(content), 10**8, rng.randrange(len(content))])
    return length.to_bytes(8, "little") + content[8:]


def header_text(content: bytes, rng: random.Random) -> bytes:
    """Other JSON in the header, its length adjusted."""
    n = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + n]
    header = rng.choice(
        [
            b"[" * 100_000,
            b'{"a":' * 50_000,
            b"\xff\xfe" + header,
            b"{}",
            b"null",
            header.replace(b"F32", rng.choice([b"F16", b"I32", b"F99", b"BF16", b"F64"])),
            header.replace(b'"dtype"', b'"dtype":"F32","dtype"', 1),
            header[:-1] + b',"__metadata__":{"gdm_lib.training":"{}"}}',
            header.replace(b"[0,", b"[-1,", 1),
            header.replace(b"model.", b"m\xc3\xb6del.", 1),
            header.replace(b"model.", b"model\xff", 1),
            header.replace(b'"shape":[2', b'"shape":[99999999999999999999', 1),
            header.replace(b'"shape":[2', b'"shape":[3', 1),
        ]
    )
    return len(header).to_bytes(8, "little") + header + content[8 + n :]


STRAY = [
    "", "x", "model.x", "ema.", "optimizer.0", "optimizer.-1.0.step", "optimizer.0.99.step",
    "optimizer.7.0.step", "history.other", "optimizer.00.0.step", "optimizer.0.0.other",
]  # fmt: skip


def tensors_changed(content: bytes, rng: random.Random) -> bytes:
    tensors, record, metadata = split(content)
    names = sorted(tensors)
    name = rng.choice(names)
    change = rng.randrange(8)
    if change == 0:
        del tensors[name]
    elif change == 1:
        tensors[rng.choice([*STRAY, name + ".a", name[:-1]])] = tensors.pop(name)
    elif change == 2:
        tensors[name] = tensors[name].to(
            rng.choice([torch.float16, torch.int32, torch.uint8, torch.complex64])
        )
    elif change == 3:
        tensors[name] = torch.stack([tensors[name]] * rng.choice([1, 2]))
    elif change == 4:
        tensors[name] = torch.zeros(rng.choice([(0,), (7,), (3, 3, 3)]), dtype=tensors[name].dtype)
    elif change == 5:
        floats = [n for n in names if tensors[n].is_floating_point() and tensors[n].numel()]
        floats = [n for n in floats if n.startswith(("model", "ema", "history.train"))]
        floats = [n for n in floats if "mask" not in n]
        broken = tensors[rng.choice(floats)]
        broken.view(-1)[0] = rng.choice([float("nan"), float("inf")])
    elif change == 6:
        steps = [n for n in names if n.endswith(".step")]
        tensors[rng.choice(steps)].fill_(rng.choice([-1.0, -1e9, float("nan"), float("inf")]))
    else:
        steps = tensors["history.train_steps"]
        steps[rng.randrange(len(steps))] = rng.choice([0, -1, 99, 2**62])
    return joined(tensors, record, metadata)


ODD = [
    None, True, False, -1, 0, -(10**9), 10**30, 2.0, 1e308, float("nan"), float("inf"), "", "6",
    [], {}, [[]], {"a": None}, "\ud800", "x" * 10_000,
]  # fmt: skip


def record_changed(content: bytes, rng: random.Random) -> bytes:
    tensors, record, metadata = split(content)
    place, key = record, rng.choice(sorted(record))
    while isinstance(place[key], dict) and place[key] and rng.random() < 0.7:
        place = place[key]
        key = rng.choice(sorted(place))
    change = rng.randrange(4)
    if change == 0:
        del place[key]
    elif change == 1:
        place[rng.choice(["more", "", key + "s"])] = place.pop(key)
    else:
        old = place[key]
        place[key] = rng.choice([v for v in ODD if json.dumps(v) != json.dumps(old)])
    return joined(tensors, record, metadata)


def record_text(content: bytes, rng: random.Random) -> bytes:
    tensors, record, metadata = split(content)
    told = json.dumps(record)
    text = rng.choice(
        [
            "", "null", "[]", "6", "{", told[:-1], told + "}", "[" * 100_000, '{"a":' * 100_000,
            told.replace('"step": ', '"step": -', 1), '{"step": 3, ' + told[1:],
            told.replace('"step": 6', '"step": ' + "9" * 5000),
            told.replace('"config": {', '"config": {"seed": 0, '),
            told.replace('"optimizer": {', '"optimizer": {"optimizer.0.0.step": 1, '),
            told.replace('"precision": {', '"precision": {"scale": NaN'),
            '{"step": ' * 900 + "1" + "}" * 900,
            told.replace('"config": {', '"config": {"deep": ' + "[" * 900 + "]" * 900 + ", "),
        ]
    )  # fmt: skip
    return joined(tensors, text, metadata)


def metadata_changed(content: bytes, rng: random.Random) -> bytes:
    tensors, _, metadata = split(content)
    key = rng.choice(["gdm_lib.sha256", "gdm_lib.training"])
    if rng.random() < 0.5:
        metadata = {k: v for k, v in metadata.items() if k != key}
    else:
        metadata[key] = rng.choice(["", "0" * 64, "no", metadata[key].upper(), metadata[key] + " "])
    return save({k: v.contiguous() for k, v in tensors.items()}, metadata)


def sealed(content: bytes) -> bytes:
    return _checkpoint._sealed(content)


UNSEALED: list[Callable[[bytes, random.Random], bytes]] = [
    flipped, flipped, flipped, cut, lengthened, overwritten, moved, header_length, header_text,
    tensors_changed, record_changed, record_text, metadata_changed,
]  # fmt: skip
FORGED = [tensors_changed, record_changed, record_text]


def damaged(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    forge = rng.randrange(3) == 0
    way = rng.choice(FORGED if forge else UNSEALED)
    made = way(content, rng)
    return f"{way.__name__} {forge}", sealed(made) if forge else made


LOGS = ["train", "train_steps", "valid", "valid_steps", "measured", "measured_steps"]
PARTS, EACH = 4, 260  # for each of the two loops


@pytest.mark.parametrize("part", range(PARTS))
def test_damaged_checkpoints_are_refused_by_name_and_load_nothing(
    run: Run, part: int, tmp_path: Path
) -> None:
    path = tmp_path / "run.safetensors"
    whole = tiny()
    expected = run(whole, path)
    content = path.read_bytes()
    before = bits(tiny(seed=1))
    ended = []

    def check(rng: random.Random) -> None:
        what, damage = damaged(content, rng)
        assume(damage != content)
        path.write_bytes(damage)
        run.made.clear()
        model = tiny(seed=1)
        try:
            history = run(model, path, resume=True)
        except ValueError as error:
            ended.append("refused")
            message = str(error)
            assert str(path) in message, (what, message)
            assert "delete it" in message or "another file" in message, (what, message)
            assert "another checkpoint=" in message or "resume=False" in message, (what, message)
            assert len(message) < 2000, what
            assert bits(model) == before, what
            assert all(not made.state for made in run.made), what
            assert path.read_bytes() == damage, what
        else:  # what was damaged means nothing, such as a blank
            ended.append("resumed")
            assert bits(model) == bits(whole), what
            for log in LOGS:
                assert getattr(history, log) == getattr(expected, log), what

    hostile(check, EACH, part)
    assert len(ended) >= EACH
    assert ended.count("refused") >= 0.95 * EACH
    path.unlink()  # what the messages advise
    again = tiny()
    run(again, path, resume=True)
    assert bits(again) == bits(whole)


def test_every_single_bit_of_the_file_counts(tmp_path: Path) -> None:
    run = Run("fit")
    path = tmp_path / "run.safetensors"
    run(tiny(), path)
    content = path.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    for position in [*range(0, header, 7), *range(header, len(content), 13)]:
        changed = bytearray(content)
        changed[position] ^= 1 << position % 8
        checkpoint = _checkpoint._digest(bytes(changed))
        found = _checkpoint._place(bytes(changed))
        stored = b"" if found is None else bytes(changed[found])
        assert checkpoint.encode() != stored or not checkpoint, position


# Files of another kind


def fifo(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def weights(path: Path) -> None:
    save_file({"model.w": torch.zeros(2)}, path)


def older(path: Path) -> None:
    Run("fit")(tiny(), path)
    tensors, record, metadata = split(path.read_bytes())
    del metadata["gdm_lib.sha256"]
    path.write_bytes(joined(tensors, record, metadata))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Path.mkdir, "is a folder, a pipe or a device"),
        (fifo, "is a folder, a pipe or a device"),
        (device, "is a folder, a pipe or a device"),
        (lambda path: path.write_bytes(b""), "not a whole safetensors file"),
        (lambda path: path.write_bytes(b"\x80\x04K\x01."), "not a whole safetensors file"),
        (lambda path: path.write_bytes(b"GIF89a" * 9), "not a whole safetensors file"),
        (weights, "was not written by gdm_lib.training"),
        (older, "has no digest, since an older version"),
    ],
)
def test_what_is_no_checkpoint_is_refused_by_name(
    run: Run, make: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "run.safetensors"
    make(path)
    model = tiny()
    before = bits(model)
    with pytest.raises(ValueError, match=message) as caught:
        run(model, path, resume=True)
    assert str(path) in str(caught.value)
    assert "another checkpoint=" in str(caught.value) or "path of a file" in str(caught.value)
    assert bits(model) == before


def test_a_file_far_larger_than_the_model_is_not_read(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ValueError, match=r"can't be read .* bytes, at most"):
        run(tiny(), path, resume=True)


# Where a checkpoint is written


@pytest.mark.parametrize(
    "place", ["file/run", "/proc/gdm/run", "/dev/null/run", "folder", "nul\0", "n" * 300, ""]
)
def test_a_path_that_cannot_be_written_is_refused_before_the_first_step(
    run: Run, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("a file")
    Path("folder").mkdir()
    model = tiny()
    before = bits(model)
    with pytest.raises(ValueError, match=r"^checkpoint .* give (another checkpoint=|the path)"):
        run(model, place)
    assert bits(model) == before
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "folder"]


def test_a_folder_that_may_not_be_written_to_is_refused(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The right to write is asked of the system by making a file: root may everywhere.
    def read_only(*args: object, **kwargs: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.mkstemp", read_only)
    with pytest.raises(ValueError, match=r"can't be written \(Read-only file system\)"):
        run(tiny(), tmp_path / "run.safetensors")


def test_missing_folders_are_made_and_links_are_kept(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "run.safetensors"
    run(tiny(), path)
    link = tmp_path / "link"
    link.symlink_to(path)
    before = path.read_bytes()
    run(tiny(), link, steps=7, resume=True)
    assert link.is_symlink()
    assert path.read_bytes() != before


WRITER = """
import os, sys
from pathlib import Path
from gdm_lib._files import replacing
with replacing(Path(sys.argv[1])) as temporary:
    temporary.write_bytes(b"half")
    print(temporary.name, flush=True)
    sys.stdin.readline()
    os._exit(9)
"""


def test_temporary_files_of_a_killed_run_are_swept_and_those_of_a_living_one_stay(
    tmp_path: Path,
) -> None:
    path = tmp_path / "run.safetensors"
    other = tmp_path / ".run.safetensors.notes"
    other.write_text("mine")
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert writer.stdout is not None
    assert writer.stdin is not None
    try:
        left = tmp_path / writer.stdout.readline().strip()
        Run("fit")(tiny(), path)
        assert set(tmp_path.iterdir()) == {path, other, left}
    finally:
        writer.kill()
        writer.wait()
        writer.stdin.close()
        writer.stdout.close()
    Run("fit")(tiny(), path)
    assert set(tmp_path.iterdir()) == {path, other}


# What is resumed


def test_fewer_steps_than_were_taken_are_refused(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    run(tiny(), path)
    model = tiny(seed=1)
    before = bits(model)
    with pytest.raises(ValueError, match="has taken 6 steps, and this one is to end after 5"):
        run(model, path, steps=5, resume=True)
    assert bits(model) == before
    run(model, path, resume=True)
    assert model.calls == (0 if run.game else 6 + 3 * 2)  # three validations of two batches


def test_a_part_that_refuses_its_state_leaves_all_as_before(run: Run, tmp_path: Path) -> None:
    class Refuses(Tiny):
        def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
            super().load_state_dict(*args, **kwargs)
            raise RuntimeError("half-way")

    path = tmp_path / "run.safetensors"
    run(tiny(), path)
    run.made.clear()
    model = Refuses()
    before = bits(model)
    with pytest.raises(ValueError, match=r"can't be loaded \(half-way\); delete it or give"):
        run(model, path, resume=True)
    assert bits(model) == before
    assert all(not made.state for made in run.made)

    class Optimizer(torch.optim.Adam):
        def load_state_dict(self, state: Any) -> None:
            super().load_state_dict(state)
            if state["state"]:
                raise RuntimeError("half-way")

    made: list[Optimizer] = []

    def make(parameters: Any) -> Optimizer:
        made.append(Optimizer(parameters))
        return made[-1]

    run.optimizer = make  # type: ignore[method-assign]
    Optimizer.__name__ = "Adam"
    model = Tiny()
    before = bits(model)
    with pytest.raises(ValueError, match=r"can't be loaded \(half-way\); delete it or give"):
        run(model, path, resume=True)
    assert bits(model) == before
    assert all(not optimizer.state for optimizer in made)


def test_an_optimizer_with_other_settings_is_refused(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    run(tiny(), path)
    run.optimizer = partial(torch.optim.Adam, amsgrad=True)  # type: ignore[method-assign]
    model = tiny(seed=1)
    before = bits(model)
    with pytest.raises(ValueError, match=r"this optimizer keeps .*max_exp_avg_sq"):
        run(model, path, resume=True)
    assert bits(model) == before


@pytest.mark.parametrize("name", ["ASGD", "Adadelta", "Adagrad", "AdamW", "Adamax", "NAdam",
                                  "RAdam", "RMSprop", "Rprop", "SGD", "Adafactor"])  # fmt: skip
def test_every_optimizer_of_torch_resumes_to_the_same_bits(name: str, tmp_path: Path) -> None:
    run = Run("fit")
    run.optimizer = getattr(torch.optim, name)  # type: ignore[method-assign]
    path = tmp_path / "run.safetensors"
    whole, first, second = tiny(), tiny(), tiny(seed=1)
    run(whole, valid=None)
    run(first, path, valid=None, steps=3)
    run(second, path, valid=None, resume=True)
    assert bits(second) == bits(whole)


def test_what_a_checkpoint_cannot_hold_is_refused_before_the_first_step(tmp_path: Path) -> None:
    class Extra(Tiny):
        def get_extra_state(self) -> object:
            return {"a": 1}

        def set_extra_state(self, state: object) -> None: ...

    with pytest.raises(ValueError, match="_extra_state of the model's state_dict, which is a dict"):
        Run("fit")(Extra(), tmp_path / "run.safetensors")


def test_no_checkpoint_holds_what_is_not_finite_and_its_history_is_exact(
    run: Run, tmp_path: Path
) -> None:
    path = tmp_path / "run.safetensors"
    history = run(tiny(), path)
    again = run(tiny(seed=1), path, resume=True)
    for log in LOGS:
        assert getattr(history, log) == getattr(again, log)
    assert list(history.train) == list(again.train)
    tensors = load_file(path)
    assert all(t.isfinite().all() for name, t in tensors.items() if not name.endswith(".mask"))
