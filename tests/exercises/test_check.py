"""What ``check`` makes of any answer, and that ``assert_checker`` lets no weak checker through."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import gdm_lib.exercises
from gdm_lib.exercises import Verdict, Wrong, check
from gdm_lib.exercises.expect import expect_close, expect_gradient, expect_shape, expect_tensor
from gdm_lib.exercises.testing import assert_checker


def double(answer: Callable[..., Tensor]) -> None:
    """A checker to check with: twice x plus y, with a gradient to x."""
    x = torch.tensor([1.0, -2.0, 4.0], dtype=torch.float64, requires_grad=True)
    y = torch.tensor([0.5, 0.25, 1.0], dtype=torch.float64)
    got = answer(x, y)
    faults = [(x + y, "x is not doubled."), (2 * x - y, "y has the wrong sign.")]
    expect_close(got, 2 * x + y, "the result", faults=faults)
    expect_close(expect_gradient(got, x, "x"), torch.full_like(x, 2), "the gradient")


def right(x, y):
    return 2 * x + y


# -- the verdict


def test_verdicts_print_stably_and_differ_by_more_than_colour():
    assert (
        repr(Verdict(True, "kl: correct."))
        == str(Verdict(True, "kl: correct."))
        == "✓ kl: correct."
    )
    assert repr(Verdict(False, "kl: no.")) == "✗ kl: no."
    assert repr(Verdict(None, "kl: not yet.")) == "○ kl: not yet."


def test_html_is_escaped_and_leaves_the_text_colour_to_the_page():
    page = Verdict(False, "kl: got `a < b` and <script>")._repr_html_()
    assert "<code>a &lt; b</code>" in page
    assert "<script>" not in page
    assert "✗ kl" in page
    style = re.search(r'style="([^"]*)"', page).group(1)
    assert not re.search(r"(?<![-\w])color\s*:", style)


def test_a_right_answer_passes():
    assert check(double, right) == Verdict(True, "double: correct.")


def test_a_class_or_a_module_can_be_the_answer():
    class Right(nn.Module):
        def forward(self, x, y):
            return 2 * x + y

    assert check(double, Right()).passed is True


# -- not attempted


def empty(x, y): ...


def only_a_docstring(x, y):
    """Return 2 x + y."""


def passes(x, y):
    pass


def ellipsis_left(x, y):
    two_x = ...
    return two_x + y


def returns_ellipsis(x, y):
    result = ...
    return result


def not_implemented(x, y):
    raise NotImplementedError("write me")


@pytest.mark.parametrize(
    "stub",
    [
        empty,
        only_a_docstring,
        passes,
        lambda x, y: ...,
        ellipsis_left,
        returns_ellipsis,
        not_implemented,
        None,
        ...,
    ],
)
def test_a_stub_is_not_attempted_yet(stub):
    verdict = check(double, stub)
    assert verdict.passed is None
    assert "double: not attempted yet" in verdict.message


def test_a_half_finished_answer_is_told_where():
    assert "`return two_x + y`" in check(double, ellipsis_left).message
    handed_on = check(double, lambda x, y: torch.exp(...))
    assert handed_on.passed is None


def test_a_class_with_an_empty_method_is_not_attempted_yet():
    class Half:
        def __init__(self):
            self.x = 1

        def forward(self, x): ...

    verdict = check(double, Half)
    assert verdict.passed is None
    assert "`forward` of your class is still empty" in verdict.message


def test_a_forgotten_return_is_an_answer_not_a_stub():
    def forgets(x, y):
        result = 2 * x + y  # noqa: F841

    verdict = check(double, forgets)
    assert verdict.passed is False
    assert "returned None. Is a `return` missing" in verdict.message


@pytest.mark.parametrize(
    "answer",
    [
        lambda x, y: torch.eye(2).to_sparse().logsumexp(0),  # raised in C++
        lambda x, y: nn.Module()(x),  # raised in torch's Python
    ],
)
def test_torch_saying_not_implemented_is_not_a_stub(answer):
    verdict = check(double, answer)
    assert verdict.passed is False
    assert "your code raised NotImplementedError: " in verdict.message


# -- exceptions


def broken(x, y):
    unused = x.sum()
    return y[7] + unused


def test_an_exception_is_told_with_the_readers_line_and_the_call():
    def calls_broken(x, y):
        return broken(x, y)

    message = check(double, calls_broken).message
    assert "your code raised IndexError: index 7 is out of bounds" in message
    assert re.search(r"at line \d+, in broken: `return y\[7\] \+ unused`", message)
    assert "x: a float64 tensor of shape (3,)" in message
    assert "Traceback" not in message


def test_the_line_told_is_the_readers_when_a_library_raises_deep_inside():
    def in_torch(x, y):
        return nn.functional.layer_norm(x, (5,))

    def in_the_standard_library(x, y):
        return json.loads("{")

    assert "nn.functional.layer_norm(x, (5,))" in check(double, in_torch).message
    assert "json.loads(" in check(double, in_the_standard_library).message


@pytest.mark.parametrize(
    "error", [SystemExit(1), RecursionError("deep"), AssertionError(), KeyError("k"), MemoryError()]
)
def test_any_exception_is_a_verdict(error):
    def raises(x, y):
        raise error

    verdict = check(double, raises)
    assert verdict.passed is False
    assert type(error).__name__ in verdict.message
    assert "when called as double(x: " in verdict.message


def test_a_keyboard_interrupt_passes_through_and_the_random_state_is_restored():
    def interrupted(x, y):
        torch.rand(3)
        raise KeyboardInterrupt

    state = torch.random.get_rng_state()
    with pytest.raises(KeyboardInterrupt):
        check(double, interrupted)
    assert torch.equal(state, torch.random.get_rng_state())


def test_an_exception_in_the_backward_pass_is_the_readers():
    class Bad(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return 2 * x

        @staticmethod
        def backward(ctx, grad):
            raise ValueError("backward of mine")

    verdict = check(double, lambda x, y: Bad.apply(x) + y)
    assert verdict.passed is False
    assert "backward of mine" in verdict.message
    assert "could not be judged" not in verdict.message


def test_a_method_that_raises_after_the_call_is_the_readers():
    class Answer:
        def __init__(self, *args):
            self.args = args

        def total(self):
            raise ValueError("mine")

    def checker(answer):
        answer(1).total()

    verdict = check(checker, Answer)
    assert verdict.passed is False
    assert '`raise ValueError("mine")`' in verdict.message


def in_the_library(source: str) -> Callable:
    """The function ``bad`` of a source, as if its file lay in the package."""
    place = Path(gdm_lib.exercises.__file__).with_name("imagined.py")
    scope: dict = {"torch": torch, "expect_close": expect_close}
    exec(compile(source, str(place), "exec"), scope)
    return scope["bad"]


def test_a_fault_of_the_checker_is_not_blamed_on_the_reader():
    verdict = check(in_the_library("def bad(answer):\n    return 1 / 0\n"), right)
    assert verdict.passed is False
    assert "the book's fault" in verdict.message
    assert "imagined.py, line 2" in verdict.message


# -- signature, type, shape, values


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (lambda: 1, r"does not take the 2 arguments .*too many positional"),
        (lambda x: x, r"does not take the 2 arguments"),
        (lambda x, y, z: x, r"missing a required argument: 'z'"),
        (torch.exp, r"TypeError: exp\(\)"),
        (3.0, r"expected your function itself, got the float 3.0"),
        (torch.zeros(2), r"function itself, got a float32 tensor of shape \(2,\)"),
        (lambda x, y: 1.5, r"should be a tensor of shape \(3,\), but is the float 1.5"),
        (lambda x, y: right(x, y).tolist(), r"but is a list of 3"),
        (lambda x, y: (right(x, y), y), r"but is a tuple of 2 \(a float64 tensor"),
        (lambda x, y: right(x, y).detach().numpy(), r"but is a numpy array of shape \(3,\)"),
        (lambda x, y: right, r"but is the function `right`"),
        (lambda x, y: right(x, y).float(), r"dtype float32, but the inputs have float64"),
        (lambda x, y: right(x, y).to("meta"), r"is on meta, but the inputs are on cpu"),
        (lambda x, y: right(x, y)[:, None], r"right values, but shape \(3, 1\) where \(3,\)"),
        (lambda x, y: right(x, y)[:2], r"has shape \(2,\), expected \(3,\)"),
        (lambda x, y: right(x, y).sqrt(), r"is NaN in 1 of 3 entries"),
        (lambda x, y: right(x, y) / (y - 1).abs(), r"is infinite in 1 of 3 entries"),
        (lambda x, y: x + y, r"x is not doubled"),
        (lambda x, y: 3 * right(x, y), r"is 3 times what it should be"),
        (lambda x, y: -right(x, y), r"is -1 times what it should be"),
        (lambda x, y: right(x, y) - 1.5, r"differs from what it should be by -1.5"),
        (lambda x, y: right(x, y) * y, r"wrong at \[1\]: expected -3.75, got -0.9375"),
        (lambda x, y: right(x.detach(), y), r"no gradient reaches `x`"),
        (lambda x, y: x.detach() + x + y, r"the gradient is 0.5 times"),
    ],
)
def test_the_verdict_says_what_is_wrong(answer, told):
    verdict = check(double, answer)
    assert verdict.passed is False
    assert re.search(told, verdict.message), verdict


def test_changing_an_input_in_place_is_told_by_name():
    def by_name(x, noise):
        result = right(x, noise)
        noise += 1
        return result

    message = check(double, by_name).message
    assert "changes its input `noise` in place" in message

    def leaf(x, y):
        x += 1
        return x

    message = check(double, leaf).message
    assert "you change an input in place" in message
    assert "`x += 1`" in message


def test_an_input_that_holds_nan_is_not_taken_for_changed():
    def checker(answer):
        answer(torch.tensor([float("nan"), 1.0]))

    assert check(checker, lambda x: x + 1).passed is True


def test_the_random_state_is_preserved_and_the_verdict_repeatable():
    def draws(x, y):
        return torch.randn(3, dtype=torch.float64) + x

    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    first = check(double, draws)
    assert torch.equal(torch.rand(2), expected)
    assert check(double, draws) == first


def test_answers_are_judged_with_gradients_on_and_the_mode_is_restored():
    with torch.no_grad():
        assert check(double, right).passed is True
        assert not torch.is_grad_enabled()


def test_assertions_alone():
    x = torch.ones(2)
    assert expect_tensor(x, x, "x") is x
    expect_shape(x, (2,), "x")
    with pytest.raises(Wrong, match=r"x has shape \(2,\), expected \(3,\)"):
        expect_shape(x, (3,), "x")
    with pytest.raises(Wrong, match="expected 2, got 1"):
        expect_close(torch.tensor(1.0), torch.tensor(2.0), "x")
    with pytest.raises(Wrong, match=r"differs from what it should be by 0\.02"):
        expect_close(torch.tensor([1000.02, 990.02]), torch.tensor([1000.0, 990.0]), "x", rtol=1e-6)


# -- assert_checker: each way to be a weak checker is caught


WRONG = {
    "not doubled": lambda x, y: x + y,
    "y has the wrong sign": lambda x, y: 2 * x - y,
    "3 times": lambda x, y: 3 * (2 * x + y),
}


def test_assert_checker_accepts_a_good_checker():
    assert_checker(double, right, WRONG)


def test_assert_checker_wants_enough_wrong_answers():
    with pytest.raises(AssertionError, match="at least 3 are needed"):
        assert_checker(double, right, dict(list(WRONG.items())[:2]))


def test_assert_checker_wants_the_solution_to_pass():
    with pytest.raises(AssertionError, match="the solution does not pass"):
        assert_checker(double, lambda x, y: x, WRONG)


def test_assert_checker_wants_wrong_answers_to_fail():
    with pytest.raises(AssertionError, match="'also right' is let through"):
        assert_checker(double, right, WRONG | {"also right": lambda x, y: y + x + x})


def test_assert_checker_wants_the_fault_named():
    with pytest.raises(AssertionError, match="should match 'y is forgotten'"):
        assert_checker(double, right, WRONG | {"y is forgotten": lambda x, y: 2 * x})


def test_assert_checker_wants_messages_that_tell_faults_apart():
    both = {"wrong at .*": lambda x, y: x, "is wrong": lambda x, y: x * y}
    with pytest.raises(AssertionError, match="does not single out a fault"):
        assert_checker(double, right, WRONG | both)


def test_assert_checker_catches_a_checker_that_never_looks():
    with pytest.raises(AssertionError, match="a stub counts as attempted"):
        assert_checker(lambda answer: None, right, WRONG)


def test_assert_checker_catches_a_checker_that_trusts_the_type():
    def trusting(answer):
        x, y = torch.ones(2), torch.full((2,), 3.0)
        got = answer(x, y)
        if got.shape != x.shape or not torch.equal(got, right(x, y)):
            raise Wrong("no.")

    with pytest.raises(AssertionError, match="planted"):
        assert_checker(trusting, right, WRONG)


def test_assert_checker_catches_a_checker_that_fails_itself():
    source = """
def bad(answer):
    x, y = torch.tensor([1.0, -2.0, 4.0]), torch.tensor([0.5, 0.25, 1.0])
    got = answer(x, y)
    faults = [(x + y, "x is not doubled."), (2 * x - y, "y has the wrong sign.")]
    expect_close(got, 2 * x + y, "the result", faults=faults if len(got) else [])
"""
    scalar = {"0-d tensor": lambda x, y: x.sum()}

    with pytest.raises(AssertionError, match="checker itself fails"):
        assert_checker(in_the_library(source), lambda x, y: 2 * x + y, WRONG | scalar)


def test_assert_checker_wants_verdicts_that_do_not_change():
    calls = []

    def moody(answer):
        answer(1)
        calls.append(answer)
        if len(calls) > 1:
            raise Wrong("not today.")

    with pytest.raises(AssertionError, match="two verdicts"):
        assert_checker(moody, lambda x: x, WRONG)
