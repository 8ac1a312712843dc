"""nopsd.run.progress: a user must see what runs, how far it is and how long it will take, in any console."""

import io

import pytest

from nopsd.run.progress import StageProgress, duration


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


def run(stream, clock, calls, name="neurons: score them"):
    """Play (seconds waited, done, total, info) calls through one stage."""
    with StageProgress(name, 3, 8, stream, clock) as stage:
        for waited, done, total, info in calls:
            clock.now += waited
            stage(done, total, **info)
    head, *lines = stream.getvalue().splitlines()
    assert head == "[3/8] neurons: score them ..."
    return [line.removeprefix("      ") for line in lines]


def test_plain_lines_come_each_tenth_or_ten_seconds_with_the_time_left():
    lines = run(io.StringIO(), Clock(), [(0, 0, 100, {})] + [(1, i, 100, {"loss": 0.123456}) for i in range(1, 101)])
    assert lines[0] == "neurons: 10/100 (10 %), 1 min 30 s left, loss 0.1235"
    assert lines[-2] == "neurons: 100/100 (100 %), loss 0.1235"
    assert lines[-1] == "done in 1 min 40 s"
    assert len(lines) == 11


def test_a_slow_stage_is_never_silent_and_a_fast_one_never_noisy():
    slow = run(io.StringIO(), Clock(), [(0, 0, 1000, {})] + [(11, i, 1000, {}) for i in range(1, 4)])
    assert [line.split("(")[0] for line in slow[:3]] == [f"neurons: {i}/1000 " for i in (1, 2, 3)]
    assert slow[0].endswith("3 h 03 min left")
    fast = run(io.StringIO(), Clock(), [(0.01, i, 1000, {}) for i in range(1000)])
    assert len(fast) <= 5


def test_the_estimate_does_not_count_what_an_earlier_run_had_finished():
    lines = run(io.StringIO(), Clock(), [(0, 80, 100, {}), (10, 90, 100, {})])
    assert lines[0] == "neurons: 90/100 (90 %), 10 s left"


def test_a_new_total_begins_a_new_part():
    lines = run(io.StringIO(), Clock(), [(0, 0, 10, {}), (20, 10, 10, {}), (0, 0, 4, {}), (20, 2, 4, {})])
    assert lines[:2] == ["neurons: 10/10 (100 %)", "neurons: 2/4 (50 %), 20 s left"]


def test_a_stage_with_nothing_to_do_says_so():
    stream = io.StringIO()
    with StageProgress("select", 4, 8, stream, Clock()) as stage:
        stage.up_to_date()
    assert stream.getvalue() == "[4/8] select ... up to date\n"


@pytest.mark.parametrize(("error", "word"), [(ValueError, "failed"), (KeyboardInterrupt, "interrupted")])
def test_a_stage_that_breaks_off_says_so_and_hides_nothing(error, word):
    stream = io.StringIO()
    with pytest.raises(error), StageProgress("train", 6, 8, stream, Clock()) as stage:
        stage(1, 10)
        raise error
    assert stream.getvalue() == f"[6/8] train ...\n      {word} after 0.0 s\n"


def test_on_a_terminal_there_is_a_bar_with_the_time_left_and_a_green_end(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    stream = Terminal()
    with StageProgress("train", 6, 8, stream) as stage:
        stage(5, 10, loss=0.5)
        stage(10, 10, loss=0.25)
    text = stream.getvalue()
    assert "[6/8] train ...\n" in text and "50%" in text and "left" in text and "\r" in text
    assert text.rstrip("\n").split("\r")[-1].startswith("      \033[32mdone in")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(4.21, "4.2 s"), (9.97, "10 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"), (3725, "1 h 02 min")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_what_a_stage_waits_for_is_said_with_how_long_ever_more_rarely():
    """Breaks if a user sees nothing while the rollout server starts, or a line every second."""
    clock, stream = Clock(), io.StringIO()
    with StageProgress("rollout: answer", 2, 9, stream, clock) as stage:
        with stage.waits_for("the server (its log: a.log)"):
            for _ in range(60):
                clock.now += 2.0
                stage.tick()
        clock.now += 100.0
        stage.tick()
        stage(0, 10)
    lines = [line.strip() for line in stream.getvalue().splitlines()]
    assert lines[0] == "[2/9] rollout: answer ..."
    assert lines[1] == "rollout: waiting for the server (its log: a.log): 10 s so far"
    assert [line.split(": ")[-1] for line in lines[2:-1]] == [
        f"{waited} so far" for waited in ("20 s", "30 s", "40 s", "50 s", "1 min 04 s", "1 min 20 s", "1 min 40 s")
    ]


def test_a_report_ends_the_waiting():
    clock, stream = Clock(), io.StringIO()
    with StageProgress("train", 7, 9, stream, clock) as stage, stage.waits_for("the ranks"):
        stage(0, 10)
        clock.now += 100.0
        stage.tick()
    assert "waiting" not in stream.getvalue()


def test_a_line_says_what_is_left_of_the_whole_run_and_asks_for_it_rarely():
    clock, stream, asked = Clock(), io.StringIO(), []

    def overall():
        asked.append(clock.now)
        return f"run: {len(asked)} h left"

    with StageProgress("train", 7, 9, stream, clock, overall) as stage:
        for done in range(11):
            stage(done, 10)
            clock.now += 4.0
    lines = [line.strip() for line in stream.getvalue().splitlines()][1:-1]
    assert lines[0] == "train: 1/10 (10 %), 36 s left; run: 1 h left"
    assert [line.split("run: ")[1] for line in lines][:5] == [f"{n} h left" for n in (1, 1, 1, 2, 2)]
    assert len(asked) == 4
