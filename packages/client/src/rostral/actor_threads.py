"""Threaded actors: threads that take calls from the mailbox themselves.

One thread at a time leads: it alone takes calls. While it runs one it gives the lead up, without
telling anybody; when its call was short, it finds the lead where it left it and goes on, so that
short calls cost no change of threads. When its call is long, the watch sees so within a moment and
wakes another thread to lead; and for a while after a long call a thread does that itself before it
runs the next one.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable

from rostral.concurrency import Group, Groups
from rostral.mailbox import Mailbox
from rostral.sweeper import sweep_timeout_ns
from rostral_objectstore._native.task import ClaimedTask, Tasks

# How soon the watch sees that a call is long. Waking for it costs some 20 us of one core, so this
# is 2 % of a core at most.
WATCH_INTERVAL_S = 0.001
# After so many rounds without a call the watch sleeps until it is needed.
WATCH_IDLE_ROUNDS = 50
# Between two looks for threads that have become idle, when all are to end.
CLOSE_INTERVAL_S = 0.001
# After a long call, so many calls in a row must be short before the next one is expected to be.
SHORT_CALLS_WANTED = 64


class ThreadedCalls:
    """Runs an actor's calls, as many at once as its groups allow.

    Args:
        mailbox: the actor's.
        groups: its limits.
        tasks: this process's, to look after while waiting.
        run_call: runs one call; raises nothing.
    """

    def __init__(
        self,
        mailbox: Mailbox,
        groups: Groups,
        tasks: Tasks,
        run_call: Callable[[ClaimedTask], None],
    ) -> None:
        self._mailbox = mailbox
        self._groups = groups
        self._tasks = tasks
        self._run_call = run_call
        # One more where calls may be held, so that somebody can go on claiming.
        self._threads_max = groups.limit + groups.are_named
        self._lead = threading.Lock()
        self._books = threading.Lock()  # guards the groups
        self._gates: deque[threading.Lock] = deque()  # of idle threads, the last one to idle first
        self._numbers = itertools.count()
        self._threads: list[threading.Thread] = []
        self._calls_begun = 0
        self._calls_running = 0
        self._long_calls_expected = 0
        self._watch_wanted = threading.Event()
        self._is_watching = False
        self._ended = threading.Event()
        self._idle = threading.Condition(self._books)

    def run(self) -> None:
        """Blocks until the mailbox is closed. Calls may still be running then."""
        threading.Thread(target=self._watch, name="rostral-actor-watch", daemon=True).start()
        self._wake_another()
        self._ended.wait()

    def stop(self) -> None:
        """Lets `run` return: the mailbox is closed. Callable from any thread."""
        self._ended.set()

    def join(self, timeout_s: float) -> None:
        """Waits until the calls that had been claimed have ended."""
        with self._idle:
            self._idle.wait_for(lambda: not self._calls_running, timeout_s)

    def close(self) -> None:
        """Ends the threads that run no call; for an actor that shares its process."""
        self._ended.set()
        self._watch_wanted.set()
        for thread in self._threads:
            # One that was about to be idle makes its gate after we have looked.
            while thread.is_alive() and thread is not threading.current_thread():
                with contextlib.suppress(IndexError):
                    self._gates.popleft().release()
                thread.join(CLOSE_INTERVAL_S)
                if self._calls_running:
                    break

    # ---- a thread

    def _serve(self) -> None:
        gate = threading.Lock()
        gate.acquire()
        while not self._ended.is_set():
            if self._lead.acquire(blocking=False):
                call = self._take()
                if call is not None:
                    self._run_in_turn(*call)
                    continue
                if self._mailbox.closed:
                    self._ended.set()
                    return
            # Somebody leads, who wakes this thread when needed, or whom the watch has an eye on.
            self._gates.append(gate)
            gate.acquire()

    def _take(self) -> tuple[ClaimedTask, Group] | None:
        """The next call to run, by the thread that leads; the lead is given up in any case.

        None: the mailbox is closed, or there is no place for a call until some call ends.
        """
        try:
            while not self._mailbox.closed:
                with self._books:
                    if not self._groups.may_claim():
                        return None
                call = self._mailbox.take(sweep_timeout_ns(self._tasks))
                if call is None:
                    continue
                with self._books:
                    self._calls_running += 1
                    group = self._groups.begin(call)
                if group is not None:
                    self._calls_begun += 1
                    return call, group
            return None
        finally:
            self._lead.release()

    def _run_in_turn(self, call: ClaimedTask | None, group: Group) -> None:
        """Runs the call, and then those of its group that were held meanwhile."""
        while call is not None:
            if not self._is_watching:
                self._is_watching = True
                self._watch_wanted.set()
            if self._long_calls_expected:
                self._wake_another()
                began_s = time.monotonic()
                self._run_call(call)
                if time.monotonic() - began_s < WATCH_INTERVAL_S:
                    self._long_calls_expected -= 1
                else:
                    self._long_calls_expected = SHORT_CALLS_WANTED
            else:
                self._run_call(call)
            with self._books:
                call = self._groups.end(group)
                self._calls_running -= 1
                if not self._calls_running and self._mailbox.closed:
                    self._idle.notify_all()

    # ---- waking others

    def _may_claim(self) -> bool:
        with self._books:
            return self._groups.may_claim()

    def _wake_another(self) -> None:
        """Has an idle thread try to lead, or a new one."""
        try:
            self._gates.popleft().release()
        except IndexError:
            if len(self._threads) < self._threads_max:
                name = f"rostral-actor-{next(self._numbers)}"
                thread = threading.Thread(target=self._serve, name=name, daemon=True)
                self._threads.append(thread)
                thread.start()

    def _watch(self) -> None:
        """Wakes another thread when nobody leads because the last leader's call is long."""
        idle_rounds, seen = 0, -1
        while not self._ended.is_set():
            if idle_rounds > WATCH_IDLE_ROUNDS:
                self._sleep_until_wanted()
                idle_rounds = 0
            time.sleep(WATCH_INTERVAL_S)
            if self._lead.locked():
                idle_rounds = idle_rounds + 1 if self._calls_begun == seen else 0
            elif self._calls_begun == seen and self._may_claim():
                self._long_calls_expected = SHORT_CALLS_WANTED
                self._wake_another()
            seen = self._calls_begun

    def _sleep_until_wanted(self) -> None:
        self._watch_wanted.clear()
        self._is_watching = False
        # A thread that saw the watch awake, just before, and runs its call by now wakes nobody.
        if self._lead.locked():
            self._watch_wanted.wait()
        self._is_watching = True
