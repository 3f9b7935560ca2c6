"""What a canary's answers must show, and a shadow's."""

from types import SimpleNamespace

from tunewright.records import Prediction, Request
from tunewright.releases.probation import check_shadow, judge_canary


def answered(count, right, begin="m", failed=0):
    """`count` labelled requests of which `right` are right and `failed` have no answer."""
    made = []
    for n in range(count):
        answer = None if n < failed else "a" if n < failed + right else "b"
        made.append(Request(f"{begin}{n}", float(n), f"text {n}", answer, label="a"))
    return made


def test_a_canary_waits_then_takes_all():
    theirs = answered(200, 180, "t")
    assert judge_canary(answered(20, 18), theirs, enough=50).verdict == "wait"
    found = judge_canary(answered(50, 45), theirs, enough=50)
    assert (found.verdict, found.answered, found.labelled) == ("promote", 50, 50)


def test_a_canary_that_is_wrong_or_silent_more_often_goes():
    theirs = answered(200, 180, "t")
    assert judge_canary(answered(30, 12), theirs, enough=50).verdict == "roll back"
    found = judge_canary(answered(40, 34, failed=6), theirs, enough=30)
    assert found.verdict == "roll back"
    assert "failed" in found.says
    few = [Request("x", 0.0, "t", "b", label="a")]
    assert judge_canary(few, theirs, enough=50).verdict == "wait"  # one error is chance


class Stub:
    """Answers by a rule; what a shadow is, is decided from answers alone."""

    def __init__(self, rule):
        self.rule, self.rendering = rule, SimpleNamespace(task="classify")

    def predict(self, rows, *, system, split):
        return [
            Prediction(r.id, split, system, r.input, r.output, self.rule(n))
            for n, r in enumerate(rows)
        ]


def test_a_shadow_must_answer_and_not_be_worse():
    asked = answered(100, 100)
    good, bad = Stub(lambda n: "a"), Stub(lambda n: "b" if n < 20 else "a")
    assert check_shadow(bad, good, asked, set()).passed
    worse = check_shadow(good, bad, asked, set())
    assert not worse.passed
    assert "20 spoilt" in worse.says
    learned = {request.id for request in asked[:20]}
    assert check_shadow(good, bad, asked, learned).passed  # those judge nothing
    silent = check_shadow(good, Stub(lambda n: None if n == 3 else "a"), asked, set())
    assert not silent.passed
    assert check_shadow(good, good, [], set()).passed
