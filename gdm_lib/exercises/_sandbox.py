"""Run a reader's code so that it can neither fool, nor hang, nor change whoever runs it.

``isolated`` holds for a whole check: a time limit, and at its end everything that code can change
about the process by accident or in jest is as it was before. Within, ``Isolation.reset`` puts
back what the last call of the reader's code changed, before anything is judged by it.

It guards against a patched ``torch.allclose``, not against somebody who is determined: code in
the same process can always find a way.
"""

from __future__ import annotations

import builtins
import ctypes
import functools
import math
import random
import signal
import sys
import threading
import time
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.autograd
import torch.distributions
import torch.functional
import torch.linalg
import torch.nn.functional
import torch.overrides
import torch.special

__all__ = ["Isolation", "TimeUp", "isolated"]


class TimeUp(BaseException):
    """The time limit has passed. No ``except Exception`` of the reader's catches it."""


# Nothing below may look up what the reader can patch: what is called after the reader's code has
# run is bound to private names here, and the rest is syntax.

_MISSING = object()
_id, _len, _list, _map = id, len, list, map
_set_class = type.__setattr__
_delete_class = type.__delattr__
_settrace, _gettrace = sys.settrace, sys.gettrace


class _Names:
    """The names of a module or a class as they were, and how to have them so again."""

    def __init__(self, owner: Any, *, everything: bool = False) -> None:
        self.owner = owner
        self.is_class = isinstance(owner, type)
        self.now = owner.__dict__
        self.then = {
            name: value
            for name, value in self.now.items()
            if everything or callable(value) or self.is_class
        }
        self.keys = list(self.then)
        self.ids = [id(value) for value in self.then.values()]
        self.code = [
            (value, value.__code__, value.__defaults__, value.__kwdefaults__)
            for value in self.then.values()
            if everything and isinstance(value, types.FunctionType)
        ]

    def put(self, name: str, value: object) -> None:
        if self.is_class:
            if value is _MISSING:
                _delete_class(self.owner, name)
            else:
                _set_class(self.owner, name, value)
        elif value is _MISSING:
            del self.now[name]
        else:
            self.now[name] = value

    def restore(self) -> list[tuple[str, object]]:
        """Put everything back, and return what stood there instead."""
        changed: list[tuple[str, object]] = []
        if _list(_map(_id, _map(self.now.get, self.keys))) != self.ids:  # fast where nothing is
            for name in self.keys:
                found = self.now.get(name, _MISSING)
                if found is not self.then[name]:
                    changed += [(name, found)]
                    self.put(name, self.then[name])
        if self.is_class and _len(self.now) > _len(self.then):
            # What was added shadows the methods of a base class.
            for name in _list(self.now):
                if name not in self.then:
                    changed += [(name, self.now[name])]
                    self.put(name, _MISSING)
        for function, code, defaults, kwdefaults in self.code:
            if function.__code__ is not code:
                function.__code__ = code
            if function.__defaults__ is not defaults:
                function.__defaults__ = defaults
            if function.__kwdefaults__ is not kwdefaults:
                function.__kwdefaults__ = kwdefaults
        return changed


# Taken when the checkers are imported: a patch of a cell before is undone as well.
_KNOWN = [
    _Names(owner)
    for owner in (
        builtins,
        math,
        torch,
        torch.Tensor,
        torch.autograd,
        torch.distributions,
        torch.distributions.Normal,
        torch.functional,
        torch.linalg,
        torch.nn.functional,
        torch.overrides,
        torch.special,
    )
]
_OURS: dict[str, _Names] = {}
_SPECS: dict[str, object] = {}
_PACKAGE = __name__.rpartition(".")[0]


def _know_ours() -> None:
    """Take note of the names of the framework and of all checkers that are imported by now."""
    for name in [*sys.modules]:
        if not name.startswith(_PACKAGE):
            continue
        spec = getattr(sys.modules[name], "__spec__", None)
        if name not in _OURS or _SPECS[name] is not spec:  # a module that is reloaded has a new one
            _SPECS[name] = spec
            _OURS[name] = _Names(sys.modules[name], everything=True)
            for value in _OURS[name].then.values():
                if isinstance(value, type) and value.__module__ == name:
                    _OURS[f"{name}.{value.__qualname__}"] = _Names(value, everything=True)


# How to set and how to get what code can change about the process.
_STATE: list[tuple[Callable[[Any], object], Callable[[], Any]]] = [
    (torch.set_default_dtype, torch.get_default_dtype),
    (torch._C._set_grad_enabled, torch.is_grad_enabled),
    (torch.set_num_threads, torch.get_num_threads),
    (torch._C._set_deterministic_algorithms, torch.are_deterministic_algorithms_enabled),
    (torch._C.set_anomaly_enabled, torch.is_anomaly_enabled),
    (
        functools.partial(torch.set_autocast_enabled, "cpu"),
        functools.partial(torch.is_autocast_enabled, "cpu"),
    ),
    (torch.set_float32_matmul_precision, torch.get_float32_matmul_precision),
    (sys.setrecursionlimit, sys.getrecursionlimit),
    (sys.settrace, sys.gettrace),
    (sys.setprofile, sys.getprofile),
]
_pop_function_mode = torch._C._pop_torch_function_stack
_push_function_mode = torch._C._push_on_torch_function_stack
_count_function_modes = torch._C._len_torch_function_stack
_pop_dispatch_mode = torch._C._pop_torch_dispatch_stack
_push_dispatch_mode = torch._C._push_on_torch_dispatch_stack
_count_dispatch_modes = torch._C._len_torch_dispatch_stack


class Isolation:
    """What is in force within ``isolated``."""

    def __init__(self) -> None:
        _know_ours()
        self.names = [*_KNOWN, *_OURS.values()]
        self.patched: list[tuple[_Names, str, object]] = []
        for names in self.names:
            self.patched += [(names, name, value) for name, value in names.restore()]
        self.state = [get() for _, get in _STATE]
        self.random = random.getstate()
        numpy = sys.modules.get("numpy")
        self.numpy = numpy.random if numpy is not None else None
        self.numpy_state = None if self.numpy is None else self.numpy.get_state()
        self.numpy_errors = None if numpy is None else (numpy.seterr, numpy.geterr())
        self.streams = sys.stdout, sys.stderr
        self.interrupt = signal.getsignal(signal.SIGINT)
        self.modes = [_pop_function_mode() for _ in range(_count_function_modes())]
        self.dispatch = [_pop_dispatch_mode() for _ in range(_count_dispatch_modes())]
        torch.set_default_dtype(torch.float32)
        torch._C._set_grad_enabled(True)
        self.within = [get() for _, get in _STATE]
        self.trace = _gettrace()
        self.running = False

    def run(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Any) -> Any:
        """Call the reader's function, and put back what it changed."""
        self.running = True
        try:
            return function(*args, **kwargs)
        finally:
            self.running = False
            _settrace(self.trace)
            self.reset()

    def reset(self) -> None:
        """Put back what the reader's code has changed since the check began."""
        for names in self.names:
            names.restore()
        while _count_function_modes():
            _pop_function_mode()
        while _count_dispatch_modes():
            _pop_dispatch_mode()
        self._put(self.within)

    def _put(self, state: list[Any]) -> None:
        for (put, get), value in zip(_STATE, state, strict=True):
            found = get()
            if found is not value and found != value:
                put(value)

    def end(self) -> None:
        """Put everything back that was in force before."""
        self.reset()
        for mode in reversed(self.dispatch):
            _push_dispatch_mode(mode)
        for mode in reversed(self.modes):
            _push_function_mode(mode)
        self._put(self.state)
        sys.stdout, sys.stderr = self.streams
        if signal.getsignal(signal.SIGINT) is not self.interrupt:
            signal.signal(signal.SIGINT, self.interrupt)
        random.setstate(self.random)
        if self.numpy is not None:
            self.numpy.set_state(self.numpy_state)
        if self.numpy_errors is not None:
            put, errors = self.numpy_errors
            put(**errors)
        for names, name, value in self.patched:
            names.put(name, value)


@contextmanager
def isolated(seconds: float) -> Iterator[Isolation]:
    """Isolate whatever runs within.

    Args:
        seconds: The time limit. Python code is stopped, a single long operation of torch is not.

    Yields:
        The isolation, to reset after each call of the reader's code.

    Raises:
        TimeUp: The time limit has passed.
    """
    cuda = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with (
        warnings.catch_warnings(),
        torch.random.fork_rng(devices=cuda),
        torch.inference_mode(False),
    ):
        isolation = Isolation()
        try:
            torch.manual_seed(0)
            random.seed(0)
            if isolation.numpy is not None:
                isolation.numpy.seed(0)
            with _time_limit(seconds, isolation):
                yield isolation
        finally:
            isolation.end()


@contextmanager
def _time_limit(seconds: float, isolation: Isolation) -> Iterator[None]:
    main = threading.current_thread() is threading.main_thread()
    if main and hasattr(signal, "setitimer"):
        with _alarm(seconds, isolation):
            yield
    else:
        with _watch(seconds):
            yield


_AGAIN = 0.25  # seconds after which code that caught TimeUp is stopped once more


@contextmanager
def _alarm(seconds: float, isolation: Isolation) -> Iterator[None]:
    """Raise TimeUp in the main thread, by a signal."""
    began = time.monotonic()
    rung = False
    armed = True

    def ring(number: int, frame: types.FrameType | None) -> None:
        nonlocal rung
        if not armed:
            return
        if rung and isolation.running:
            _raise_at_each_line(frame)
        rung = True
        raise TimeUp

    remaining, interval = signal.getitimer(signal.ITIMER_REAL)
    if 0 < remaining <= seconds:  # whoever set this alarm is stricter
        yield
        return
    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN)
    try:
        yield
    finally:
        armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if remaining:
            left = remaining - (time.monotonic() - began)
            signal.setitimer(signal.ITIMER_REAL, max(left, 0.001), interval)


def _raise_at_each_line(frame: types.FrameType | None) -> None:
    """Get out of ``while True: try: ... except BaseException: pass``.

    A single exception always lands in the ``try``. One at each line also lands outside.
    """

    def stop(frame: types.FrameType, event: str, argument: object) -> Any:
        if event == "line":  # the exception that is under way is an event too
            raise TimeUp
        return stop

    inner = []
    while frame is not None and frame.f_code is not Isolation.run.__code__:
        inner.append(frame)
        frame = frame.f_back
    if frame is not None:
        for each in inner:
            each.f_trace = stop
        _settrace(stop)


@contextmanager
def _watch(seconds: float) -> Iterator[None]:
    """Raise TimeUp in this thread, from another: between two steps of Python code."""
    target = ctypes.c_ulong(threading.get_ident())
    done = threading.Event()
    raise_in = ctypes.pythonapi.PyThreadState_SetAsyncExc

    def wait() -> None:
        pause = seconds
        while not done.wait(pause):
            raise_in(target, ctypes.py_object(TimeUp))
            pause = _AGAIN

    watcher = threading.Thread(target=wait, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
        raise_in(target, None)
