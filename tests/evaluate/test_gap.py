"""The generalisation gap is found where it is, and only there."""

from tunewright.evaluate.gap import find_gap


def run(validation, training=None):
    """Ten steps between two looks."""
    looks = [{"step": 10 * n, "loss": loss} for n, loss in enumerate(validation, 1)]
    losses = training or [1.0 / n for n in range(1, len(validation) + 1)]
    steps = [
        {"step": 10 * n + k, "loss": loss} for n, loss in enumerate(losses) for k in range(1, 11)
    ]
    return find_gap(steps, looks)


def test_a_rise_after_the_lowest_look_is_told():
    found = run([1.0, 0.8, 0.9, 1.1])
    assert (found.step, found.last_step) == (20, 40) and found.validation == (0.8, 1.1)
    assert found.training == (0.5, 0.25)
    assert found.line.startswith("Overfitting: from step 20 to 40 validation loss rose from 0.8")


def test_noise_and_both_rising_are_not():
    assert run([1.0, 0.8, 0.7, 0.65]) is None
    assert run([1.0, 0.8, 0.805, 0.81]) is None
    assert run([1.0, 0.8, 0.9, 0.79, 0.9]) is None
    assert run([1.0, 0.8, 0.9, 1.1], training=[1.0, 0.5, 0.6, 0.7]) is None
    assert run([float("nan")] * 4) is None
    assert run([0.8, 0.9]) is None
