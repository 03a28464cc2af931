"""Steps take turns: in which order, how often, and what is measured of them."""

from __future__ import annotations

import time

from hf_meta_adapters.study.step_times import step_times


def recorder(taken, name):
    return lambda: taken.append(name)


def test_steps_take_turns_and_the_first_round_warms_up():
    taken = []
    seconds = step_times({name: recorder(taken, name) for name in "ab"}, 3, title="a title")
    assert taken == [*"abababab"]
    assert {name: len(several) for name, several in seconds.items()} == {"a": 3, "b": 3}


def test_long_steps_come_last_and_count_once():
    taken = []
    steps = {name: recorder(taken, name) for name in "abc"}
    seconds = step_times(steps, 2, long=["b"])
    assert taken == [*"acacac", "b", "b"]
    assert [len(seconds[name]) for name in "abc"] == [2, 1, 2]


def test_it_is_the_time_of_the_processor():
    def works():
        until = time.process_time() + 0.05
        while time.process_time() < until:
            pass

    seconds = step_times({"works": works, "sleeps": lambda: time.sleep(0.2)}, 1)
    assert seconds["works"][0] >= 0.05
    assert seconds["sleeps"][0] < 0.1
