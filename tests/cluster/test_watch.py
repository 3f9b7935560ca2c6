"""Stalls are named by our own clock, and slow honest ranks are left in peace."""

from tunewright.cluster.attempt import Beat
from tunewright.cluster.watch import FIRST_STEP_S, LATE_S, SILENT_S, Watch


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def beat(rank, *, ticks, arrivals=5, waiting=False, step=3, stage="step"):
    return Beat(rank, f"host{rank}", 100 + rank, stage, step, waiting, arrivals, ticks)


def play(frames, seconds=1.0, *, clock=None):
    """What a watch says at the end of frames, each a tuple of beats, a second apart."""
    clock = clock or Clock()
    watch = Watch(clock)
    found = None
    for beats in frames:
        found = watch.look({one.rank: one for one in beats})
        if found is not None:
            return clock.now, found
        clock.now += seconds
    return clock.now, found


def test_a_stopped_process_is_named_within_half_a_minute():
    frames = [(beat(0, ticks=t, waiting=True, arrivals=6), beat(1, ticks=1)) for t in range(60)]
    at, found = play(frames)
    assert found is not None
    assert found[0].name == "rank 1 on host1"
    assert "no sign of life" in found[1]
    assert SILENT_S < at < 30


def test_a_live_rank_that_never_comes_is_named_within_a_minute():
    steps = [(beat(0, ticks=t, step=t, arrivals=t), beat(1, ticks=t, step=t, arrivals=t))
             for t in range(5)]  # fmt: skip
    late = [(beat(0, ticks=t, waiting=True, arrivals=9, step=5), beat(1, ticks=t, step=5))
            for t in range(5, 90)]  # fmt: skip
    at, found = play(steps + late)
    assert found is not None
    assert found[0].rank == 1
    assert LATE_S < at < 60


def test_a_slow_step_is_no_stall():
    """Steps of 30 s: 100 s for one of them is within what they take."""
    frames = []
    for t in range(300):
        step = t // 30
        frames.append(tuple(beat(r, ticks=t, step=step, arrivals=step) for r in (0, 1)))
    last = frames[-1][0]
    frames += [
        (beat(0, ticks=t, waiting=True, arrivals=last.arrivals + 1, step=last.step),
         beat(1, ticks=t, step=last.step, arrivals=last.arrivals))
        for t in range(300, 400)
    ]  # fmt: skip
    assert play(frames)[1] is None


def test_rank_0_may_read_data_for_long():
    frames = [
        (beat(0, ticks=t, stage="starting", step=0, arrivals=2),
         beat(1, ticks=t, stage="starting", step=0, arrivals=3, waiting=True))
        for t in range(int(3 * FIRST_STEP_S))
    ]  # fmt: skip
    assert play(frames)[1] is None


def test_a_network_that_is_cut_is_told_from_a_slow_rank():
    steps = [tuple(beat(r, ticks=t, step=t, arrivals=t) for r in (0, 1)) for t in range(5)]
    cut = [tuple(beat(r, ticks=t, step=5, arrivals=6, waiting=True) for r in (0, 1))
           for t in range(5, 90)]  # fmt: skip
    at, found = play(steps + cut)
    assert found is not None
    assert "network" in found[1]
    assert at < 60


def test_clocks_of_other_hosts_do_not_enter():
    """Beats hold no time at all, so a clock that is wrong by years changes nothing."""
    assert not [name for name in Beat.__slots__ if "time" in name or "clock" in name]
