"""Checkpoints of a training run: all of its state in one file, and nothing believed in it.

A checkpoint is a safetensors file with the weights, their average, what the optimizers keep and
the history, and with a SHA-256 over every byte but its own. It is checked from end to end before
any of it is loaded.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer

from gdm_lib import _tensorfile
from gdm_lib._files import check_writable, read_plain, replacing
from gdm_lib._players import History, Player

__all__ = ["Checkpoint", "Kept", "State", "agree_on", "not_finite", "together"]

RECORD, DIGEST = "gdm_lib.training", "gdm_lib.sha256"
BLANK = b"0" * 64
PLACE = re.compile(rb'"gdm_lib\.sha256" ?: ?"([0-9a-f]{64})"')
LOGS = ("train", "valid", "measured")
ELSE = "delete it or give another checkpoint="


@dataclass
class State:
    """What a checkpoint holds, checked and not yet loaded."""

    step: int
    digest: str
    model: dict[str, Tensor]
    average: dict[str, Tensor]
    optimizers: list[dict[int, dict[str, Any]]]
    precision: dict[str, Any]
    history: dict[str, Any]


@dataclass
class Checkpoint:
    """The state of a run in one file. Random numbers need none: they follow from the step."""

    path: Path
    model: nn.Module
    players: Sequence[Player]
    fabric: Fabric
    history: History
    config: dict[str, Any]

    def check_writable(self) -> None:
        """Try to write beside the file; what killed runs left there is swept away.

        Raises:
            ValueError: it can't be written there, or the model's state isn't tensors alone.
        """
        if os.path.lexists(self.path) and self.path.exists() and not self.path.is_file():
            raise ValueError(
                f"checkpoint {self.path} is a folder, a pipe or a device; give the path of a file, "
                "such as checkpoint='run.safetensors'"
            )
        try:
            check_writable(self._target())
        except (OSError, ValueError) as error:
            raise ValueError(
                f"checkpoint {self.path} can't be written ({_reason(error)}), and the run would be "
                "lost; give another checkpoint=, in a folder that you may write to"
            ) from error
        for name, value in self.model.state_dict().items():
            if not isinstance(value, Tensor):
                raise ValueError(
                    f"checkpoint can't hold {name} of the model's state_dict, which is a "
                    f"{type(value).__name__}; make it a buffer, or leave out checkpoint"
                )

    def save(self, step: int) -> None:
        """Write the state after ``step`` steps: all of it, or nothing."""
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        if self.history.ema is not None:
            tensors |= {f"ema.{k}": v for k, v in self.history.ema.state_dict().items()}
        numbers: dict[str, Any] = {}
        for number, player in enumerate(self.players):
            for index, state in player.optimizer.state_dict()["state"].items():
                for name, value in state.items():
                    key = f"optimizer.{number}.{index}.{name}"
                    if isinstance(value, Tensor):
                        tensors[key] = value
                    elif value is None or isinstance(value, bool | int | float):
                        numbers[key] = value
                    else:
                        raise ValueError(
                            f"checkpoint can't hold {name} of {type(player.optimizer).__name__}, "
                            f"which is a {type(value).__name__}; leave out checkpoint"
                        )
        logs = vars(self.history)
        for log in LOGS:
            steps, columns = logs[f"{log}_steps"], list(logs[log].values())
            tensors[f"history.{log}_steps"] = torch.tensor(steps, dtype=torch.int64)
            table = torch.tensor(columns, dtype=torch.float64)
            tensors[f"history.{log}"] = table.reshape(len(columns), len(steps))
        record = {
            "step": step,
            "config": self.config,
            "optimizer": numbers,
            "precision": self.fabric.strategy.precision.state_dict(),
            "terms": {log: list(logs[log]) for log in LOGS},
            "seconds": self.history.seconds,
        }
        content = _sealed(
            _tensorfile.encode(tensors, {RECORD: json.dumps(record), DIGEST: BLANK.decode()})
        )
        with replacing(self._target()) as temporary:
            temporary.write_bytes(content)

    def read(self, total: int) -> State | None:
        """The state in the file; ``None`` if there is no file.

        Args:
            total: steps after which the run is to end.

        Raises:
            ValueError: the file isn't a whole checkpoint of this run, with at most so many steps.
        """
        weights = sum(t.nbytes for t in [*self.model.parameters(), *self.model.buffers()])
        try:
            # The weights, their average and what optimizers keep of each are a few times the
            # weights; a GiB is a history of more than ten million steps.
            content = read_plain(self.path, 16 * weights + 2**30)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise self._refusal(f"can't be read ({_reason(error)})") from error
        try:
            tensors, metadata = _tensorfile.decode(content, self.path)
        except ValueError as error:
            raise ValueError(f"checkpoint {error}, or give another checkpoint=") from error
        if RECORD not in metadata:
            raise self._refusal("was not written by gdm_lib.training")
        if DIGEST not in metadata:
            raise self._refusal(
                "has no digest, since an older version of gdm_lib wrote it, so that nothing tells "
                "whether it is whole"
            )
        if metadata[DIGEST] != _digest(content):
            raise self._refusal("is damaged: it does not have its own SHA-256")
        try:
            record = json.loads(metadata[RECORD], object_pairs_hook=_each_once)
        except (ValueError, RecursionError) as error:
            raise self._refusal("is damaged: its record is not JSON") from error
        step = self._step(record, total)
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "ema": {}, "optimizer": {}}
        parts["history"] = {}
        for key, tensor in tensors.items():
            part, _, name = key.partition(".")
            self._insist(part in parts, f"holds {key[:80]!r}, which no checkpoint has")
            parts[part][name] = tensor
        self._check_weights(self.model, parts["model"])
        if self.history.ema is None:
            self._insist(not parts["ema"], "holds averaged weights, and the run has none")
        else:
            self._check_weights(self.history.ema, parts["ema"])
        return State(
            step,
            metadata[DIGEST],
            parts["model"],
            parts["ema"],
            self._optimizers(parts["optimizer"], record["optimizer"]),
            self._precision(record["precision"]),
            self._history(parts["history"], record, step),
        )

    def load(self, state: State) -> int:
        """Put everything back as it was; returns the number of steps taken.

        Raises:
            ValueError: a part of it refuses its state. All are then as before, to the last bit.
        """
        average = self.history.ema
        kept = Kept([self.model] if average is None else [self.model, average])
        optimizers = [player.optimizer for player in self.players]
        before = [copy.deepcopy(optimizer.state_dict()) for optimizer in optimizers]
        precision = self.fabric.strategy.precision
        scaling = copy.deepcopy(precision.state_dict())
        try:
            self.model.load_state_dict(state.model)
            if average is not None:
                average.load_state_dict(state.average)
            for optimizer, found in zip(optimizers, state.optimizers, strict=True):
                groups = optimizer.state_dict()["param_groups"]
                optimizer.load_state_dict({"state": found, "param_groups": groups})
            precision.load_state_dict(state.precision)
        except BaseException as error:
            kept.give_back()
            for optimizer, old in zip(optimizers, before, strict=True):
                optimizer.load_state_dict(old)
            precision.load_state_dict(scaling)
            if not isinstance(error, Exception):
                raise
            raise self._refusal(f"can't be loaded ({_reason(error)})") from error
        vars(self.history).update(state.history)
        return state.step

    # What is in the file

    def _target(self) -> Path:
        """Where the file is that a link stands for: a link is not replaced."""
        return Path(os.path.realpath(self.path))

    def _refusal(self, fault: str) -> ValueError:
        return ValueError(f"checkpoint {self.path} {fault}; {ELSE}")

    def _insist(self, holds: bool, fault: str) -> None:
        if not holds:
            raise self._refusal(fault)

    def _step(self, record: Any, total: int) -> int:
        """The number of steps taken, of a record of this run."""
        fields = {"step", "config", "optimizer", "precision", "terms", "seconds"}
        self._insist(
            isinstance(record, dict)
            and record.keys() == fields
            and all(isinstance(record[k], dict) for k in fields - {"step", "seconds"}),
            "is damaged: its record has other fields",
        )
        theirs = record["config"]
        for name in [*self.config, *(name for name in theirs if name not in self.config)]:
            was, now = theirs.get(name), self.config.get(name)
            if type(was) is not type(now) or was != now:
                raise ValueError(
                    f"checkpoint {self.path} is of another run: {name[:40]} was {_short(was)} "
                    f"there and is {now} now; give the same value, another file, or resume=False"
                )
        step = record["step"]
        self._insist(_is_count(step), "is damaged: its step is no number of steps")
        if step > total:
            raise ValueError(
                f"checkpoint {self.path} is of a run that has taken {_short(step)} steps, and "
                f"this one is to end after {total}; give as many steps or more, or {ELSE}"
            )
        return step

    def _check_weights(self, module: nn.Module, state: Mapping[str, Tensor]) -> None:
        own = module.state_dict()
        faults = [f"{name} is missing" for name in own if name not in state]
        faults += [f"{name[:80]} is not in the model" for name in state if name not in own]
        for name, mine in own.items():
            if name not in state:
                continue
            theirs = state[name]
            if theirs.shape != mine.shape:
                faults.append(
                    f"{name} has shape {tuple(theirs.shape)}, the model's is {tuple(mine.shape)}"
                )
            elif theirs.dtype != mine.dtype:
                faults.append(f"{name} is {theirs.dtype}, the model's is {mine.dtype}")
        if faults:
            more = f", and {len(faults) - 5} more" if len(faults) > 5 else ""
            raise ValueError(
                f"checkpoint {self.path} does not fit {type(module).__name__}: "
                f"{'; '.join(faults[:5])}{more}. Build the model with the arguments that the file "
                f"was made with, or {ELSE}"
            )
        trained = {n for n, p in module.named_parameters(remove_duplicate=False) if p.requires_grad}
        meant = set(not_finite(own.items())) - trained  # a mask of -inf is as it should be
        broken = [name for name in not_finite(state.items()) if name not in meant]
        self._insist(not broken, f"holds weights that are not finite: {', '.join(broken[:3])}")

    def _optimizers(
        self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]
    ) -> list[dict[int, dict[str, Any]]]:
        """The optimizers' states, each with the structure that its optimizer makes."""
        found: list[dict[int, dict[str, Any]]] = [{} for _ in self.players]
        entries = {f"optimizer.{key}": value for key, value in tensors.items()}
        self._insist(not entries.keys() & numbers.keys(), "holds an optimizer's state twice")
        for key, value in {**entries, **numbers}.items():
            match = re.fullmatch(r"optimizer\.(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})\.(.+)", key)
            self._insist(
                match is not None and int(match[1]) < len(found),
                f"holds {key[:80]!r}, which no optimizer of the run has",
            )
            assert match is not None
            found[int(match[1])].setdefault(int(match[2]), {})[match[3]] = value
        for player, state in zip(self.players, found, strict=True):
            whose = f"the state of {type(player.optimizer).__name__}"
            wanted = _structure(player.optimizer)
            count = sum(len(group["params"]) for group in player.optimizer.param_groups)
            for index, values in state.items():
                self._insist(index < count, f"holds {whose} for parameter {index} of {count}")
                if wanted is None:
                    continue
                names = wanted.get(index, {})
                self._insist(
                    values.keys() == names.keys(),
                    f"holds {whose} as {sorted(values)}, and this optimizer keeps {sorted(names)}",
                )
                for name, value in values.items():
                    self._insist(
                        _alike(value, names[name]),
                        f"holds {whose} with another kind of {name} than this optimizer keeps",
                    )
                    if name == "step":  # torch's optimizers count their own steps by this name
                        self._insist(
                            0 <= float(value) < math.inf, f"holds {whose} after {value} steps"
                        )
        return found

    def _precision(self, found: dict[str, Any]) -> dict[str, Any]:
        own = self.fabric.strategy.precision.state_dict()
        self._insist(
            found.keys() == own.keys()
            and all(_alike(found[name], own[name]) for name in own)
            and all(math.isfinite(value) and value >= 0 for value in found.values()),
            "is of a run in another precision",
        )
        return found

    def _history(
        self, tensors: Mapping[str, Tensor], record: Mapping[str, Any], step: int
    ) -> dict[str, Any]:
        """The fields of the history."""
        fault = "is damaged: its history does not fit its step"
        terms, seconds = record["terms"], record["seconds"]
        self._insist(tensors.keys() == {n for log in LOGS for n in (log, f"{log}_steps")}, fault)
        self._insist(terms.keys() == set(LOGS), fault)
        fields: dict[str, Any] = {}
        for log in LOGS:
            table, when, names = tensors[log], tensors[f"{log}_steps"], terms[log]
            self._insist(
                isinstance(names, list)
                and all(isinstance(name, str) for name in names)
                and len(set(names)) == len(names)
                and table.dtype == torch.float64
                and when.dtype == torch.int64
                and when.ndim == 1
                and table.shape == (len(names), len(when)),
                fault,
            )
            steps = when.tolist()
            rising = all(a < b for a, b in zip([0, *steps], [*steps, step + 1], strict=True))
            self._insist(rising, fault)
            fields[f"{log}_steps"] = steps
            fields[log] = dict(zip(names, table.tolist(), strict=True))
        wanted = {player.title("loss") for player in self.players}
        self._insist(
            len(fields["train_steps"]) == step
            and bool(tensors["train"].isfinite().all())
            and wanted <= fields["train"].keys()
            and (not fields["valid_steps"] or "loss" in fields["valid"])
            and isinstance(seconds, float)
            and 0 <= seconds < math.inf,
            fault,
        )
        return fields | {"seconds": seconds, "interrupted": False}


# The digest


def _place(content: bytes) -> slice | None:
    """Where the digest stands in the file's header; ``None`` unless it stands there once."""
    header = content[8 : 8 + int.from_bytes(content[:8], "little")]
    found = list(PLACE.finditer(header))
    return slice(8 + found[0].start(1), 8 + found[0].end(1)) if len(found) == 1 else None


def _digest(content: bytes) -> str:
    """SHA-256 of the file with a blank in the digest's own place; "" if it has no such place."""
    place = _place(content)
    if place is None:
        return ""
    view = memoryview(content)
    digest = hashlib.sha256(view[: place.start])
    digest.update(BLANK)
    digest.update(view[place.stop :])
    return digest.hexdigest()


def _sealed(content: bytes) -> bytes:
    place = _place(content)
    assert place is not None
    sealed = bytearray(content)
    sealed[place] = _digest(content).encode()
    return bytes(sealed)


# Values


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"{error}".partition("\n")[0][:300]


def _short(value: object) -> str:
    try:
        return str(value)[:80]
    except (RecursionError, ValueError):
        return f"a {type(value).__name__}"


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("a key stands there twice")
    return dict(pairs)


def _alike(value: object, wanted: object) -> bool:
    """Whether a value is of the kind of another: a tensor of its shape and dtype, or a number."""
    if isinstance(wanted, Tensor):
        return (
            isinstance(value, Tensor)
            and value.shape == wanted.shape
            and value.dtype == wanted.dtype
        )
    return type(value) is type(wanted)


def _structure(optimizer: Optimizer) -> dict[int, dict[str, Any]] | None:
    """What an optimizer keeps of each parameter once it has taken a step, tried on a copy of it;
    ``None`` of one that can't be copied."""
    try:
        with torch.random.fork_rng([]):
            trial = copy.deepcopy(optimizer)
            for group in trial.param_groups:
                for parameter in group["params"]:
                    parameter.grad = torch.zeros_like(parameter)
            trial.step()
        return trial.state_dict()["state"]
    except Exception:
        return None


# What is kept in memory


def not_finite(tensors: Iterable[tuple[str, Tensor]]) -> list[str]:
    """The names of tensors with a value that is NaN or infinite; one transfer if there is none."""
    pairs = [(n, t.detach()) for n, t in tensors if t.is_floating_point() or t.is_complex()]
    if not pairs:
        return []
    # A sum is finite only if all that is in it is, and is cheaper than a look at each value.
    device = pairs[0][1].device
    if bool(torch.stack([t.sum().isfinite().to(device) for _, t in pairs]).all()):
        return []
    return [name for name, tensor in pairs if not bool(tensor.isfinite().all())]


class Kept:
    """A copy of all parameters and buffers of some modules, to be given back to them."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self.modules = modules
        self.keep(0)
        # A buffer may be meant so, such as a mask of -inf.
        self.exempt = set(not_finite(self._tensors()))

    def _tensors(self) -> list[tuple[str, Tensor]]:
        return [
            (f"{number} {name}", tensor)
            for number, module in enumerate(self.modules)
            for pairs in (module.named_parameters(), module.named_buffers())
            for name, tensor in pairs
        ]

    def keep(self, step: int) -> None:
        """Copy them as they are after ``step`` steps."""
        self.step = step
        self.copies = {name: tensor.detach().clone() for name, tensor in self._tensors()}

    def broken(self) -> list[str]:
        """Names of what was finite in the beginning and isn't now."""
        found = [name for name in not_finite(self._tensors()) if name not in self.exempt]
        return list(dict.fromkeys(name.partition(" ")[2] for name in found))

    @torch.no_grad()
    def give_back(self) -> None:
        """Make them what they were when they were copied."""
        for name, tensor in self._tensors():
            tensor.copy_(self.copies[name])


# Several processes


def agree(fabric: Fabric, fault: BaseException | None) -> None:
    """Go on together, or not at all.

    Args:
        fabric: whose processes are to go on.
        fault: why this one can't.

    Raises:
        BaseException: ``fault`` itself.
        RuntimeError: another process can't.
    """
    if fabric.world_size > 1:
        failed = torch.tensor([fault is not None], dtype=torch.int64, device=fabric.device)
        ranks = cast(Tensor, fabric.all_gather(failed)).flatten().nonzero().flatten().tolist()
        if fault is None and ranks:
            raise RuntimeError(
                f"process {ranks[0]} can't go on, and no other does without it; its own message "
                "says why"
            )
    if fault is not None:
        raise fault


@contextmanager
def together(fabric: Fabric) -> Iterator[None]:
    """An error in the block on one process is one on all of them."""
    if fabric.world_size == 1:
        yield
        return
    fault = None
    try:
        yield
    except Exception as error:
        fault = error
    agree(fabric, fault)


def agree_on(fabric: Fabric, facts: Mapping[str, object]) -> None:
    """Insist that every process knows the same.

    Args:
        fabric: whose processes are to agree.
        facts: by name; the names are the same on all.

    Raises:
        ValueError: a fact differs between two processes.
    """
    if fabric.world_size == 1:
        return
    row = torch.tensor([_hash(value) for value in facts.values()], device=fabric.device)
    rows = cast(Tensor, fabric.all_gather(row)).reshape(fabric.world_size, -1)
    differ = (rows != rows[:1]).any(0).tolist()
    for (name, value), differs in zip(facts.items(), differ, strict=True):
        if differs:
            raise ValueError(
                f"{name} must be the same on all {fabric.world_size} processes, and is {value} on "
                f"process {fabric.global_rank}; none of them goes on"
            )


def _hash(value: object) -> int:
    digest = hashlib.blake2b(repr(value).encode(), digest_size=7).digest()
    return int.from_bytes(digest, "big")
