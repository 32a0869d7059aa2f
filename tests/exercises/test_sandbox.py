"""No answer fools the checkers, hangs them, or leaves the process other than it was."""

import builtins
import contextlib
import io
import math
import random
import re
import signal
import subprocess
import sys
import threading
import time
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gdm_lib.exercises import Verdict, _check, _sandbox, check, expect
from gdm_lib.exercises.autoregressive import wavenet
from gdm_lib.exercises.expect import expect_close, expect_gradient
from gdm_lib.exercises.flows import glow, iaf, maf
from gdm_lib.exercises.vae import vae


def double(answer):
    """A checker to check with: twice x plus y, with a gradient to x."""
    x = torch.tensor([1.0, -2.0, 4.0], dtype=torch.float64, requires_grad=True)
    y = torch.tensor([0.5, 0.25, 1.0], dtype=torch.float64)
    got = answer(x, y)
    expect_close(got, 2 * x + y, "the result", faults=[(x + y, "x is not doubled.")])
    expect_close(expect_gradient(got, x, "x"), torch.full_like(x, 2), "the gradient")


def right(x, y):
    return 2 * x + y


def wrong(x, y):
    return x + y


def assert_refused(answer, told, checker=double, **options):
    verdict = check(checker, answer, **options)
    assert verdict.passed is False, verdict
    assert "the book's fault" not in verdict.message
    assert re.search(told, verdict.message), verdict


def yes(*args, **kwargs):
    return True


class Anything:
    """Equal to everything, and everything that is asked for."""

    def __eq__(self, other):
        return True

    def __hash__(self):
        return 0

    def __getattr__(self, name):
        return Anything()

    def __call__(self, *args, **kwargs):
        return Anything()

    def __bool__(self):
        return True

    def __len__(self):
        return 2

    def __iter__(self):
        return iter([Anything(), Anything()])


class Impostor(Anything):
    @property
    def __class__(self):
        return Tensor


class FakeTuple(Anything):
    @property
    def __class__(self):
        return tuple


class Liar(Tensor):
    """A tensor that every function says yes of."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if "allclose" in str(function) or "equal" in str(function):
            return True
        return super().__torch_function__(function, types, args, kwargs or {})


# -- patches

# Each value is made when it is wanted: one that equals everything would fool pytest too.
PATCHES = [
    (torch, "allclose", yes),
    (torch, "equal", yes),
    (torch, "full_like", lambda x, *args: x),
    (torch.autograd, "grad", lambda *args, **kwargs: (torch.full((3,), 2.0).double(),)),
    (Tensor, "__eq__", yes),
    (Tensor, "detach", lambda self: torch.tensor([2.5, -3.75, 9.0], dtype=torch.float64)),
    (Tensor, "isfinite", lambda self: torch.ones(1)),
    (Tensor, "sum", lambda self, *args: self.new_zeros(())),
    (builtins, "isinstance", yes),
    (builtins, "all", yes),
    (builtins, "any", lambda *args: False),
    (math, "log", lambda *args: 0.0),
    (F, "softplus", lambda x: x),
    (expect, "expect_close", yes),
    (expect, "expect_tensor", lambda got, *args: got),
    (expect, "torch", None),
    (_check, "_same", yes),
    (_check, "describe", yes),
    (_check.Verdict, "__repr__", lambda self: "✓ double: correct."),
    (vae, "expect_close", yes),
]


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch[1])
def test_an_answer_that_patches_fools_nobody_and_leaves_no_patch(patch):
    owner, name, value = patch
    missing = object()
    before = vars(owner).get(name, missing)

    def patches(x, y):
        setattr(owner, name, value)
        return x + y

    def kl(mu, log_var):
        setattr(owner, name, value)
        return mu.sum(1)

    try:
        assert_refused(patches, "x is not doubled")
        assert_refused(kl, "the KL", checker=vae.gaussian_kl)
        assert vars(owner).get(name, missing) is before
        assert repr(check(double, right)) == "✓ double: correct."
    finally:
        if before is missing:
            if name in vars(owner):
                delattr(owner, name)
        else:
            setattr(owner, name, before)


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch[1])
def test_a_patch_of_an_earlier_cell_fools_nobody_and_stays(patch, monkeypatch):
    owner, name, value = patch
    check(vae.gaussian_kl, right)  # its module is known from now on
    if owner is builtins:  # pytest itself needs them
        with monkeypatch.context() as context:
            context.setattr(owner, name, value)
            verdict, stayed = check(double, wrong), getattr(owner, name) is value
    else:
        monkeypatch.setattr(owner, name, value, raising=False)
        verdict, stayed = check(double, wrong), getattr(owner, name) is value
    monkeypatch.undo()
    assert verdict.passed is False
    assert stayed


def test_code_put_into_a_checker_or_an_assertion_does_not_stay():
    def nothing(*args, **kwargs):
        return None

    def patches(x, y):
        vae.gaussian_kl.__code__ = nothing.__code__
        expect.expect_close.__code__ = nothing.__code__
        expect_close.__kwdefaults__ = {"faults": (), "rtol": 1e9, "atol": 1e9}
        return x + y

    assert_refused(patches, "x is not doubled")
    assert_refused(lambda mu, log_var: mu.sum(1), "the KL", checker=vae.gaussian_kl)


def test_a_mode_left_open_fools_nobody():
    class SayYes(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            if "allclose" in str(function):
                return True
            return function(*args, **(kwargs or {}))

    mode = SayYes()

    def opens(x, y):
        mode.__enter__()
        return x + y

    assert_refused(opens, "x is not doubled")
    assert torch._C._len_torch_function_stack() == 0
    with mode:
        assert check(double, wrong).passed is False
        assert torch._C._len_torch_function_stack() == 1


# -- what is returned


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Anything(), r"should be a tensor .* an object of type Anything"),
        (
            lambda: Impostor(),
            r"an object of type Impostor, which says that it is a tensor and is none",
        ),
        (lambda: FakeTuple(), r"an object of type FakeTuple"),
        (lambda: torch.ones(3).as_subclass(Liar), r"a tensor of a class of its own, `Liar`"),
        (lambda: torch.eye(3).to_sparse(), r"not dense \(its layout is sparse_coo\)"),
        (lambda: 10**10000, r"but is the int of \d+ bits"),
        (lambda: "x" * 10**6, r"but is the str 'x{40,}"),
        (lambda: [0.0] * 10**6, r"a list of 1000000 \(the float 0.0, .*…\)"),
        (lambda: lambda: 1, r"but is the function `<lambda>`"),
        (lambda: range(10**9), r"an object of type range"),
        (lambda: complex(1, 2), r"the complex \(1\+2j\)"),
        (lambda: np.float64(3), r"a numpy array of shape \(\)"),
        (lambda: torch.zeros(3, dtype=torch.bool), r"dtype bool, but the inputs have float64"),
        (
            lambda: torch.zeros([1] * 60, dtype=torch.float64),
            r"has shape \(1, 1, 1.* …\), expected \(3,\)",
        ),
        (lambda: torch.zeros(0, dtype=torch.float64), r"has shape \(0,\), expected"),
    ],
)
def test_what_is_no_tensor_is_named_in_a_few_words(make, told):
    result = make()
    assert_refused(lambda x, y: result, told)
    assert len(check(double, lambda x, y: result).message) < 400


def test_a_list_that_holds_itself_is_named():
    nested = []
    nested += [nested, nested]
    assert_refused(lambda x, y: nested, r"but is a list of 2 \(a list of 2")
    assert_refused(lambda x: nested, r"log_scale should be a tensor", checker=glow.first_look)


def test_a_generator_is_told_that_it_yields():
    def endless(x, y):
        while True:
            yield x

    assert_refused(endless, "a generator .*`yield` where it should `return`")


def test_attributes_of_the_instance_do_not_stand_before_methods():
    def dressed(x, y):
        result = x + y
        result.detach = lambda: right(x, y).detach()
        return result

    assert_refused(dressed, "x is not doubled")

    def dressed_and_right(x, y):
        result = right(x, y)
        result.note = "mine"
        return result

    assert check(double, dressed_and_right).passed is True


def test_a_parameter_and_a_named_tuple_are_right_answers():
    assert check(iaf.linear_iaf, lambda cov: _linear_iaf(cov)).passed is True

    def checker(answer):
        expect_close(answer(torch.ones(2)), torch.ones(2), "the result")

    assert check(checker, lambda x: nn.Parameter(x)).passed is True


def _linear_iaf(cov):
    from collections import namedtuple

    root = torch.linalg.cholesky(cov)
    return namedtuple("Two", "L sigma")(root / root.diagonal(), root.diagonal())


def test_objects_whose_own_methods_raise_are_named():
    class Rude:
        def __repr__(self):
            raise ValueError("no")

        @property
        def shape(self):
            raise ValueError("no")

    class RudeError(Exception):
        def __str__(self):
            raise ValueError("no")

    def raises(x, y):
        raise RudeError

    assert_refused(lambda x, y: Rude(), "an object of type Rude")
    assert_refused(raises, "your code raised RudeError")


def test_a_wrapper_of_itself_is_called_and_judged():
    def answer(x, y):
        return x + y

    answer.__wrapped__ = answer
    assert_refused(answer, "x is not doubled|does not take|wrapper loop")


# -- inputs


def test_an_input_that_is_changed_is_named():
    def grows(x, y):
        result = right(x, y)
        y.resize_(9)
        return result

    def sets(x, y):
        result = right(x, y)
        y.data = torch.zeros(3).double()
        return result

    def fills(x, y):
        y.fill_(math.nan)
        return right(x, y)

    for answer in (grows, sets, fills):
        assert_refused(answer, "changes its input `y` in place")


def test_a_gradient_switched_on_is_switched_off_again():
    seen = []

    def checker(answer):
        x = torch.ones(2)
        answer(x)
        seen.append(x.requires_grad)

    assert check(checker, lambda x: x.requires_grad_() * 2).passed is True
    assert seen == [False]


# -- exceptions


class Own(BaseException):
    pass


@pytest.mark.parametrize(
    "error", [SystemExit("bye"), GeneratorExit(), Own("mine"), _sandbox.TimeUp(), StopIteration()]
)
def test_every_exception_but_an_interrupt_is_a_verdict(error):
    def raises(x, y):
        raise error

    verdict = check(double, raises)
    assert verdict.passed is False
    assert "the book's fault" not in verdict.message


def test_an_exception_with_a_huge_text_is_shortened():
    def raises(x, y):
        raise ValueError("long " * 10**6)

    verdict = check(double, raises)
    assert "your code raised ValueError: long long" in verdict.message
    assert len(verdict.message) < 700


def test_recursion_without_end_is_a_verdict():
    def again(x, y):
        return again(x, y)

    assert_refused(again, "RecursionError")


def test_an_answer_that_judges_itself_is_a_verdict():
    def again(x, y):
        check(double, again)
        return x + y

    assert check(double, again, seconds=20).passed is False


# -- time


def loop(x, y):
    while True:
        pass


def stubborn(x, y):
    while True:
        try:
            while True:
                pass
        except BaseException:
            pass


def sleeper(x, y):
    while True:
        with contextlib.suppress(BaseException):
            time.sleep(1000)


def fed(x, y):
    for i in iter(int, 1):
        x = x + i
    return x


def collects(x, y):
    return right(x, y) + sum(1 for _ in iter(int, 1))


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timer that signals")
@pytest.mark.parametrize("answer", [loop, stubborn, sleeper, fed, collects])
def test_a_loop_without_end_is_stopped(answer):
    handler, timer = signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)[0]
    began = time.monotonic()
    assert_refused(answer, r"ran for more than 0.2 seconds.*a loop that never ends", seconds=0.2)
    assert time.monotonic() - began < 20  # the machine may be busy
    assert signal.getsignal(signal.SIGALRM) is handler
    assert (signal.getitimer(signal.ITIMER_REAL)[0] > 0) == (timer > 0)
    assert sys.gettrace() is _TRACE
    assert check(double, right).passed is True


_TRACE = sys.gettrace()


def test_the_line_at_which_a_loop_was_stopped_is_told():
    assert re.search(
        r"It was at line \d+, in loop: `(while True:|pass)`",
        check(double, loop, seconds=0.2).message,
    )


@pytest.mark.parametrize("answer", [loop, fed])
def test_a_loop_without_end_is_stopped_outside_the_main_thread(answer):
    verdicts = []
    thread = threading.Thread(
        target=lambda: verdicts.append(check(double, answer, seconds=0.2)), daemon=True
    )
    thread.start()
    thread.join(30)
    assert verdicts
    assert "ran for more than 0.2 seconds" in verdicts[0].message


def test_an_alarm_that_was_set_before_still_rings():
    if not hasattr(signal, "setitimer"):
        pytest.skip("no timer that signals")
    rung = []
    before = signal.signal(signal.SIGALRM, lambda *args: rung.append(True))
    old = signal.setitimer(signal.ITIMER_REAL, 60)
    try:
        assert check(double, right, seconds=5).passed is True
        assert 0 < signal.getitimer(signal.ITIMER_REAL)[0] < 60
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        while not rung:
            pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, *old)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("seconds", [0, -1, math.inf, math.nan])
def test_a_limit_that_is_none_is_refused(seconds):
    with pytest.raises(ValueError, match="seconds: expected a positive and finite number"):
        check(double, right, seconds=seconds)


def test_the_limit_is_for_all_calls_together_and_half_a_minute_without_another():
    import inspect

    assert inspect.signature(check).parameters["seconds"].default == 30


# -- state


def test_the_state_of_the_process_is_as_before():
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    before = _state()

    def meddles(x, y):
        torch.set_default_dtype(torch.float16)
        torch.set_grad_enabled(False)
        torch.set_num_threads(torch.get_num_threads() + 1)
        torch.autograd.set_detect_anomaly(True, check_nan=False)
        torch.set_default_device("meta")
        torch.use_deterministic_algorithms(True)
        torch.manual_seed(99)
        random.seed(99)
        np.random.seed(99)  # noqa: NPY002
        np.seterr(all="ignore")
        warnings.simplefilter("ignore")
        sys.setrecursionlimit(5000)
        sys.stdout = io.StringIO()
        torch.autocast("cpu").__enter__()
        return x + y

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        filters = list(warnings.filters)
        assert_refused(meddles, "x is not doubled")
        assert list(warnings.filters) == filters
    torch.set_default_device(None)
    assert _state() == before


def _state():
    return (
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        torch.get_num_threads(),
        torch.is_anomaly_enabled(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch._C._len_torch_function_stack(),
        torch.get_rng_state().tolist(),
        random.getstate(),
        np.random.get_state()[1].tolist(),  # noqa: NPY002
        np.geterr(),
        sys.getrecursionlimit(),
        sys.stdout,
    )


def test_a_right_answer_passes_whatever_the_cell_before_has_set():
    solution = {"kl": lambda mu, log_var: 0.5 * (mu**2 + log_var.exp() - log_var - 1).sum(1)}
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    try:
        with torch.inference_mode():
            assert check(vae.gaussian_kl, solution["kl"]).passed is True
        assert torch.get_default_dtype() == torch.float64
        assert torch.empty(1).is_meta
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)


def test_the_default_dtype_is_single_precision_while_an_answer_is_judged():
    def path_counts(order, degrees):
        place = order.argsort() + 1
        return (place[:, None] > degrees).float() @ (degrees[:, None] >= place).float()

    torch.set_default_dtype(torch.float64)
    try:
        assert check(maf.path_counts, path_counts).passed is True
    finally:
        torch.set_default_dtype(torch.float32)


def test_an_interrupt_that_an_answer_switches_off_works_again():
    before = signal.getsignal(signal.SIGINT)

    def deaf(x, y):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        return x + y

    try:
        assert_refused(deaf, "x is not doubled")
        assert signal.getsignal(signal.SIGINT) is before
    finally:
        signal.signal(signal.SIGINT, before)


def test_drawing_from_numpy_or_python_gets_the_same_verdict_twice():
    def draws(x, y):
        return right(x, y) + random.random() * np.random.rand()  # noqa: NPY002

    assert check(double, draws) == check(double, draws)


# -- precision


def test_an_answer_in_single_precision_is_right_and_told_so():
    def entropy_rate(P):
        pi = torch.ones(len(P)) / len(P)
        for _ in range(500):
            pi = pi @ P
        return pi @ torch.special.entr(P).sum(1)

    verdict = check(wavenet.entropy_rate, entropy_rate)
    assert verdict.passed is True, verdict
    assert "correct, for float32. With float64 inputs it raises an error" in verdict.message

    def sample_from_noise(net, u):
        x = torch.zeros(u.shape)
        for i in range(u.shape[1]):
            mu, alpha = net(x)
            x[:, i] = u[:, i] * alpha[:, i].exp() + mu[:, i]
        return x

    assert check(maf.sample_from_noise, sample_from_noise).passed is True


def test_single_precision_does_not_excuse_a_wrong_answer():
    def half(P):
        pi = torch.ones(len(P)) / len(P)
        return 0.5 * (pi @ P) @ torch.special.entr(P).sum(1)

    verdict = check(wavenet.entropy_rate, half)
    assert verdict.passed is False
    assert "same dtype" in verdict.message or "dtype" in verdict.message

    def cut(x, y):
        return torch.eye(3) @ (2 * x.detach() + y)

    assert check(double, cut).passed is False


def test_integers_where_floats_are_asked_for_are_told_so():
    def counts(dilations, n):
        return torch.ones(n, dtype=torch.int64)

    message = check(wavenet.path_counts, counts).message
    assert "the numbers of paths have dtype int64, expected float32" in message
    assert "`.to(torch.float32)`" in message
    assert "follow the inputs" not in message


@pytest.mark.parametrize(
    ("name", "verbs"),
    [
        ("the result", ("is", "has")),
        ("the numbers of paths", ("are", "have")),
        ("the numbers of paths for dilations that lead beyond n", ("are", "have")),
        ("bits per dimension of a grey image", ("are", "have")),
        ("the means", ("are", "have")),
        ("g and b", ("are", "have")),
        ("the log-mass", ("is", "has")),
        ("the loss of two variables", ("is", "has")),
        ("the estimate with log-weights near 2000", ("is", "has")),
        ("z at large s", ("is", "has")),
        ("the gradient with respect to `means`", ("is", "has")),
        ("the log-determinant of points far from the plane", ("is", "has")),
    ],
)
def test_verbs_agree_with_what_they_tell_of(name, verbs):
    assert expect._verbs(name) == verbs


def test_messages_are_sentences():
    def counts(n):
        return torch.ones(n)

    message = check(wavenet.path_counts, lambda d, n: counts(n)[:2]).message
    assert "the numbers of paths have shape (2,), expected (10,)." in message
    scaled = check(wavenet.compand, lambda a, mu: 3 * _compand(a, mu)).message
    assert "the companded amplitudes are 3 times what they should be, in every entry" in scaled
    off = check(wavenet.compand, lambda a, mu: 0.5 + _compand(a, mu)).message
    assert "the companded amplitudes differ from what they should be by 0.5" in off
    nan = check(double, lambda x, y: (x + y).sum() * math.nan)
    assert "  " not in nan.message.replace("\n  ", "")


def _compand(a, mu):
    return a.sign() * torch.log1p(mu * a.abs()) / math.log1p(mu)


# -- printing


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "latin-1", "utf-8"])
def test_a_verdict_prints_on_any_console(encoding, monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    for passed in (True, False, None):
        print(Verdict(passed, "kl: of μ ≥ … no."), flush=True)
    text = stream.buffer.getvalue().decode(encoding)
    monkeypatch.undo()
    lines = text.splitlines()
    assert len(lines) == 3
    assert all("kl: of " in line for line in lines)
    assert len({line.split()[0] for line in lines}) == 3
    if encoding == "utf-8":
        assert lines[0] == "✓ kl: of μ ≥ … no."


def test_print_of_a_check_where_the_console_is_not_utf_8():
    code = (
        "from gdm_lib.exercises import check\n"
        "from gdm_lib.exercises.vae import vae\n"
        "print(check(vae.gaussian_kl, lambda mu, log_var: mu.sum(1)))\n"
        "print(check(vae.gaussian_kl, lambda mu, log_var: ...))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        env={"PYTHONIOENCODING": "cp1252", "PYTHONPATH": sys.path[0], "OMP_NUM_THREADS": "1"},
        check=True,
        timeout=120,
    )
    assert done.stdout.decode("cp1252").startswith("[wrong] gaussian_kl: ")
