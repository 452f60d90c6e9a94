"""Commands side by side: their order, their failures and their end; commands that cost nothing."""

import fcntl
import io
import os
import random
import re
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from complexnn.commands import scheduler
from complexnn.commands.scheduler import Command, Limits, run_all
from complexnn.runs import progress


def sh(script, folder, name="a", **more):
    """A command that is a line of the shell."""
    log = more.pop("log", folder / "logs" / f"{name}.log")
    argv = ("sh", "-c", script, "sh")
    return Command(name=name, shown=f"run {name}", argv=argv, log=log, **more)


def events(path):
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def once(condition, work):
    """Do ``work`` in a thread as soon as ``condition`` holds."""

    def wait():
        deadline = time.monotonic() + 30
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.02)
        work()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


# ----------------------------------------------------------------------------------- the order


@pytest.mark.parametrize("slots", [1, 2, 5])
def test_nothing_starts_before_what_it_waits_for(tmp_path, slots):
    rng, said = random.Random(slots), tmp_path / "events"
    commands = []
    for number in range(12):
        before = [n for n in range(number) if rng.random() < 0.2]
        needs = frozenset(n for n in before if rng.random() < 0.5)
        script = f"echo start {number} >> {said}; sleep 0.02; echo end {number} >> {said}"
        commands.append(
            sh(script, tmp_path, str(number), after=frozenset(before) - needs, needs=needs)
        )
    assert run_all(commands, Limits(slots)) == 0
    at, running = {}, set()
    for place, (what, number) in enumerate(events(said)):
        at[what, int(number)] = place
        running = running | {number} if what == "start" else running - {number}
        assert len(running) <= slots
    assert len(at) == 2 * len(commands)
    for number, command in enumerate(commands):
        for before in command.after | command.needs:
            assert at["end", before] < at["start", number]


def test_commands_do_run_at_once(tmp_path):
    """Each waits for a file that the other one writes."""
    meet = "echo > {0}/{1}; for i in $(seq 300); do test -e {0}/{2} && exit 0; sleep 0.1; done"
    pair = [sh(meet.format(tmp_path, *names), tmp_path, names[0]) for names in ("ab", "ba")]
    assert run_all(pair, Limits(2)) == 0


def test_what_is_finished_is_not_run_and_holds_nothing_up(tmp_path, capsys):
    first = sh("exit 1", tmp_path, "first", finished=True)
    second = sh("exit 0", tmp_path, "second", needs=frozenset({0}))
    assert run_all([first, second], Limits()) == 0
    assert "[1/2] finished: first" in capsys.readouterr().out


def test_devices_are_shared_out_evenly_and_threads_are_set(tmp_path):
    said = tmp_path / "events"
    all_there = f"while test $(wc -l < {said}) -lt 4; do sleep 0.05; done"
    script = f"echo $2 $OMP_NUM_THREADS >> {said}; {all_there}"
    commands = [sh(script, tmp_path, str(n), anywhere=True) for n in range(4)]
    assert run_all(commands, Limits(4, 3, ("cuda:0", "cuda:1"))) == 0
    assert sorted(events(said)) == [["cuda:0", "3"]] * 2 + [["cuda:1", "3"]] * 2


def test_a_command_that_another_campaign_left_running_is_waited_for(tmp_path, capsys):
    command = sh("echo mine", tmp_path)
    command.log.parent.mkdir()
    with command.log.open("ab") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        orphan = subprocess.Popen(["sh", "-c", "sleep 1; echo orphan"], stdout=log)
    assert run_all([command], Limits()) == 0
    orphan.wait()
    assert "waits: another campaign runs a" in capsys.readouterr().out
    said = command.log.read_text()
    assert said.index("orphan") < said.index("mine")


def test_a_file_system_without_locks_stops_nothing(tmp_path, monkeypatch):
    def flock(file, how):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)
    assert run_all([sh("exit 0", tmp_path)], Limits()) == 0


# ---------------------------------------------------------------------------------- failures


KINDS = {
    "the user's": ("echo error: no such data; exit 2", 2, "status 2 .* error: no such data"),
    "ours": ("echo KeyError; exit 1", 1, "status 1 .* KeyError"),
    "a kill": ("echo working; kill -9 $$", 1, "killed by signal 9 .* working"),
}


@pytest.mark.parametrize(("script", "status", "told"), KINDS.values(), ids=KINDS)
def test_a_failure_stops_only_what_needs_it(tmp_path, capsys, script, status, told):
    done = tmp_path / "done"
    commands = [
        sh(script, tmp_path, "broken"),
        sh(f"echo other >> {done}; echo kept", tmp_path, "other"),
        sh(f"echo needs >> {done}", tmp_path, "needs", needs=frozenset({0})),
        sh(f"echo needs >> {done}", tmp_path, "in-turn", needs=frozenset({2})),
        sh(f"echo after >> {done}", tmp_path, "after", after=frozenset({0, 3})),
    ]
    assert run_all(commands, Limits(2)) == status
    assert sorted(events(done)) == [["after"], ["other"]]
    captured = capsys.readouterr()
    assert re.search(rf"^\[1/5\] failed: broken: {told}", captured.err, re.MULTILINE)
    assert "[3/5] skipped: needs: needs [1], failed" in captured.err
    assert "[4/5] skipped: in-turn: needs [3], skipped" in captured.err
    assert "5 commands: 2 done, 1 failed, 2 skipped" in captured.out
    assert commands[1].log.read_text().endswith("run other\nkept\n")
    assert "run broken" in commands[0].log.read_text()


def test_a_failure_of_ours_weighs_more_than_one_of_the_users(tmp_path):
    commands = [sh(f"exit {status}", tmp_path, str(status)) for status in (2, 1, 0)]
    assert run_all(commands, Limits(3)) == 1


def test_a_log_without_room_fails_its_command_only(tmp_path, capsys):
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full here")
    commands = [sh("exit 0", tmp_path, "full", log=full), sh("exit 0", tmp_path, "other")]
    assert run_all(commands, Limits(2)) == 2
    captured = capsys.readouterr()
    assert "[1/2] failed: full: cannot start" in captured.err
    assert "No space left" in captured.err
    assert "1 done, 1 failed" in captured.out


def test_a_full_disk_under_our_own_output_ends_nothing(tmp_path, monkeypatch):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    done = tmp_path / "done"
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(Full(), write_through=True))
    commands = [sh(f"echo {n} >> {done}", tmp_path, str(n)) for n in range(3)]
    assert run_all(commands, Limits(2)) == 0
    assert len(events(done)) == 3


class Full(io.RawIOBase):
    """A file on a disk that has no room."""

    def writable(self):
        return True

    def write(self, data):
        raise OSError(28, "No space left on device")


def test_a_command_that_fills_the_disk_leaves_the_others_and_the_logs(tmp_path, small_disk):
    disk = small_disk(1)
    big, mended = disk / "big", tmp_path / "mended"
    there = f"while ! grep -q early {disk}/logs/wait.log; do sleep 0.05; done"
    fill = f"echo before; {there}; dd if=/dev/zero of={big} bs=64k 2>/dev/null || exit 2"
    wait = f"echo early; while test ! -e {mended}; do sleep 0.05; done; echo late"
    mend = f"rm {big}; echo > {mended}"
    commands = [
        sh(fill, disk, "fill"),
        sh(wait, disk, "wait"),
        sh(mend, tmp_path, "mend", after=frozenset({0})),
    ]
    assert run_all(commands, Limits(2)) == 2
    assert commands[0].log.read_text().endswith("run fill\nbefore\n")
    assert commands[1].log.read_text().endswith("run wait\nearly\nlate\n")


# ----------------------------------------------------------------------------- an orderly end


SAVES = "trap 'echo saved; exit 143' TERM; echo > {0}; for i in $(seq 600); do sleep 0.05; done"


@pytest.fixture
def hangup():
    """As on a terminal, also where the tests run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def test_a_hangup_that_is_ignored_stays_ignored(hangup):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    with progress.deferred_signals() as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        assert stop.number is None


@pytest.mark.usefixtures("hangup")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_lets_everything_save_and_starts_nothing_more(tmp_path, capsys, number):
    up = [tmp_path / "up0", tmp_path / "up1"]
    commands = [sh(SAVES.format(path), tmp_path, path.name) for path in up]
    commands.append(sh(f"echo > {tmp_path / 'never'}", tmp_path, "third"))
    once(lambda: all(p.exists() for p in up), lambda: os.kill(os.getpid(), number))
    with pytest.raises(progress.Interrupted) as end:
        run_all(commands, Limits(2))
    assert end.value.number == number
    assert not (tmp_path / "never").exists()
    for command in commands[:2]:
        assert command.log.read_text().endswith("saved\n")
    out = capsys.readouterr().out
    assert "stopping; 2 running commands save their state" in out
    assert "3 commands: 3 left for the next time" in out


def test_ctrl_c_reaches_us_alone(tmp_path):
    """A terminal sends it to a whole process group; commands are in others."""
    queue = scheduler.Queue([sh("sleep 30", tmp_path)], Limits())
    queue.step(stop=False)
    process = queue.running[0].process
    assert os.getpgid(process.pid) == process.pid != os.getpgid(0)
    queue.end(signal.SIGKILL)


def test_a_second_interrupt_kills(tmp_path):
    up, pid = tmp_path / "up", tmp_path / "pid"
    deaf = f"trap '' TERM; echo $$ > {pid}; echo > {up}; for i in $(seq 600); do sleep 0.05; done"
    me = os.getpid()

    def twice():
        os.kill(me, signal.SIGINT)
        time.sleep(0.5)
        os.kill(me, signal.SIGINT)

    once(up.exists, twice)
    with pytest.raises(KeyboardInterrupt):
        run_all([sh(deaf, tmp_path)], Limits())
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_a_command_that_fails_instead_of_saving_has_failed(tmp_path, capsys):
    up = tmp_path / "up"
    script = f"trap 'exit 2' TERM; echo > {up}; for i in $(seq 600); do sleep 0.05; done"
    once(up.exists, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(progress.Interrupted):
        run_all([sh(script, tmp_path)], Limits())
    captured = capsys.readouterr()
    assert "1 command: 1 failed" in captured.out
    assert "failed: a: status 2" in captured.err


# -------------------------------------------------------------------------------- a lease's end


def test_what_would_not_be_finished_in_time_is_not_started(tmp_path, capsys):
    done = tmp_path / "done"
    commands = [
        sh("exit 0", tmp_path, "long", kind="train", seconds=7200),
        sh("exit 0", tmp_path, "of-long", needs=frozenset({0})),
        sh(f"echo >> {done}", tmp_path, "short", kind="report", seconds=0),
        sh(f"echo >> {done}", tmp_path, "report", after=frozenset({0, 1, 2})),
    ]
    assert run_all(commands, Limits(2, end=time.monotonic() + 3600)) == 0
    out = capsys.readouterr().out
    assert "[1/4] left for the next time: long: would take about 2 h 0 min" in out
    assert "[2/4] left for the next time: of-long: needs [1], left for the next time" in out
    assert "4 commands: 2 done, 2 left for the next time" in out
    assert len(done.read_text().splitlines()) == 2


@pytest.mark.parametrize("factor", [0.01, 100.0])
def test_estimates_are_mended_by_what_was_measured(tmp_path, factor):
    """Where commands take 100 times less, or more, than estimated, the next one fits, or not."""
    took = 0.5
    first = sh(f"sleep {took}", tmp_path, "first", kind="train", seconds=took / factor)
    second = sh("exit 0", tmp_path, "second", kind="train", seconds=60.0, after=frozenset({0}))
    end = time.monotonic() + (120 if factor > 1 else 55)
    queue = scheduler.Queue([first, second], Limits(end=end))
    assert queue._fits(1) == (factor > 1)
    while queue.going_on():
        queue.step(stop=False)
        time.sleep(0.02)
    assert queue.states[1] == (scheduler.LEFT if factor > 1 else scheduler.DONE)


def test_what_goes_on_the_next_time_is_begun_when_nothing_else_fits(tmp_path, monkeypatch, capsys):
    """In its place behind all that fits, whatever the order; never if it would lose its work."""
    monkeypatch.setattr(scheduler, "WORTH", 0.5)
    said = tmp_path / "events"
    saves = f"echo long >> {said}; " + SAVES.format(tmp_path / "up")
    commands = [
        sh(saves, tmp_path, "long", kind="train", seconds=7200, goes_on=True),
        sh(f"echo other >> {said}", tmp_path, "other", kind="attack", seconds=7200),
        sh(f"echo short >> {said}", tmp_path, "short"),
        sh(f"echo of-short >> {said}", tmp_path, "of-short", needs=frozenset({2})),
        sh(f"echo of-long >> {said}", tmp_path, "of-long", needs=frozenset({0})),
    ]
    assert run_all(commands, Limits(end=time.monotonic() + 2.5)) == 0
    assert events(said) == [["short"], ["of-short"], ["long"]]
    assert commands[0].log.read_text().endswith("saved\n")
    out = capsys.readouterr().out
    assert "[1/5] stopped after" in out
    assert "5 commands: 2 done, 3 left for the next time" in out


def test_a_slot_is_not_left_idle_while_something_fits_in_another(tmp_path, monkeypatch):
    monkeypatch.setattr(scheduler, "WORTH", 0.5)
    up = tmp_path / "up"
    commands = [
        sh(SAVES.format(up), tmp_path, "long", seconds=7200, goes_on=True),
        sh(f"while ! test -e {up}; do sleep 0.05; done", tmp_path, "waits-for-long"),
    ]
    assert run_all(commands, Limits(2, end=time.monotonic() + 2)) == 0
    assert "saved" in commands[0].log.read_text()


def test_nothing_is_begun_for_the_last_moments(tmp_path, capsys):
    command = sh("exit 0", tmp_path, kind="train", seconds=7200, goes_on=True)
    assert run_all([command], Limits(end=time.monotonic() + scheduler.WORTH - 1)) == 0
    assert "left for the next time: a: would take about 2 h 0 min" in capsys.readouterr().out


def test_at_the_end_of_the_time_what_runs_saves_its_state(tmp_path, capsys):
    command = sh(SAVES.format(tmp_path / "up"), tmp_path)
    assert run_all([command], Limits(end=time.monotonic() + 2)) == 0
    assert command.log.read_text().endswith("saved\n")
    out = capsys.readouterr().out
    assert "[1/1] stopped after" in out
    assert "1 command: 1 left for the next time" in out
