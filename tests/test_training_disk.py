"""An observer never ends the run it observes: full disks, deleted folders, kills, writers that raise."""

import ctypes
import errno
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from eigenstep.errors import BadFile
from eigenstep.objective import Objective
from eigenstep.training import Monitor, read_log
from eigenstep.training.log import append as appending
from eigenstep.training.log import record as recording
from eigenstep.training.log.record import LogWriter

X = torch.linspace(-1, 1, 24).view(8, 3)
Y = X.sum(1, keepdim=True).sin()


def loss_of(model: torch.nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return ((model(batch[0]) - batch[1]) ** 2).mean()


def train(
    steps: int,
    log: Path | str | None = None,
    each: Callable[[int], object] = lambda step: None,
    loss: Callable[..., torch.Tensor] = loss_of,
    **settings: object,
) -> tuple[str, Monitor | None]:
    """Train; return a hash of every update's weights, and the monitor (none without a log or a writer)."""
    torch.manual_seed(3)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    watched = log is not None or bool(settings)
    monitor = None
    if watched:
        monitor = Monitor(
            Objective(model, loss, (X, Y)), optimizer, every=3, log=log, dense=4, **{"budget": 1.0, **settings}
        )  # type: ignore[arg-type]
    digest = hashlib.sha256()
    for step in range(steps):
        optimizer.zero_grad()
        value = loss_of(model, (X, Y))
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if monitor is not None:
            monitor.step(value)
        each(step)
        for p in model.parameters():
            digest.update(p.detach().numpy().tobytes())
    if monitor is not None:
        monitor.close()
    return digest.hexdigest(), monitor


@pytest.fixture(autouse=True)
def _every_record_goes_out_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "FLUSH", -1.0)


class Disk:
    """Takes `room` bytes, a write in part where it is short, then none."""

    def __init__(self) -> None:
        self.room = 10**9
        self.real = os.write

    def write(self, fd: int, data: bytes) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done = self.real(fd, data[: self.room])
        self.room -= done
        return done


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk()
    monkeypatch.setattr(appending.os, "write", disk.write)
    return disk


@pytest.mark.parametrize("room", [0, 1, 150, 1000])
def test_a_full_disk_costs_a_note_and_no_whole_record(tmp_path: Path, disk: Disk, room: int) -> None:
    log = tmp_path / "run.jsonl"
    seen: list[int] = []

    def each(step: int) -> None:
        if step == 5:
            disk.room = room
        if step == 20:
            disk.room = 10**9
        if log.exists():
            seen.append(len(read_log(log).records))  # readable at every moment
            assert not read_log(log).torn

    weights, monitor = train(30, log, each)
    assert monitor is not None
    assert weights == train(30)[0]
    assert sum("No space left" in note for note in monitor.notes) == 1
    found = [r["step"] for r in read_log(log).records if "lr" in r]
    assert found == list(range(1, 31))  # all came once there was room
    assert seen == sorted(seen)
    if room == 0:
        assert seen[6] == seen[20] < seen[21]


def test_a_disk_that_stays_full_leaves_a_log_that_opens_again(tmp_path: Path, disk: Disk) -> None:
    log = tmp_path / "run.jsonl"
    sizes: list[int] = []

    def each(step: int) -> None:
        if step == 6:
            sizes.append(len(read_log(log).records))
            disk.room = 333

    weights, _ = train(20, log, each)
    assert weights == train(20)[0]
    records = read_log(log).records
    assert len(records) >= sizes[0] and [r["step"] for r in records if "lr" in r] == list(
        range(1, len([r for r in records if "lr" in r]) + 1)
    )
    disk.room = 10**9
    again = LogWriter(log, {})
    again.write({"step": 99, "lr": 0.1})
    again.close()
    assert [r["step"] for r in read_log(log).records] == [*(r["step"] for r in records), 99]


def test_a_disk_that_is_full_from_the_start_is_refused(tmp_path: Path, disk: Disk) -> None:
    disk.room = 20
    with pytest.raises(BadFile, match="No space left"):
        LogWriter(tmp_path / "run.jsonl", {"optimizer": "SGD"})
    assert list(tmp_path.iterdir()) == []


def test_what_waits_too_long_is_counted(tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(appending, "MOST", 5)
    log = LogWriter(tmp_path / "run.jsonl", {})
    disk.room = 0
    for step in range(1, 13):
        log.write({"step": step}, now=True)
    disk.room = 10**9
    log.write({"step": 13})
    log.close()
    lines = read_log(tmp_path / "run.jsonl").records
    assert "8 records are lost" in lines[0]["note"]
    assert [r["step"] for r in lines[1:]] == [9, 10, 11, 12, 13]


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Path]:
    """A disk of 16 kB; skips where none may be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "mount") or libc.mount(b"none", bytes(place), b"tmpfs", 0, b"size=16k"):
        pytest.skip("no tmpfs may be mounted here; the staged disk above stands for it")
    yield place
    libc.umount2(bytes(place), 2)


def test_a_real_full_disk(tmpfs: Path) -> None:
    log = tmpfs / "run.jsonl"

    def fill(step: int) -> None:
        if step == 5:
            with (tmpfs / "ballast").open("wb", buffering=0) as file, suppress(OSError):
                while True:
                    file.write(b"x" * 4096)

    weights, monitor = train(60, log, fill)
    assert weights == train(60)[0]
    assert monitor is not None and any("No space left" in note for note in monitor.notes)
    whole = len(read_log(log).records)
    assert 5 <= whole < 60 and not read_log(log).torn
    (tmpfs / "ballast").unlink()
    again = LogWriter(log, {})
    again.write({"step": 99})
    again.close()
    assert len(read_log(log).records) == whole + 1


def test_a_deleted_folder_costs_a_note_and_the_log_begins_anew(tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    folder.mkdir()
    log = folder / "run.jsonl"

    def each(step: int) -> None:
        if step == 3:
            shutil.rmtree(folder)
        if step == 12:
            folder.mkdir()

    weights, monitor = train(20, log, each)
    assert weights == train(20)[0]
    assert monitor is not None and sum("cannot be written" in note for note in monitor.notes) == 1
    found = read_log(log)  # begins with its envelope
    assert [r["step"] for r in found.records if "lr" in r][-1] == 20


def test_a_log_that_another_file_has_replaced_or_that_was_emptied(tmp_path: Path) -> None:
    log = tmp_path / "run.jsonl"

    def empty(step: int) -> None:
        if step == 4:
            log.write_bytes(b"")

    train(12, log, empty)
    assert [r["step"] for r in read_log(log).records if "lr" in r] == list(range(6, 13))

    def replace(step: int) -> None:
        if step == 4:
            (tmp_path / "other").write_text("mine, no log\n")
            (tmp_path / "other").replace(log)

    log.unlink()
    weights, monitor = train(12, log, replace)
    assert weights == train(12)[0]
    assert log.read_text() == "mine, no log\n"
    assert monitor is not None and any("cannot be written" in note for note in monitor.notes)


def test_a_relative_path_survives_another_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    weights, _ = train(12, "run.jsonl", lambda step: os.chdir("elsewhere") if step == 2 else None)
    assert weights == train(12)[0]
    assert [r["step"] for r in read_log(tmp_path / "run.jsonl").records if "lr" in r] == list(range(1, 13))
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_two_monitors_on_one_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    first = LogWriter("run.jsonl", {}, said.append)
    (tmp_path / "alias").symlink_to("run.jsonl")
    for path in ("run.jsonl", tmp_path / "run.jsonl", "alias"):
        with pytest.raises(BadFile, match="another monitor"):
            LogWriter(path, {})
    first.write({"step": 1})
    first.close()
    second = LogWriter("run.jsonl", {})
    second.write({"step": 2}, now=True)
    assert said == []
    first.write({"step": 3}, now=True)  # closed, and now the other's
    assert len(said) == 1 and "another monitor" in said[0]
    second.close()
    first.write({"step": 4}, now=True)
    assert [r["step"] for r in read_log("run.jsonl").records] == [1, 2, 3, 4]
    first.close()


@pytest.mark.slow
def test_a_second_process_on_one_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = LogWriter("run.jsonl", {})
    code = "from eigenstep.training.log.record import LogWriter; LogWriter('run.jsonl', {})"
    run = [sys.executable, "-c", code]
    other = subprocess.run(run, capture_output=True, text=True, timeout=100, check=False)
    assert other.returncode == 1 and "another monitor" in other.stderr
    first.close()
    assert subprocess.run(run, timeout=100, check=False).returncode == 0


@pytest.mark.slow
def test_a_forked_child_writes_nothing_and_holds_no_lock(tmp_path: Path) -> None:
    code = """
    import os, sys
    from eigenstep.training.log.record import LogWriter
    log = LogWriter("run.jsonl", {})
    log.write({"step": 1})
    ready, go = os.pipe(), os.pipe()
    if os.fork() == 0:
        os.write(ready[1], b"x"); os.read(go[0], 1)
        sys.exit()
    os.read(ready[0], 1)
    log.close()
    LogWriter("run.jsonl", {}).close()  # the child is alive
    os.write(go[1], b"x"); os.wait()
    """
    run = [sys.executable, "-c", textwrap.dedent(code)]
    subprocess.run(run, check=True, timeout=100, cwd=tmp_path)
    assert [r["step"] for r in read_log(tmp_path / "run.jsonl").records] == [1]


def test_a_log_may_be_a_device() -> None:
    weights, _ = train(6, "/dev/null")
    assert weights == train(6)[0]
    LogWriter("/dev/null", {})
    with pytest.raises(BadFile, match="No space left"):
        LogWriter("/dev/full", {})


def test_a_writer_that_raises_gets_one_note() -> None:
    def broken(step: int, values: dict[str, float]) -> None:
        raise KeyError("no such run")

    weights, monitor = train(12, writer=broken)
    assert weights == train(12)[0]
    assert monitor is not None and [n for n in monitor.notes if "writer" in n and "KeyError" in n] == monitor.notes
    assert len(monitor.records) == 12 and len(monitor.measured) >= 4


@pytest.mark.parametrize("error", [ValueError, KeyError, OSError, StopIteration, NotImplementedError, MemoryError])
def test_a_probe_whose_loss_begins_to_raise_ends_no_run(error: type[Exception]) -> None:
    calls = [0]

    def loss(model: torch.nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        calls[0] += 1
        if calls[0] > 12:
            raise error("gone")
        return loss_of(model, batch)

    weights, monitor = train(30, loss=loss, history=99)
    assert calls[0] > 13
    assert weights == train(30)[0]
    assert monitor is not None and len(monitor.records) >= 20
    assert any("gone" in str(r.get("reason")) for r in monitor.records) or any("gone" in n for n in monitor.notes)
    with pytest.raises(error):  # the first measurement raises: no training is lost then
        train(3, loss=loss, history=99)


KILLED = """
import hashlib, sys
sys.path.insert(0, {tests!r})
from test_training_disk import train
def each(step):
    print(step, flush=True)
print(train(100_000, "run.jsonl", each, history=10))
"""


@pytest.mark.slow
@pytest.mark.parametrize("after", [1, 30])
def test_a_killed_run_leaves_its_whole_records(tmp_path: Path, after: int) -> None:
    code = KILLED.format(tests=str(Path(__file__).parent))
    running = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=tmp_path)
    assert running.stdout is not None
    while int(running.stdout.readline()) < after:
        pass
    running.send_signal(signal.SIGKILL)
    running.communicate(timeout=60)
    log = read_log(tmp_path / "run.jsonl")
    steps = [r["step"] for r in log.records if "lr" in r]
    assert steps == list(range(1, len(steps) + 1)) and len(log.measured) >= 1
    again = LogWriter(tmp_path / "run.jsonl", {})  # the lock went with the process
    assert again.last == max(r["step"] for r in log.records)
    again.close()
