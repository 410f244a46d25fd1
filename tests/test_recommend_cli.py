"""eigenstep recommend, from a shell: text, JSON, report, and the exit codes a script can gate on."""

import json
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner

from eigenstep.cli import main

FILE = """
import torch
import eigenstep as es

def setup(scale=1.0):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
    with torch.no_grad():
        model[0].bias.mul_(scale)
    x = torch.randn(64, 4)
    y = x.sum(1, keepdim=True)
    loss = lambda model, batch: torch.nn.functional.mse_loss(model(batch[0]), batch[1])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    return es.Objective(model, loss, (x, y)), optimizer, list(zip(x.split(16), y.split(16)))

def dead():
    objective, optimizer, train = setup()
    with torch.no_grad():
        objective.model[0].bias.fill_(-1e3)
        objective.model[2].bias.zero_()
    return objective, optimizer, train

def alone():
    return setup()[0]
"""


def run(folder: Path, function: str, *options: str) -> subprocess.CompletedProcess[str]:
    (folder / "mine.py").write_text(FILE, encoding="utf-8")
    command = [sys.executable, "-c", "from eigenstep.cli import main; main()", "recommend", f"mine.py:{function}"]
    return subprocess.run([*command, *options], capture_output=True, text=True, cwd=folder, timeout=120, check=False)


def test_json_report_and_exit_code_zero(tmp_path: Path) -> None:
    done = run(tmp_path, "setup", "--budget", "100", "--json", "--report", "r.html")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["kind"] == "recommendation"
    assert found["interval"][0] < found["lr"] < found["interval"][1]
    assert "100/100 training steps" in done.stderr
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert f"lr {found['lr']:.3g}" in page
    assert "<svg" in page
    assert "http" not in page.split("<svg")[0]


def test_a_schedule_from_the_shell_reaches_the_answer_the_page_and_the_figure(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(FILE, encoding="utf-8")
    words = ["recommend", f"{file}:setup", "--budget", "120", "--horizon", "30", "--schedule", "cosine"]
    options = ["--warmup", "0.1", "--seconds", "100", "--report", str(tmp_path / "r.html")]
    done = CliRunner().invoke(main, [*words, *options])
    assert done.exit_code == 0, done.output
    assert "peak lr" in done.stdout and "cosine after a warm-up of 3 updates" in done.stdout
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "scheduler.step()" in page and page.count("cosine after a warm-up of 3 updates") >= 2
    refused = CliRunner().invoke(main, [*words, "--warmup", "30"])
    assert refused.exit_code == 2 and "below the horizon" in refused.stderr


def test_nothing_trains_is_three_and_bad_input_two_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(FILE, encoding="utf-8")
    done = CliRunner().invoke(main, ["recommend", f"{file}:dead", "--budget", "100"])
    assert done.exit_code == 3
    assert "nothing trains here" in done.stdout
    done = CliRunner().invoke(main, ["recommend", f"{file}:alone"])
    assert done.exit_code == 2
    assert done.stderr.count("\n") == 1
    assert "no optimizer" in done.stderr
