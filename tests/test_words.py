"""What a user reads: what to do comes first, without a word of theory; the words that follow are in the glossary."""

import itertools
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import eigenstep as es
from eigenstep.diagnosis.conclude import NOT_ITS_OWN
from eigenstep.diagnosis.result import Diagnosis
from eigenstep.diagnosis.sentence import one_step_sentence, sentence_of
from eigenstep.diagnosis.verdict import VERDICTS, VerdictInputs, ZeroGradient
from eigenstep.plain import plain

GLOSSARY = (Path(__file__).parent.parent / "docs" / "glossary.md").read_text(encoding="utf-8")
# What a practitioner who never read a paper on curvature may not know; each has a row in the glossary if it is used.
THEORY = (
    *("Hessian", "eigenvalue", "eigenvector", "spectrum", "spectral radius", "preconditioner", "preconditioned"),
    *("Lanczos", "extremality", "residual", "sharpness", "sharp direction", "curvature", "curves", "second moment"),
    *("frozen limit", "linear limit", "edge of stability", "saddle", "quadratic", "orbit", "quasi-static"),
    *("stability ratio", "decoupled", "one-step quantity", "true edge", "half-width"),
)
# What a first sentence asks for.
ACTIONS = (
    *("keep", "lower", "raise", "begin", "perturb", "look at", "stop", "mend", "go back", "try", "give", "call"),
    *("use", "take", "rehearsed"),
)
FINITE = VerdictInputs(ratio=1.5, low=1.4, high=1.6, where="in 'a.weight'", origin="the loss", alone=(0.6, 0.9))
VARIANTS = [
    FINITE,
    replace(FINITE, high=0.0, ratio=0.0),
    replace(FINITE, decay_term=1.2, nesterov_off=0.8),
    replace(FINITE, clip=0.5, batch_high=2.0, batch_times=3.0),
    replace(FINITE, bottomless="the loss is unbounded: give it a floor"),
    replace(FINITE, adaptive=True, young=True, rises=False, zero_gradient=ZeroGradient(0.9, 0.8)),
    replace(FINITE, raised=(0.5, 10.0, 1000.0), orbit="At a fixed lr Adam ends in an orbit. Only an lr of 0 ends it."),
    replace(FINITE, memory=True),
]


def first(text: str) -> str:
    """The first sentence: up to a full stop (not a decimal point) before a capital letter."""
    return re.split(r"(?<=[.!?]) (?=[A-Z])", text)[0]


def theory_in(text: str) -> list[str]:
    return [word for word in THEORY if re.search(rf"\b{re.escape(word)}", text, re.IGNORECASE)]


def diagnoses() -> list[str]:
    codes = set(VERDICTS) - {"one-step", "diverged"}
    told = [sentence_of(code, f, 0.1, limit) for code in codes for f in VARIANTS for limit in (0.2, math.inf)]
    told += [one_step_sentence("Lion", multiple, None) for multiple in (0.5, 1.0, 3.0, math.inf)]
    told.append(one_step_sentence("Lion", None, "the pending update is zero: no parameter has a gradient"))
    return [*told, Diagnosis.diverged(math.nan, seconds=0.0).sentence, f"{NOT_ITS_OWN} {told[0]}"]


def judged(text: str) -> str | None:
    """What is wrong with a sentence; None if nothing is."""
    begin = first(text)
    if found := theory_in(begin):
        return f"theory in the first sentence ({found}): {begin}"
    if not any(re.search(rf"\b{action}", begin, re.IGNORECASE) for action in ACTIONS):
        return f"nothing to do in the first sentence: {begin}"
    return None


def test_the_first_sentence_says_what_to_do_without_theory() -> None:
    assert not [wrong for text in diagnoses() if (wrong := judged(text))]
    assert judged("Unstable: the preconditioned sharpness is high. Lower the lr.")  # what the check is for
    assert judged("Stable: lr 0.1 is 0.3 of the limit.")
    assert {code for code, title in VERDICTS.items() if theory_in(title)} <= {"edge", "one-step"}


def test_the_words_of_theory_that_follow_are_in_the_glossary() -> None:
    terms = [line.split("|")[1].strip().lower() for line in GLOSSARY.splitlines() if line.startswith("| ")]
    used = set(itertools.chain.from_iterable(theory_in(text) for text in diagnoses()))
    assert len(used) > 8
    assert not [word for word in used if not any(word.lower() in term for term in terms)]


def test_a_recommendation_says_the_lr_first_and_why_in_plain_words() -> None:
    torch.manual_seed(0)
    model = nn.Linear(2, 1, bias=False)
    x = torch.eye(2).repeat(8, 1)
    objective = es.Objective(model, lambda model, x: (model(x) - 1).square().mean(), [x, x])
    found = es.recommend(objective, torch.optim.SGD(model.parameters(), lr=1e-3), budget=60)
    assert found.headline.startswith(f"SGD: lr {found.lr:.3g} (")
    assert not theory_in(found.headline) and judged(found.reason) is None


@pytest.mark.parametrize("dead", [False, True])
def test_no_lr_comes_with_what_to_look_at(dead: bool) -> None:
    """The loss of a constant, and of dead units: nothing trains, whatever the lr."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1))
    with torch.no_grad():
        model[0].bias.fill_(-100.0 if dead else 0.0)
        model[2].bias.zero_()
    x = torch.randn(16, 2, generator=torch.Generator().manual_seed(0))
    if dead:
        x = torch.cat([x, -x])

    def loss(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
        out = net(x).squeeze(-1)
        return (out - x[:, 0].sign()).square().mean() if dead else out.mean() * 0 + 1

    found = es.recommend(es.Objective(model, loss, [x, x]), torch.optim.SGD(model.parameters(), lr=0.1), budget=60)
    assert found.lr is None and judged(found.reason) is None, found.reason


def test_the_keys_of_a_file_stay_though_the_names_in_the_code_have_changed() -> None:
    content = plain(replace(FINITE, decay_term=0.25, remaining=0.5, zero_gradient=ZeroGradient(0.9, 0.8)))
    assert content["pull"] == 0.25 and content["left"] == 0.5
    assert content["silence"] == {"share": 0.9, "wakes": 0.8, "flat": False, "downwards": False}
    assert not {"decay_term", "remaining", "zero_gradient"} & set(content)
