"""A task in a worker: outputs whole or not there, records, logs; and what makes a finished task valid."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from fmgs_nerfstudio.batch.execute import execute
from fmgs_nerfstudio.batch.local import LocalEngine, Machine
from fmgs_nerfstudio.batch.scheduler import run
from fmgs_nerfstudio.batch.state import State, code_version, facts_of
from fmgs_nerfstudio.batch.tasks import Task, read_record


@pytest.fixture
def state(tmp_path: Path) -> State:
    made = State(tmp_path / "out", code="1")
    made.open()
    return made


def shell(state: State, script: str, *outputs: str, **more: object) -> Task:
    """A task that runs a script; $1 and on are its outputs."""
    paths = tuple(state.out / name for name in outputs)
    task = Task("a/x", ("bash", "-c", script, "bash", *(str(path) for path in paths)), paths, group="a")
    return replace(task, **more)  # pyright: ignore[reportArgumentType]


def test_a_task_leaves_its_outputs_a_record_and_a_log(state: State) -> None:
    task = shell(state, "echo hello; echo to-stderr >&2; echo made > $1; mkdir $2; echo in > $2/file", "one", "two")
    order = state.order(task)
    record = execute(order)
    assert record.done, record
    assert (state.out / "one").read_text() == "made\n"
    assert (state.out / "two/file").read_text() == "in\n"
    assert order.log.read_text().splitlines()[1:] == ["hello", "to-stderr"]
    assert read_record(order.record) == record
    assert record.seconds > 0
    assert record.cpu_seconds > 0
    assert record.peak_mb > 1
    assert sorted(path.name for path in state.out.iterdir()) == ["one", "state", "two"]


@pytest.mark.parametrize(("script", "why"), [
    ("echo reason; exit 3", ["bash ended with status 3", "reason"]),
    ("echo last words; kill -9 $$", ["bash was ended by SIGKILL, as where memory runs out", "last words"]),
    ("echo half > $1; exit 1", ["bash ended with status 1"]),
    ("echo half > $1", ["bash ended well and did not write OUT/two"]),
    ("seq 9; exit 1", ["bash ended with status 1", "5", "6", "7", "8", "9"]),
    ("echo '[06:32:39] x at [1:2]'; exit 1", ["bash ended with status 1", " " * 11 + "x at [1:2]"]),
])  # fmt: skip
def test_a_failure_says_why_and_leaves_nothing_half_written(script: str, why: list[str], state: State) -> None:
    record = execute(state.order(shell(state, script, "one", "two")))
    assert record.status == "failed"
    assert record.why.replace(str(state.out), "OUT").splitlines() == why
    assert [path.name for path in state.out.iterdir()] == ["state"]
    assert state.finished(shell(state, script, "one", "two")) is None


def test_a_failure_leaves_the_result_of_before(state: State) -> None:
    (state.out / "one").write_text("old")
    execute(state.order(shell(state, "echo half > $1; exit 1", "one")))
    assert (state.out / "one").read_text() == "old"
    assert execute(state.order(shell(state, "echo new > $1", "one"))).done
    assert (state.out / "one").read_text() == "new\n"


def test_in_place(state: State) -> None:
    """afresh: leftovers of a killed attempt are gone before the next; on: they are gone on with."""
    for writes, expected in (("afresh", ["b"]), ("on", ["a", "b"])):
        folder = state.out / writes
        folder.mkdir()
        (folder / "a").touch()
        task = shell(state, "mkdir -p $1; touch $1/b", writes, id=f"{writes}/x", writes=writes)
        assert execute(state.order(task)).done
        assert sorted(path.name for path in folder.iterdir()) == expected


def test_a_worker_that_does_not_see_the_shared_folder_says_so(tmp_path: Path) -> None:
    record = execute(State(tmp_path / "elsewhere", code="1").order(Task("a/x", ("true",))))
    assert record.status == "failed"
    assert "must be on a path that all machines share" in record.why


def test_a_program_that_is_not_there(state: State) -> None:
    record = execute(state.order(Task("a/x", ("no-such-program",))))
    assert "no no-such-program beside" in record.why


def test_what_makes_a_task_run_again(state: State, tmp_path: Path) -> None:
    """Its inputs, its configuration, those of what it needs, and the code; nothing else."""
    capture = tmp_path / "capture"
    (capture / "check").mkdir(parents=True)
    (capture / "image").write_text("1")
    first = shell(state, "echo 1 > $1", "one", inputs=(capture,), ignore=("check",))
    second = shell(state, "echo 2 > $1", "two", id="a/y", needs=("a/x",))

    def kept(*tasks: Task, code: str = "1") -> list[bool]:
        now = State(state.out, code)
        return [now.finished(task) is not None for task in tasks]

    def do() -> None:
        now = State(state.out, "1")
        assert all(execute(now.order(task)).done for task in (first, second))

    do()
    assert kept(first, second) == [True, True]
    (capture / "check" / "sheet.png").touch()  # fmgs-check's own
    (capture / ".hidden").touch()
    assert kept(first, second) == [True, True]
    assert kept(first, second, code="2") == [False, False]
    assert kept(replace(first, command=(*first.command, "--seed", "1")), second) == [False, False]
    assert kept(first, replace(second, command=(*second.command, "--seed", "1"))) == [True, False]
    (capture / "image").write_text("12")
    assert kept(first, second) == [False, False]
    do()
    (capture / "new").touch()
    assert kept(first, second) == [False, False]
    do()
    (state.out / "two").unlink()
    assert kept(first, second) == [True, False]
    do()
    record = state.folder / "a" / "y.json"
    record.write_text(record.read_text()[:40])  # torn
    assert kept(first, second) == [True, False]


def test_facts_of_files(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_text("x")
    (tmp_path / "loop").symlink_to(tmp_path)
    before = facts_of(tmp_path)
    assert before == facts_of(tmp_path) != ""
    os.utime(tmp_path / "a" / "b", (1, 1))
    assert facts_of(tmp_path) != before
    assert facts_of(tmp_path / "absent") == ""


def test_the_codes_version_is_its_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import fmgs_dataparsers

    before = code_version()
    assert before == code_version()
    (tmp_path / "parser.py").write_text("changed")
    monkeypatch.setattr(fmgs_dataparsers, "__file__", str(tmp_path / "__init__.py"))
    assert code_version() != before


def test_two_at_one_task_take_turns(state: State) -> None:
    """The second waits for the first, then finds it done."""
    script = f"echo begun >> {state.out}/count; sleep 0.5; touch $1"
    order = state.order(shell(state, script, "one"))
    threads = [threading.Thread(target=execute, args=(order,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (state.out / "count").read_text() == "begun\n"


def test_a_killed_worker_takes_its_command_along(state: State, tmp_path: Path) -> None:
    """Nothing goes on writing behind the back of the next attempt."""
    alive = tmp_path / "alive"
    order = state.order(shell(state, f"while true; do date +%s%N > {alive}; sleep 0.02; done"))
    code = f"from support.executing import main; main({str(state.folder)!r}, {order.task.command!r})"
    path = os.pathsep.join(filter(None, sys.path))
    worker = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path})
    end = time.monotonic() + 60
    while not alive.exists() and time.monotonic() < end:
        time.sleep(0.02)
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    time.sleep(0.3)
    seen = alive.read_text()
    time.sleep(0.3)
    assert alive.read_text() == seen


def test_the_local_pool_gives_each_task_a_card_of_its_own(state: State) -> None:
    tasks = [
        shell(state, f"echo $CUDA_VISIBLE_DEVICES > $1; mkdir {state.out}/lock-$CUDA_VISIBLE_DEVICES || exit 1; "
              f"sleep 0.1; rmdir {state.out}/lock-$CUDA_VISIBLE_DEVICES", f"o{i}", id=f"t{i}/x")
        for i in range(8)
    ]  # fmt: skip
    engine = LocalEngine(2, state.order, cards=("0", "GPU-5"))
    records = run(tasks, engine)
    engine.close()
    assert {record.status for record in records.values()} == {"done"}, records
    assert {(state.out / f"o{i}").read_text().strip() for i in range(8)} == {"0", "GPU-5"}


def test_what_a_machine_bears() -> None:
    assert Machine(16, 64.0, ()).workers(1, 3.0) == 16
    assert Machine(16, 64.0, ()).workers(4, 3.0) == 4
    assert Machine(16, 10.0, ()).workers(1, 3.0) == 3
    assert Machine(64, 256.0, ("0", "1")).workers(1, 3.0) == 2
    assert Machine(1, 1.0, ()).workers(2, 3.0) == 1
    assert Machine.here().cores >= 1
