"""Hostile command lines: no traceback, no exit code but 0, 2, 3, one line for what will not do, no fault of ours."""

import os
import random
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from eigenstep.cli import main, streams
from eigenstep.errors import BadFile
from eigenstep.files import write_whole

TARGET = """
import sys
import torch, eigenstep as es

def square(model, x):
    return (model(x) ** 2).mean() / 2

class Broken:
    def __iter__(self):
        yield torch.ones(2, 4, dtype=torch.float64)
        raise OSError(5, "disk gone")

def objective(loss=square, data=None, train=None):
    model = torch.nn.Linear(4, 1, bias=False).double()
    x = torch.diag(torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64))
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    return (es.Objective(model, loss, x if data is None else data), sgd, *(() if train is None else (train,)))

def value(): return objective(lambda m, x: int("x"))
def key(): return objective(lambda m, x: {}["k"])
def leave(): return objective(lambda m, x: sys.exit(7))
def generator():
    def loss(m, x): raise GeneratorExit
    return objective(loss)
def end():
    def loss(m, x): raise EOFError("end")
    return objective(loss)
def pipe():
    def loss(m, x): raise BrokenPipeError(32, "Broken pipe")
    return objective(loss)
def stop():
    def loss(m, x): raise StopIteration
    return objective(loss)
def inside(): sys.exit(3)
def loader(): return objective(data=Broken())
def number(): return objective(train=3)
def deep(): return deep()
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(TARGET)
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def accepted(result: Result, line: object) -> None:
    """Assert what every command line keeps."""
    assert result.exception is None or isinstance(result.exception, SystemExit), (line, result.exception)
    assert result.exit_code in (0, 2, 3), (line, result.exit_code, result.stderr)
    said = result.stdout + result.stderr
    assert "Traceback" not in said and "a fault of eigenstep" not in said, (line, said)
    errors = [text for text in result.stderr.splitlines() if text.startswith("error: ")]
    assert len(errors) == (result.exit_code == 2), (line, result.stderr)
    if errors:
        assert result.stderr.splitlines()[-1] == errors[0], (line, result.stderr)
        assert result.stdout == "", line


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("function", "says"),
    [
        ("value", "ValueError: invalid literal for int() with base 10: 'x' (mine.py, line 19)"),
        ("key", "KeyError: 'k' (mine.py, line 20)"),
        ("leave", "calls sys.exit(7) (mine.py, line 21)"),
        ("generator", "GeneratorExit: no message (mine.py, line 23)"),
        ("end", "EOFError: end (mine.py, line 26)"),
        ("pipe", "BrokenPipeError: [Errno 32] Broken pipe (mine.py, line 29)"),
        ("stop", "(mine.py, line 32)"),
        ("inside", "mine.py:inside failed: calls sys.exit(3) (mine.py, line 34)"),
        ("loader", "OSError: [Errno 5] disk gone (mine.py, line 11)"),
        ("number", "mine.py:number returned int as train data"),
        ("deep", "RecursionError: maximum recursion depth exceeded"),
    ],
)
def test_what_the_users_code_raises_is_one_line_with_its_place(function: str, says: str) -> None:
    for command in {"value": ("measure", "diagnose", "recommend"), "leave": ("diagnose",)}.get(function, ("measure",)):
        result = run(command, f"mine.py:{function}")
        accepted(result, (command, function))
        assert result.exit_code == 2 and says in result.stderr, result.stderr
        traced = run(command, f"mine.py:{function}", "--debug")
        assert traced.exit_code == 2 and says in traced.stderr.splitlines()[-1]
        assert "Traceback" in traced.stderr


@pytest.mark.usefixtures("here")
def test_a_module_that_does_not_parse_or_leaves() -> None:
    for text, says in (
        ("x = (\n", "SyntaxError"),
        ("import sys\nsys.exit()\n", "calls sys.exit(None) (bad.py, line 2)"),
    ):
        Path("bad.py").write_text(text)
        result = run("measure", "bad.py:objective")
        accepted(result, text)
        assert result.exit_code == 2 and says in result.stderr and "bad.py, line" in result.stderr


@pytest.mark.usefixtures("here")
def test_measure_takes_what_there_is_by_default_and_no_more_than_asked() -> None:
    result = run("measure", "mine.py:objective")
    accepted(result, "default")
    assert result.stdout.startswith("4 eigenvalues")
    ends = run("measure", "mine.py:objective", "--which", "ends")
    accepted(ends, "ends")
    assert ends.stdout.startswith("4 eigenvalues")
    refused = run("measure", "mine.py:objective", "--top", "5")
    accepted(refused, "top 5")
    assert "5 eigenvalues were asked for, the operator has 4" in refused.stderr


@pytest.mark.usefixtures("here")
def test_paths_are_refused_before_the_work() -> None:
    Path("mine.py").write_text(TARGET + "\nraise AssertionError('the work had begun')\n")
    Path("folder").mkdir()
    for option, paths in {
        "--report": (".", "", "folder", "nowhere/x.html", "x" * 5000, "a\0b", "mine.py/x", "y" * 256),
        "--out": ("x" * 5000, "a\0b", "mine.py", "mine.py/x"),
        "--checkpoint": (".", "", "nowhere/x", "x" * 5000, "a\0b"),
    }.items():
        for path in paths:
            result = run("diagnose" if option == "--report" else "measure", "mine.py:objective", option, path)
            accepted(result, (option, path[:20]))
            assert result.exit_code == 2 and "cannot be written" in result.stderr and len(result.stderr) < 500
    for path in (".", "", "folder", "nowhere/x.html", "x" * 5000, "a\0b"):
        result = run("explore", "--export", path)
        accepted(result, path[:20])
        assert result.exit_code == 2 and "cannot be written" in result.stderr
    for target in ("x" * 5000 + ".py:f", "a\0.py:f", ".:f", "folder:f", "mine.txt:f", ":", "mine.py:", ":f", ""):
        result = run("measure", target)
        accepted(result, target[:20])
        assert result.exit_code == 2


@pytest.mark.usefixtures("here")
def test_reports_go_through_links_and_devices_and_keep_modes(tmp_path: Path) -> None:
    Path("real.html").write_text("old")
    Path("real.html").chmod(0o600)
    Path("link.html").symlink_to("real.html")
    os.mkfifo("pipe")
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(Path("pipe").read_bytes()))
    reader.start()
    assert run("diagnose", "mine.py:objective", "--report", "link.html").exit_code == 0
    for path in ("pipe", "/dev/null"):
        write_whole(path, "<!doctype html>")
    reader.join(60)
    assert Path("real.html").read_text().startswith("<!doctype html>") and Path("link.html").is_symlink()
    assert stat.S_IMODE(Path("real.html").stat().st_mode) == 0o600
    assert read[0].startswith(b"<!doctype html>") and stat.S_ISFIFO(Path("pipe").stat().st_mode)
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    with pytest.raises(BadFile, match="No space left"):
        write_whole("/dev/full", "<!doctype html>")
    assert {p.name for p in tmp_path.iterdir()} >= {"mine.py", "real.html", "link.html", "pipe"}
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".eigenstep")]


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    "name", ["json", "random", "torch", "eigenstep", "numpy", "csv", "test", "rich", "my.file", "typing"]
)
def test_targets_called_like_modules_work(name: str) -> None:
    Path(f"{name}.py").write_text(TARGET)
    known, path = dict(sys.modules), list(sys.path)
    try:
        result = run("measure", f"{name}.py:objective", "--top", "1")
        accepted(result, name)
        assert result.exit_code == 0
        for module in ("json", "random", "torch", "eigenstep", "numpy", "rich", "csv"):
            if module in known:
                assert sys.modules[module] is known[module]
    finally:
        sys.path[:] = path
        for key in set(sys.modules) - set(known):
            if getattr(sys.modules[key], "__file__", None) == str(Path(f"{name}.py").resolve()):
                del sys.modules[key]


# --- generated lines ---

NUMBERS = ["1", "100", "0", "-1", "1e308", "-1e308", "1e-308", "5e-324", "1e400", "nan", "inf", "-inf", "x", "", "0x10"]
NUMBERS += ["1_0", "−3", "1,2", ",", "1e", "٣", "9" * 5000, "\0", "é", "--", "-"]
RULES = ["heavy-ball", "gradient-descent", "nesterov", "adam", "adamw", "lion", "adagrad:lr=1", "adam:betas=0,0"]
RULES += [
    "nadam",
    "radam",
    "rmsprop:momentum=0.9",
    "momentum:dampening=0.5",
    "sign-descent",
    "x",
    "",
    "adam:lr",
    "adam:=1",
]
SETTINGS = ["name=3", "lr=nan", "betas=0.9", "eps=0", "delta=1e-3", "amsgrad=true", "=", "a=b=c", "weight_decay=1e308"]
SETTINGS += ["weight_decay=0.1", "decoupled=true", "self=1", "lr=1e-308", "momentum=1", "cls=1", "lr=true"]
FILES = ["missing.json", ".", "mine.py", "/dev/null", "x" * 300, "a\0b", ""]


def theory_line(pick: random.Random) -> list[str]:
    """A line of predict or tune with a few of its options, each of any value."""
    line = [
        pick.choice(["predict", "tune"]),
        *pick.choices(NUMBERS, k=pick.randint(0, 3)),
        "--rule",
        pick.choice(RULES),
    ]
    options = [
        "--lr",
        "--momentum",
        "--start",
        "--loss",
        "--radius",
        "--unit",
        "--origin",
        "--within",
        "--point",
        "--over",
    ]
    for option in pick.sample(options, pick.randint(0, 4)):
        line += [option, pick.choice([*NUMBERS, "stored", "iterate", "lr", "momentum"])]
    if pick.random() < 0.3:
        line += ["--set", pick.choice(SETTINGS)]
    if pick.random() < 0.15:
        line += ["--spectrum", pick.choice(FILES)]
    return line + [flag for flag in ("--json", "--for-steps", "--debug") if pick.random() < 0.1 and flag != "--debug"]


def usual_line(pick: random.Random) -> list[str]:
    """A line whose numbers are mostly right, so that the work itself is reached."""
    line = [pick.choice(["predict", "tune"]), "1", pick.choice(["100", "1e8", "1e-8", "0", "-2", "1e200", "1e-200"])]
    line += ["--rule", pick.choice(RULES[:12]), "--start", pick.choice(["1", "1,1", "1e100", "0", "-1e-200", "1e150"])]
    line += [pick.choice(["--loss", "--radius"]), pick.choice(["1e-6", "1e-140", "1e140", "0", "1e-300"])]
    line += ["--within", "1000"] if line[0] == "predict" else []
    for option in pick.sample(["--lr", "--momentum", "--unit"], pick.randint(0, 2)):
        line += [option, pick.choice(["0.1", "1e-300", "1e300", "0.999999", "0", "1"])]
    return line


def work_line(pick: random.Random) -> list[str]:
    """A line of a command that works on the user's model, races, or reads a file."""
    command = pick.choice(["measure", "diagnose", "recommend", "race", "explore", "nope", ""])
    if command == "race":
        line = [command, "--problem", pick.choice(["quadratic", "rosenbrock", "x"]), "--rule", pick.choice(RULES)]
        options = ["--steps", "--start", "--loss", "--radius", "--box"]
        line += ["--steps", "5"]
    elif command == "explore":
        line = [command, pick.choice(FILES), "--export", pick.choice([".", "", "a\0b", "nowhere/x"])]
        options = ["--port"]
    else:
        functions = ["objective", "objective", "objective", "value", "leave", "number", "loader", "square", "", "x"]
        line = [command, f"mine.py:{pick.choice(functions)}"]
        options = (
            ["--seed", "--tol", "--top"] if command == "measure" else ["--seed", "--clip", "--horizon", "--report"]
        )
    for option in pick.sample(options, min(len(options), pick.randint(0, 2))):
        line += [option, pick.choice([*NUMBERS, *FILES])]
    return [*line, *(["--budget", "10"] if command == "recommend" else [])]


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("seed", range(4))
def test_generated_lines(seed: int) -> None:
    pick = random.Random(seed)
    for _ in range(20):
        for line in (theory_line(pick), usual_line(pick)):
            accepted(run(*line), line)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:recommend")
@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("seed", range(100, 110))
def test_many_generated_lines(seed: int) -> None:
    pick = random.Random(seed)
    for _ in range(20):
        for line in (theory_line(pick), usual_line(pick), work_line(pick)):
            accepted(run(*line), line)


def test_what_leaves_float64_is_infinite_and_not_nan() -> None:
    result = run("predict", "1", "1e200", "--rule", "nesterov", "--lr", "1e200")
    accepted(result, "overflow")
    assert "nan" not in result.stdout and "inf" in result.stdout


# --- standard output ---


def test_signs_that_an_encoding_lacks_become_plain_ones() -> None:
    said = "4 ± 1e-3, 45°, −2 ≤ λ, é–x, 日".encode("ascii", "eigenstep.plain").decode()
    assert said == "4 +- 1e-3, 45 deg, -2 <= lambda, e-x, ?"
    assert "\udcff".encode("utf-8", "eigenstep.plain") == b"?"


def test_an_output_takes_everything_and_tells_at_the_end() -> None:
    into, out = os.pipe()
    stream = streams.Output(out, "wb")
    assert stream.write(b"abc") == 3 and os.read(into, 9) == b"abc" and stream.trouble is None
    os.close(into)
    assert stream.write(b"abc") == 3 and isinstance(stream.trouble, BrokenPipeError)
    assert stream.write(b"de") == 2
    stream.close()
    with open("/dev/full", "wb", buffering=0) as full:
        stream = streams.Output(full.fileno(), "wb", closefd=False)
        assert stream.write(b"abc") == 3
        assert stream.trouble is not None and "No space left" in str(stream.trouble)
        stream.close()


COMMAND = f"{sys.executable} -c 'from eigenstep.cli import main; main()' "


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "unbuffered"),
    [("predict 1 100 --rule heavy-ball", ""), ("measure mine.py:objective", "1"), ("--help", "1")],
)
def test_in_a_shell(here: Path, command: str, unbuffered: str) -> None:
    def shell(line: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
        settings = {**os.environ, "PYTHONUNBUFFERED": unbuffered, **environment}
        return subprocess.run(
            ["bash", "-o", "pipefail", "-c", line],
            capture_output=True,
            timeout=200,
            check=False,
            cwd=here,
            env=settings,
        )

    early = shell(f"{COMMAND}{command} | head -1")
    assert early.returncode == 0 and b"rror" not in early.stderr and early.stdout.count(b"\n") == 1
    full = shell(f"{COMMAND}{command} > /dev/full")
    assert full.returncode == 2
    assert full.stderr.endswith(b"error: standard output cannot be written (No space left on device)\n")
    assert full.stderr.count(b"rror") == 1
    plain = shell(f"{COMMAND}{command}", PYTHONIOENCODING="ascii")
    assert plain.returncode == 0 and plain.stdout.isascii() and plain.stderr.isascii()
    if command.startswith("measure"):
        assert b"+-" in plain.stdout
    assert shell(f"{COMMAND}{command} >&-").returncode == 0
    silent = shell(f"{COMMAND}predict x 2>&-")
    assert silent.returncode == 2 and silent.stdout == b""
    assert shell(f"{COMMAND}predict x 2>/dev/full").returncode == 2
