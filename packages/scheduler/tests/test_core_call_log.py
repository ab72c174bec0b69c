"""Which of an actor's calls are safe from its node's death, and what is to be written next."""

from __future__ import annotations

import random
from functools import partial

from rostral_scheduler.core.call_log import APPEND_MAX, Append, CallLog, LookFor, Save


def test_calls_are_safe_once_they_are_written_without_a_gap() -> None:
    log, safe = CallLog[str](), list[int]()
    for place in (2, 1):
        log.wait(place, partial(safe.append, place))
    assert log.next() == LookFor(0)
    log.note(2, "b")
    assert log.next() == LookFor(0)
    log.note(1, "a")
    assert log.next() == Append(1, ["a", "b"])
    assert safe == []
    log.appended(1)
    assert (safe, log.next()) == ([1], Append(2, ["b"]))
    log.appended(2)
    assert (safe, log.next()) == ([1, 2], None)


def test_a_checkpoint_comes_first_and_makes_safe_what_it_covers() -> None:
    log, safe = CallLog[str](), list[int]()
    log.note(4, "d")
    log.wait(3, lambda: safe.append(3))
    log.made(3)
    assert log.next() == Save(3)
    log.saved(3)
    assert safe == [3]
    assert log.next() == Append(4, ["d"])
    assert log.is_noted(2)
    assert not log.is_noted(5)


def test_what_is_safe_is_not_waited_for() -> None:
    log, safe = CallLog[str](covered=5, written=8), list[int]()
    log.wait(8, lambda: safe.append(8))
    log.note(7, "known")
    assert (safe, log.next()) == ([8], None)


def test_so_many_calls_are_written_at_once_at_most() -> None:
    log = CallLog[int]()
    for place in range(1, APPEND_MAX + 2):
        log.note(place, place)
    assert log.next() == Append(1, list(range(1, APPEND_MAX + 1)))


def test_nobody_waits_for_what_will_never_be_written() -> None:
    log, safe = CallLog[str](), list[int]()
    for place in (3, 1, 2):
        log.wait(place, partial(safe.append, place))
    log.give_up()
    assert (safe, log.next()) == ([1, 2, 3], None)


def test_in_any_order_of_events_each_call_is_written_once_or_covered() -> None:
    for seed in range(200):
        choice = random.Random(seed)
        log, safe = CallLog[int](), set[int]()
        written: list[int] = []
        places = list(range(1, 40))
        choice.shuffle(places)
        while places or log.next() is not None:
            if places and choice.random() < 0.6:
                place = places.pop()
                log.wait(place, partial(safe.add, place))
                log.note(place, place)
            elif choice.random() < 0.1:
                log.made(choice.randrange(40))
            match log.next():
                case Save(covers):
                    log.saved(covers)
                case Append(first, calls):
                    assert calls[0] == first == log.written + 1
                    assert first > (written[-1] if written else 0)
                    written += calls
                    log.appended(calls[-1])
                case _:
                    pass
            assert log.covered <= log.written
            assert all(place <= log.written for place in safe)
        assert safe == set(range(1, 40))
