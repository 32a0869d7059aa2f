"""A thousand hostile files to each loader: a named error that says what to do, or the right value.

The files are made from sound ones with the random numbers of a fixed seed. Nothing may hang, change
what lies on the disk, leave a temporary file, or give a wrong value without a word.
"""

import hashlib
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from gdm_lib import pretrained

COUNT = 1000


def damaged(content: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Copies that were cut off, lengthened, overwritten, shuffled, or had bits flipped."""
    dice = random.Random(seed)
    for _ in range(count):
        copy = bytearray(content)
        place = dice.randrange(len(copy))
        match dice.randrange(8):
            case 0:
                del copy[place:]
            case 1:
                copy += dice.randbytes(dice.choice((1, 8, 1000)))
            case 2:
                copy[place] ^= 1 << dice.randrange(8)
            case 3:
                copy[place : place + 8] = dice.choice((b"\0" * 8, b"\xff" * 8, dice.randbytes(8)))
            case 4:
                del copy[place : place + dice.randrange(1, 20)]
            case 5:
                other = dice.randrange(len(copy))
                copy[place:place] = copy[other : other + 50]
            case 6:
                for _ in range(dice.randrange(2, 30)):
                    copy[dice.randrange(len(copy))] = dice.randrange(256)
            case 7:
                copy = bytearray(dice.randbytes(dice.randrange(200)))
        if copy != content:
            yield bytes(copy)


def on_disk(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# -- reference weights and their records

TOY = """
from torch import nn

__all__ = ["small", "other"]

def small():
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))

other = small
"""


@pytest.fixture
def weights(tmp_path: Path, add_family) -> Path:
    """Two sets of toy weights."""
    add_family(TOY, "")
    folder = tmp_path / "weights"
    for seed, name in enumerate(("toy/small", "toy/other")):
        torch.manual_seed(seed)
        record = {"steps": 3, "seconds": 1.5, "metrics": {"bits": -0.25}}
        pretrained.save(pretrained.build(name), name, record, directory=folder)
    return folder


def complaint(call: Callable[[], Any], *kinds: type[Exception]) -> str | None:
    """The one line of the named error that a call ends with; None if it ends well."""
    try:
        call()
    except kinds as error:
        told = str(error)
    else:
        return None
    assert len(told) < 2000
    assert told.isprintable(), repr(told)
    return told


def refused(path: Path, folder: Path) -> bool:
    """Whether loading the weights fails by naming the file and the way out. What loads is whole,
    and nothing on the disk changes."""
    before = on_disk(folder)
    loaded = []
    told = complaint(
        lambda: loaded.append(pretrained.load("toy/small", directory=folder)), ValueError
    )
    assert on_disk(folder) == before
    if told is not None:
        assert str(path) in told
        assert "gdm train toy/small" in told or "Build the model" in told or "delete it" in told
        return True
    (model,) = loaded
    assert not model.training
    assert all(bool(tensor.isfinite().all()) for tensor in model.state_dict().values())
    return False


def test_damaged_weights(weights: Path) -> None:
    path = weights / "toy/small.safetensors"
    for content in damaged(path.read_bytes(), COUNT, 1):
        path.write_bytes(content)
        assert refused(path, weights)


def test_damaged_weights_that_their_record_vouches_for(weights: Path) -> None:
    """As somebody would write them on purpose: then it is the format that must hold."""
    path = weights / "toy/small.safetensors"
    record = pretrained.record("toy/small", directory=weights)
    accepted = 0
    for content in damaged(path.read_bytes(), COUNT, 2):
        path.write_bytes(content)
        told = record | {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        write_record(weights, told)
        accepted += not refused(path, weights)
    assert 0 < accepted < COUNT / 2  # other numbers, in the same places


def write_record(folder: Path, told: dict[str, Any]) -> None:
    told = told | {"record_sha256": pretrained._digest(told)}
    (folder / "toy/small.json").write_text(json.dumps(told), "utf-8")


def test_damaged_records(weights: Path) -> None:
    path = weights / "toy/small.json"
    right = pretrained.record("toy/small", directory=weights)
    other = pretrained.load("toy/other", directory=weights)
    for i, content in enumerate(damaged(path.read_bytes(), COUNT, 3)):
        path.write_bytes(content)
        if not refused(path, weights):  # a line break for a space, say
            assert pretrained.record("toy/small", directory=weights) == right
        if i % 10 == 0:  # a model that has nothing to do with it
            assert pretrained.identify(other, directory=weights) == "toy/other"


DEEP = "[" * 100_000 + "]" * 100_000
HOSTILE = (
    *("null", "true", "-1", "0.5", "1e999", "NaN", "Infinity", "9" * 5000, '""', '"\\ud800"'),
    *('"x"', "[]", "{}", '{"a": "b"}', '{"a": NaN}', '{"a": true}', "[[1]]", f'"{"x" * 5000}"'),
    *('"a\\nb"', '"\\u001b[2J"', DEEP, f'"{"F" * 64}"', '"../../etc/passwd"', "2000001"),
)
TEXTS = {'"x"', f'"{"F" * 64}"', '"../../etc/passwd"'}
SOUND = {  # what an entry may well be
    "command": TEXTS, "torch": TEXTS, "gdm_lib": TEXTS, "parameters": {"2000001"},
    "steps": {"2000001", "absent"}, "seconds": {"0.5", "2000001", "absent"},
    "metrics": {"{}", "absent"},
}  # fmt: skip


def test_records_with_hostile_entries(weights: Path) -> None:
    """Each entry with each hostile value, and each left out, under a digest that is right."""
    path = weights / "toy/small.json"
    right = pretrained.record("toy/small", directory=weights)
    model = pretrained.load("toy/small", directory=weights)
    for key in right.keys() - {"record_sha256"}:
        others = {k: v for k, v in right.items() if k != key}
        for value in (*HOSTILE, "absent"):
            try:
                told = others if value == "absent" else {**others, key: json.loads(value)}
                write_record(weights, told)
            except (ValueError, RecursionError):  # can't be written with a digest
                path.write_text(f'{json.dumps(others)[:-1]}, "{key}": {value}}}', "utf-8")
            told = complaint(lambda: pretrained.record("toy/small", directory=weights), ValueError)
            assert (told is None) == (value in SOUND.get(key, ())), (key, value[:80], told)
            assert told is None or str(path) in told
            assert pretrained.identify(model, directory=weights) == "toy/small"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_neither_stored_nor_loaded(
    weights: Path, value: float
) -> None:
    model = pretrained.load("toy/small", directory=weights)
    before = on_disk(weights)
    with torch.no_grad():
        model[0].bias[1] = value
    with pytest.raises(ValueError, match=r"0\.bias holds nan or infinite values"):
        pretrained.save(model, "toy/small", {}, directory=weights)
    assert on_disk(weights) == before
    content = pretrained._tensorfile.encode(pretrained.as_stored(model), {})
    path = weights / "toy/small.safetensors"
    path.write_bytes(content)
    record = pretrained.record("toy/small", directory=weights)
    write_record(weights, record | {"bytes": len(content), "sha256": digest(content)})
    with pytest.raises(ValueError, match=r"small\.safetensors holds nan or infinite .* 0\.bias"):
        pretrained.load("toy/small", directory=weights)


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_numbers_of_another_kind_are_refused(weights: Path) -> None:
    model = pretrained.build("toy/small")
    state = model.state_dict()
    for name, dtype in (
        ("0.weight", torch.int64), ("0.weight", torch.bool), ("0.bias", torch.complex64),
        ("1.num_batches_tracked", torch.float32), ("1.num_batches_tracked", torch.uint8),
    ):  # fmt: skip
        wrong = state | {name: state[name].to(dtype)}
        with pytest.raises(ValueError, match=f"w does not fit Sequential: {name} holds {dtype}"):
            pretrained._tensorfile.load_state(model, wrong, Path("w"))
