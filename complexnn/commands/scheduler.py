"""Commands side by side: what each waits for, where it runs, and an orderly end of them all.

A command's output goes to a log of its own. The log is locked while the command runs, by the
command itself: where a campaign was killed and its commands were not, the next one waits for them.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from complexnn.runs.progress import Interrupted, deferred_signals, duration

POLL = 0.1  # seconds between two looks at what runs
WORTH = 60.0  # seconds: what needs more time than is left is not started for less
WAITING, RUNNING, DONE, FAILED, SKIPPED, LEFT = (
    "waiting", "running", "done", "failed", "skipped", "left for the next time",
)  # fmt: skip


@dataclass(frozen=True)
class Command:
    """A process to run. ``after`` and ``needs`` are places of other commands in the list."""

    name: str  # a few words
    shown: str  # all of it
    argv: tuple[str, ...]
    log: Path
    seconds: float = 0.0  # estimated
    kind: str = ""  # estimates of one kind are wrong by one factor
    after: frozenset[int] = frozenset()  # these must have ended
    needs: frozenset[int] = frozenset()  # these must have succeeded
    finished: bool = False
    goes_on: bool = False  # ended early, it loses nothing: the next time it goes on from there
    anywhere: bool = False  # it takes --device
    loud: bool = False  # what it prints is shown when it is done


@dataclass(frozen=True)
class Limits:
    """What commands may use together."""

    slots: int = 1  # of them at once
    threads: int = 1  # each
    devices: tuple[str, ...] = ()  # over which they are spread
    end: float = float("inf")  # on the clock of time.monotonic


@dataclass(frozen=True)
class Running:
    process: subprocess.Popen
    started: float
    device: str | None
    offset: int  # where its output begins in the log


def run_all(commands: Sequence[Command], limits: Limits) -> int:
    """Run ``commands`` as far as the limits allow, and sum up what became of them.

    Returns the exit status: 2 if all that failed can be mended by the user, 1 if something else
    did, else 0.

    Raises:
        Interrupted: a signal asked for an end; all that ran had time to save.
    """
    queue = Queue(commands, limits)
    try:
        with deferred_signals() as stop:
            while queue.going_on():
                queue.step(stop=stop.number is not None)
                time.sleep(POLL)
    except BaseException as error:
        second_interrupt = isinstance(error, KeyboardInterrupt)
        queue.end(signal.SIGKILL if second_interrupt else signal.SIGTERM)
        raise
    queue.sum_up()
    if stop.number is not None:
        raise Interrupted("stopped; start the campaign again to go on", stop.number)
    statuses = set(queue.failed.values())
    return (2 if statuses == {2} else 1) if statuses else 0


class Queue:
    """Where each command stands."""

    def __init__(self, commands: Sequence[Command], limits: Limits) -> None:
        self.commands, self.limits = commands, limits
        self.states = [DONE if command.finished else WAITING for command in commands]
        self.running: dict[int, Running] = {}
        self.failed: dict[int, int] = {}  # exit statuses
        self.said: set[int] = set()  # commands that another campaign was seen to run
        self.began = time.monotonic()
        self.stopping = False
        # Of each kind, seconds that took commands done in this session, and their estimates.
        self.measured: defaultdict[str, float] = defaultdict(float)
        self.estimated: defaultdict[str, float] = defaultdict(float)
        for number, command in enumerate(commands):
            if command.finished:
                self.say(number, f"finished: {command.name}", count=False)

    def going_on(self) -> bool:
        return WAITING in self.states or RUNNING in self.states

    def step(self, *, stop: bool) -> None:
        """See what has ended, and start what can be started, or ask everything to end."""
        self._reap()
        if stop or time.monotonic() >= self.limits.end:
            self._stop()
        else:
            self._drop()
            self._start_what_fits()

    # ------------------------------------------------------------------------------- starting

    def _ready(self) -> list[int]:
        """Commands that wait for no other one."""
        return [
            number
            for number, command in enumerate(self.commands)
            if self.states[number] == WAITING
            and not {self.states[n] for n in command.after | command.needs} & {WAITING, RUNNING}
        ]

    def _drop(self) -> None:
        """Give up what needs a command that was not done, and in turn what needs that."""
        for number, command in enumerate(self.commands):
            missed = [n for n in command.needs if self.states[n] in (FAILED, SKIPPED, LEFT)]
            if self.states[number] != WAITING or not missed:
                continue
            broken = [n for n in missed if self.states[n] in (FAILED, SKIPPED)]
            self.states[number] = SKIPPED if broken else LEFT
            cause = min(broken or missed)
            why = f"needs [{cause + 1}], {self.states[cause]}"
            self.say(number, f"{self.states[number]}: {command.name}: {why}", error=bool(broken))

    def _start_what_fits(self) -> None:
        """Start what will be finished in time and, where nothing of that is left to fill a slot, a
        part of what will not but goes on the next time."""
        for may_start in (self._fits, self._is_worth_beginning):
            for number in self._ready():
                if len(self.running) < self.limits.slots and may_start(number):
                    self._start(number)
        if self.running:
            return
        for number in self._ready():  # nothing is to come that would change this
            if not self._fits(number):
                self.states[number] = LEFT
                needed = f"would take about {duration(self._expected(number))}"
                self.say(number, f"{LEFT}: {self.commands[number].name}: {needed}", count=False)

    def _fits(self, number: int) -> bool:
        return time.monotonic() + self._expected(number) <= self.limits.end

    def _is_worth_beginning(self, number: int) -> bool:
        return self.commands[number].goes_on and time.monotonic() + WORTH <= self.limits.end

    def _expected(self, number: int) -> float:
        """Seconds that a command takes: its estimate, mended by what was measured so far."""
        command = self.commands[number]
        kind = command.kind if self.estimated[command.kind] else None
        if kind is not None:
            return command.seconds * self.measured[kind] / self.estimated[kind]
        total = sum(self.estimated.values())
        return command.seconds * (sum(self.measured.values()) / total if total else 1.0)

    def _start(self, number: int) -> None:
        command, device = self.commands[number], self._device()
        given = ("--device", device) if device and command.anywhere else ()
        argv = [*command.argv, *given]
        threads = {"OMP_NUM_THREADS": str(self.limits.threads)}
        try:
            command.log.parent.mkdir(parents=True, exist_ok=True)
            with command.log.open("ab") as log:
                if not _locked(log):
                    self._wait_for_other(number)
                    return
                about = " ".join([time.strftime("# %Y-%m-%d %H:%M:%S"), command.shown, *given])
                log.write(about.encode() + b"\n")
                log.flush()
                offset = log.tell()  # now: the command moves it on
                process = subprocess.Popen(
                    argv, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                    env=os.environ | threads,
                    start_new_session=True,  # Ctrl-C is for us to pass on
                )  # fmt: skip
        except OSError as error:
            self._fail(number, 2, f"cannot start: {error}")
            return
        self.states[number] = RUNNING
        self.running[number] = Running(process, time.monotonic(), device, offset)
        self.say(number, f"start: {' '.join([command.shown, *given])} > {command.log}")

    def _wait_for_other(self, number: int) -> None:
        if number not in self.said:
            self.said.add(number)
            self.say(number, f"waits: another campaign runs {self.commands[number].name}")

    def _device(self) -> str | None:
        """The device that the fewest commands run on."""
        busy = Counter(running.device for running in self.running.values())
        return min(self.limits.devices, key=lambda device: busy[device], default=None)

    # --------------------------------------------------------------------------------- ending

    def _reap(self) -> None:
        for number, running in list(self.running.items()):
            status = running.process.poll()
            if status is None:
                continue
            del self.running[number]
            command, took = self.commands[number], time.monotonic() - running.started
            if status == 0:
                self.states[number] = DONE
                self.measured[command.kind] += took if command.seconds else 0.0
                self.estimated[command.kind] += command.seconds
                self.say(number, f"done in {duration(took)}: {command.name}")
                if command.loud:
                    say(_text(command.log, running.offset))
            elif self.stopping and status in (128 + signal.SIGTERM, -signal.SIGTERM):
                self.states[number] = LEFT
                reason = _last_line(command.log, running.offset)
                self.say(number, f"stopped after {duration(took)}: {command.name}: {reason}")
            else:
                how = f"status {status}" if status > 0 else f"killed by signal {-status}"
                reason = _last_line(command.log, running.offset)
                self._fail(number, status, f"{how} after {duration(took)}: {reason}")

    def _fail(self, number: int, status: int, reason: str) -> None:
        self.states[number], self.failed[number] = FAILED, status
        self.say(number, f"failed: {self.commands[number].name}: {reason}", error=True)

    def _stop(self) -> None:
        """Start nothing more, and ask what runs to save its state and end."""
        if self.stopping:
            return
        self.stopping = True
        self.states = [LEFT if state == WAITING else state for state in self.states]
        for running in self.running.values():
            running.process.terminate()
        if self.running:
            say(f"stopping; {len(self.running)} running commands save their state")

    def end(self, number: int) -> None:
        """End what runs by a signal, and wait for it."""
        for running in self.running.values():
            if number == signal.SIGKILL:  # with the processes that read its images
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(running.process.pid, number)
            else:
                running.process.send_signal(number)
        for running in self.running.values():
            running.process.wait()

    # -------------------------------------------------------------------------------- telling

    def say(self, number: int, what: str, *, count: bool = True, error: bool = False) -> None:
        line = f"[{number + 1}/{len(self.commands)}] {what}"
        if count:
            done = f"{self.states.count(DONE)} of {len(self.states)} done"
            left = f", about {duration(self._left())} left" if self.going_on() else ""
            line += f" ({len(self.running)} running, {done}{left})"
        say(line, error=error)

    def _left(self) -> float:
        """Seconds until all is done: no less than the longest command takes."""
        now = time.monotonic()
        each = [self._expected(n) for n, state in enumerate(self.states) if state == WAITING]
        each += [
            max(0.0, self._expected(number) - (now - running.started))
            for number, running in self.running.items()
        ]
        return max([sum(each) / self.limits.slots, *each])

    def sum_up(self) -> None:
        """How many commands ended how, and again what failed, for who comes back in the morning."""
        counts = Counter(self.states)
        parts = [f"{counts[s]} {s}" for s in (DONE, FAILED, SKIPPED, LEFT) if counts[s]]
        took = duration(time.monotonic() - self.began)
        count = f"{len(self.states)} command{'s' if len(self.states) > 1 else ''}"
        say(f"{count}: {', '.join(parts)}; {took}")
        for number in sorted(self.failed):
            command = self.commands[number]
            say(f"failed: {command.shown}; see {command.log}", error=True)


def say(line: str, *, error: bool = False) -> None:
    """Print at once; a full disk, if that is where it goes, ends nothing."""
    try:
        print(line, file=sys.stderr if error else sys.stdout, flush=True)
    except OSError as failure:
        if failure.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise


def _locked(log: BinaryIO) -> bool:
    """Whether the log is ours, and the command's that gets it, until that ends."""
    try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # a file system without locks, as some of clusters are
    return True


def _text(log: Path, offset: int) -> str:
    with log.open("rb") as file:
        file.seek(offset)
        return file.read().decode(errors="replace").rstrip("\n")


def _last_line(log: Path, offset: int) -> str:
    """The last thing that a command said, and where the rest is."""
    lines = _text(log, offset).split("\n")
    return f"{lines[-1].strip() or 'it said nothing'}; see {log}"
