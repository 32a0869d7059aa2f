"""Right answers in other words pass, and agree with the chapter's."""

import pytest

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
