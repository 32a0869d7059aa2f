"""Right answers in other words pass, and agree with the chapter's."""

import pytest
import torch

from gdm_lib.exercises import check
from tests.exercises.answers import answered
from tests.exercises.mutants import Draw, build, same

CASES = [
    pytest.param(
        made, source, scope, id=name.removeprefix("gdm_lib.exercises.") + f"-{i}" * (i > 0)
    )
    for name, made in answered().items()
    for i, (source, scope) in enumerate(made.sources)
]


@pytest.mark.parametrize(("made", "source", "scope"), CASES)
def test_a_right_answer_passes(made, source, scope):
    answer = build(source, scope)
    verdict = check(made.checker, answer)
    assert verdict.passed is True, verdict
    draws = [made.inputs(Draw(seed)) for seed in range(20)]
    assert same(answer, build(*made.sources[0]), draws) == ""


@pytest.mark.parametrize(("made", "source", "scope"), CASES)
def test_a_right_answer_passes_in_single_precision(made, source, scope):
    """As an answer would whose own tensors are of torch's default dtype."""
    right = build(source, scope)

    def answer(*args):
        if torch.float64 in [a.dtype for a in args if isinstance(a, torch.Tensor)]:
            raise RuntimeError(
                "expected m1 and m2 to have the same dtype, but got: float != double"
            )
        return right(*args)

    verdict = check(made.checker, answer)
    assert verdict.passed is True, verdict
