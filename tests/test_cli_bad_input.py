"""Bad input on the command line: one line with what is wrong and the remedy, exit code 2, and no traceback."""

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from eigenstep.cli import COMMANDS, main

PREDICT = "predict 1 100 --rule "
RACE = "race --problem rosenbrock --rule "

# The command, and words of its message: what is wrong, and what to do.
REFUSED = [
    (PREDICT + "gradient-descent --lr -0.1", ("lr=-0.1", "at least 0")),
    (PREDICT + "gradient-descent --lr=nan", ("lr=nan", "finite")),
    (PREDICT + "gradient-descent --lr inf", ("lr=inf", "finite")),
    (PREDICT + "gradient-descent --lr 0", ("lr = 0", "max_stable_lr")),
    (PREDICT + "gradient-descent --lr fast", ("'--lr'", "'fast' is not a number")),
    (PREDICT + "heavy-ball --momentum 1", ("momentum=1.0", "below 1")),
    (PREDICT + "heavy-ball --momentum -0.5", ("momentum=-0.5", "at least 0")),
    (PREDICT + "adam --set betas=0.9,1 --unit 1", ("betas=1.0", "below 1")),
    (PREDICT + "heavy-bal", ("did you mean 'heavy-ball'?", "lion")),
    (PREDICT + "heavy-ball --set momentun=0.9", ("did you mean 'momentum'?",)),
    (PREDICT + "heavy-ball:lr=1,lr=2", ("lr twice",)),
    (PREDICT + "heavy-ball --set momentum", ("name=value",)),
    (PREDICT + "heavy-ball:lr=0.1,0.2", ("one setting at a time",)),
    (PREDICT + "lion", ("Lion", "simulate it")),
    (PREDICT + "adam", ("adapts", "unit=")),
    (PREDICT + "adam --unit 0", ("positive",)),
    (PREDICT + "adam --unit 1,2,3", ("one per eigenvalue",)),
    (PREDICT + "heavy-ball --start 1,2,3 --loss 1e-6", ("2 finite numbers",)),
    (PREDICT + "heavy-ball --start 1 --loss -1", ("loss=-1.0", "positive")),
    (PREDICT + "heavy-ball --point elsewhere", ("'iterate', 'stored'",)),
    (PREDICT + "heavy-ball --pont stored", ("--point",)),
    ("predict --rule heavy-ball", ("no eigenvalues", "--spectrum")),
    ("predict nan 1 --rule heavy-ball", ("not finite",)),
    ("predict 1 x --rule heavy-ball", ("'x' is not a number",)),
    ("predict 1 100", ("--rule",)),
    ("predict 1 --spectrum cut.json --rule heavy-ball", ("twice", "leave one of them out")),
    ("predict --spectrum cut.json --rule heavy-ball", ("cut.json", "cut off", "write it again")),
    ("predict --spectrum foreign.json --rule heavy-ball", ("foreign.json", "not a file of eigenstep")),
    ("predict --spectrum article.json --rule heavy-ball", ("'article'", "'spectrum' is needed")),
    ("predict --spectrum bytes.json --rule heavy-ball", ("bytes.json", "cannot be read")),
    ("predict --spectrum missing.json --rule heavy-ball", ("missing.json", "check the path")),
    ("tune 1 100 --rule heavy-ball --over beta", ("'lr', 'momentum'",)),
    ("tune 1 100 --rule gradient-descent --over momentum", ("no momentum to tune",)),
    ("tune -1 100 --rule gradient-descent", ("smallest eigenvalue is -1", "weight decay")),
    ("tune 1 100 --rule heavy-ball --loss 1e-6", ("add --for-steps",)),
    ("tune 1 100 --rule heavy-ball --for-steps", ("start=",)),
    (RACE + "adam:lr=-1", ("lr=-1.0",)),
    (RACE + "adam:lr=0.01,beta=0.9", ("did you mean 'betas'?",)),
    (RACE + "adam --start 1,2,3", ("must be 2",)),
    (RACE + "adam --start 9,9 --box 5", ("outside the bounds", "start inside")),
    (RACE + "adam --start nan,1", ("not finite",)),
    (RACE + "adam --steps 0", ("--steps",)),
    (RACE + "adam --loss nan", ("loss=nan",)),
    (RACE + "adam --box 0", ("box=0.0", "above 0")),
    (RACE + "adam --steps 5 --out a-file", ("a-file", "another folder with --out")),
    (RACE + "adam --steps 5 --out a-file/inside", ("another folder with --out",)),
    ("race --problem rosenbrok --rule adam", ("did you mean 'rosenbrock'?",)),
    ("demo --out a-file", ("another folder with --out",)),
    ("article --out a-file", ("another folder with --out",)),
    ("predct 1 100", ("did you mean 'predict'?",)),
    ("--nope", ("--nope",)),
]


def run(line: str) -> Result:
    return CliRunner().invoke(main, line.split())


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of files that will not do."""
    monkeypatch.chdir(tmp_path)
    Path("cut.json").write_text('{"format": "eigenstep", "version": 1, "kind": "spectr')
    Path("foreign.json").write_text('{"values": [1.0, 2.0]}')
    Path("article.json").write_text('{"format": "eigenstep", "version": 1, "kind": "article"}')
    Path("bytes.json").write_bytes(b"\xff\xfe\x00\x01")
    Path("a-file").write_text("not a folder")
    return tmp_path


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(("line", "words"), REFUSED, ids=[line for line, _ in REFUSED])
def test_one_line_with_the_remedy(line: str, words: tuple[str, ...]) -> None:
    result = run(line)
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 2
    assert result.stdout == ""
    assert len(result.stderr.strip().splitlines()) == 1
    for word in words:
        assert word in result.stderr


def test_a_race_that_is_far_from_its_tolerance_or_leaves_is_drawn(here: Path) -> None:
    """The tolerance lies far below every loss, which once left no room for the axes."""
    result = run(RACE + "adam:lr=0.01 --rule heavy-ball:lr=1e5 --steps 5 --out here")
    assert result.exit_code == 0, result.exception
    assert "left at update" in result.stdout
    assert (here / "here" / "race-rosenbrock.png").stat().st_size > 10_000


# --- in a process of its own ---


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


def test_the_shell_sees_the_line_and_the_code(tmp_path: Path) -> None:
    call = [sys.executable, "-c", "from eigenstep.cli import main; main()", "predict", "1", "--rule", "heavy-bal"]
    done = subprocess.run(call, capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: rule 'heavy-bal' does not exist: did you mean 'heavy-ball'?")
    assert done.stderr.count("\n") == 1


def test_help_needs_no_torch() -> None:
    code = (
        "import sys\nfrom eigenstep.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print('loaded:', *sorted({'torch', 'numpy', 'scipy', 'matplotlib', 'rich'} & set(sys.modules)))"
    )
    said = python(code)
    assert said.endswith("loaded:\n")
    assert all(name in said for name in COMMANDS)


def test_importing_eigenstep_loads_no_plotting_web_or_data_library() -> None:
    heavy = {"matplotlib", "sklearn", "pandas", "http.server", "rich", "transformers", "lightning"}
    code = (
        f"import sys, eigenstep as es\nes.Adam, es.predict, es.simulate, es.Optimizer, es.Quadratic, es.Spectrum\n"
        f"print(*sorted({heavy!r} & set(sys.modules)))"
    )
    assert python(code) == "\n"
