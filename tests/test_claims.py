"""Every claim has the verdict that the theory gives it, by its number, and loses it when an input is flipped.

Where in the article each stands is tested in test_claims_quoted.py.
"""

import cmath
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

import eigenstep as es
from eigenstep.article.claims import CLAIMS, Claim, Measured, judge, named

ONLY_IF = "holds only if"
SLOW = {"favourable-speed", "momentum-optimal", "adam-overcomes", "adam-stays"}  # seconds each


def radius(trace: float, determinant: float) -> float:
    """The spectral radius of a 2x2 matrix."""
    root = cmath.sqrt(trace**2 - 4 * determinant)
    return max(abs(trace + root), abs(trace - root)) / 2


def nesterov(beta: float, h: float) -> float:
    """Its rate at h = lr lambda, by theory.md's table."""
    return radius((1 + beta) * (1 - h), beta * (1 - h))


# Nesterov's best rate at beta = .9 and condition 100, by trying lrs; Adam's with P frozen: heavy ball's at lr (1 - b1).
NESTEROV = min(max(nesterov(0.9, lr), nesterov(0.9, 100 * lr)) for lr in (1e-6 * k for k in range(13_000, 13_600)))
SMALL_LR = 0.05 * 2 / 101
SMOOTHED = radius(1.9 - 0.1 * SMALL_LR, 0.9)

# The verdict, and the numbers that decide it: as stated, within the condition; theory.md's, or a formula.
EXPECTED: dict[str, tuple[str, Any, Any]] = {
    "counts": ("holds", 0, None),
    "diverges": ("holds", 101, None),
    "eta-max-excluded": ("holds", pytest.approx(0, abs=1e-12), None),
    "radius": ("wrong", pytest.approx(1.2e-3, rel=0.05), None),
    "float32": (ONLY_IF, pytest.approx(2.1e-6, rel=0.01), pytest.approx(1.8e-7, rel=0.01)),
    "code": ("wrong", 1, None),
    "adam-117": ("holds", 117, None),
    "linear-rotated": ("holds", 0, None),
    "converged": (ONLY_IF, 164 - 116, 0),
    "adam-stays": (ONLY_IF, pytest.approx(2e-2, rel=0.05), 0.0),
    "favourable-speed": (ONLY_IF, 148 / 46, 117 / 137),
    "momentum-optimal": ("holds", 148 / 46, None),
    "remainder-c1": ("wrong", pytest.approx(1.5), None),
    "remainder-c2": ("wrong", pytest.approx(2.5), None),
    "steepest": (ONLY_IF, pytest.approx(10.1 / 11), pytest.approx(1, abs=1e-5)),
    "eta-small": (ONLY_IF, pytest.approx(2.5), pytest.approx(0.025)),
    "eigencomponents": ("holds", pytest.approx(0, abs=1e-13), None),
    "converges-iff": (ONLY_IF, pytest.approx(math.sqrt(0.5)), pytest.approx(0.99**2000 / math.sqrt(2))),
    "eta-max": ("holds", pytest.approx(0, abs=2e-4), None),
    "eta-star": ("holds", pytest.approx(0, abs=1e-9), None),
    "rate": ("holds", pytest.approx(0, abs=1e-7), None),
    "example-1-5": ("holds", pytest.approx(0, abs=1e-9), None),
    "eta-star-near-eta-max": ("holds", pytest.approx(1 / 101), None),
    "eta-star-fewest": (ONLY_IF, 320 / 419, pytest.approx(1.0)),
    "selects-minima": ("holds", 0.0, None),
    "oscillates-at-best": ("holds", pytest.approx(-99 / 101), None),
    "stalls": ("holds", pytest.approx((999_999 / 1_000_001) ** 2_000), None),
    "ball": ("holds", pytest.approx(0, abs=1e-12), None),
    "amplified": (ONLY_IF, pytest.approx(0.518, abs=1e-3), pytest.approx(0.001, abs=1e-4)),
    "damped": ("holds", pytest.approx(0, abs=1e-12), None),
    "both-factors": (
        ONLY_IF,
        pytest.approx(math.log(0.681) / math.log(0.949), rel=0.01),
        pytest.approx(0.911, abs=1e-3),
    ),
    "alleviates": ("holds", pytest.approx(math.log(99 / 101) / math.log(9 / 11)), None),
    "overshoot": ("holds", pytest.approx(0.225, abs=0.01), None),
    "nesterov-sense": (
        ONLY_IF,
        pytest.approx(math.log(9 / 11) / math.log(1 - 2 / math.sqrt(301)), rel=1e-4),
        pytest.approx(math.log(0.9) / 2 / math.log(NESTEROV), rel=1e-4),
    ),
    "torch-momentum": (ONLY_IF, pytest.approx(0.0575, abs=1e-3), pytest.approx(0, abs=1e-14)),
    "torch-nesterov": (ONLY_IF, pytest.approx(0.2155, abs=1e-3), pytest.approx(0, abs=1e-14)),
    "alpha-lambda": (ONLY_IF, 1.0, pytest.approx(1e4)),
    "exact-scaling": ("holds", pytest.approx(0, abs=1e-13), None),
    "scaled-step": (ONLY_IF, pytest.approx(math.sqrt(100)), pytest.approx(1.0)),
    "smaller-eta": (ONLY_IF, pytest.approx(35.5, rel=0.01), pytest.approx(0.0355, rel=0.01)),
    "any-coordinates": (ONLY_IF, 1265 / 137, 117 / 137),
    "direct-step": (ONLY_IF, pytest.approx(1 / math.sqrt(1 - 0.99)), pytest.approx(1)),
    "adagrad-oscillation": ("holds", pytest.approx(0, abs=1e-9), None),
    "adagrad-halts": (ONLY_IF, pytest.approx(0, abs=1e-12), pytest.approx(0.73, abs=0.01)),
    "rmsprop-cures": (ONLY_IF, pytest.approx(0.5, abs=1e-3), pytest.approx(0, abs=1e-12)),
    "debiasing": (ONLY_IF, pytest.approx(0.999**116), pytest.approx(0.999**4603)),
    "jensen": (ONLY_IF, pytest.approx(7.27, abs=1e-3), pytest.approx(1)),
    "slower-near-minimum": ("holds", pytest.approx(0.0256, abs=1e-3), None),
    "adam-overcomes": (ONLY_IF, pytest.approx(0.023, abs=1e-3), pytest.approx(0, abs=1e-12)),
    "not-rmsprop": ("holds", pytest.approx(10.0), None),
    "no-accumulation": ("holds", pytest.approx(1.0), None),
    "only-smoothing": (
        ONLY_IF,
        pytest.approx(math.log(99 / 101) / math.log(0.9) * 2, rel=1e-3),
        pytest.approx(math.log(1 - SMALL_LR) / math.log(SMOOTHED), rel=1e-6),
    ),
    "delta-inside": (ONLY_IF, pytest.approx(28.7, abs=0.1), pytest.approx(1, abs=1e-3)),
    "slow-sum": ("wrong", pytest.approx(1.1), None),
    "alternating-sum": ("wrong", pytest.approx(0.9), None),
    "step-along": ("wrong", pytest.approx(101 / 2 - 1), None),
    "slope-of-r": (ONLY_IF, pytest.approx(-100), pytest.approx(100)),
    "r-order": (ONLY_IF, 9 + 9 + 1, 0),
    "jensen-root": (ONLY_IF, 2.0, 0.0),
}

# One input of each claim changed, in what is stated or within the condition, and the verdict that it then gets.
FLIPS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "counts": ({"scale": 0.99}, {}, "wrong"),
    "diverges": ({"factor": 0.99}, {}, "wrong"),
    "eta-max-excluded": ({"factor": 0.999}, {}, "wrong"),
    "radius": ({"loss": 1e-15}, {}, "holds"),
    "float32": ({"dtype": "float64"}, {}, "holds"),
    "code": ({"minima": torch.tensor([0.8, 0.6])}, {}, "holds"),
    "adam-117": ({"angle": 45.0}, {}, "wrong"),
    "linear-rotated": ({"names": ("gradient-descent", "adam")}, {}, "wrong"),
    "converged": ({}, {"names": ("momentum",)}, "wrong"),
    "adam-stays": ({"minimum": (0.8, 0.6), "updates": 3000}, {"updates": 3000}, "holds"),
    "favourable-speed": ({"tuning": False}, {}, "holds"),
    "momentum-optimal": ({"tuning": False}, {}, "wrong"),
    "remainder-c1": ({"power": 2.0}, {}, "holds"),
    "remainder-c2": ({"power": 3.0}, {}, "holds"),
    "steepest": ({"norm": 2.0}, {}, "holds"),
    "eta-small": ({"eigenvalue": 1.0}, {}, "holds"),
    "eigencomponents": ({"rule": es.HeavyBall(lr=0.15)}, {}, "wrong"),
    "converges-iff": ({"eigenvalues": (1.0, 100.0)}, {}, "holds"),
    "eta-max": ({"rule": es.HeavyBall()}, {}, "wrong"),
    "eta-star": ({"rule": es.HeavyBall(momentum=0.5)}, {}, "wrong"),
    "rate": ({"factor": 0.9}, {}, "wrong"),
    "example-1-5": ({"eigenvalues": (1.0, 4.0)}, {}, "wrong"),
    "eta-star-near-eta-max": ({"condition": 2.0}, {}, "wrong"),
    "eta-star-fewest": ({"by": "rate"}, {}, "holds"),
    "selects-minima": ({"lr": 0.018}, {}, "wrong"),
    "oscillates-at-best": ({"eigenvalues": (1.0, 1.0)}, {}, "wrong"),
    "stalls": ({"condition": 100.0}, {}, "wrong"),
    "ball": ({"scheme": "explicit"}, {}, "wrong"),
    "amplified": ({}, {"eigenvalue": 1.0}, "wrong"),
    "damped": ({"signs": (1.0,)}, {}, "wrong"),
    "both-factors": ({}, {"momentum": 0.8}, "wrong"),
    "alleviates": ({"tuned": False}, {}, "wrong"),
    "overshoot": ({"momentum": 0.5}, {}, "wrong"),
    "nesterov-sense": ({}, {"momentum": 0.5}, "wrong"),
    "torch-momentum": ({"drop": 1.0}, {}, "holds"),
    "torch-nesterov": ({"read": "look-ahead"}, {}, "holds"),
    "alpha-lambda": ({"gradients": 1}, {}, "holds"),
    "exact-scaling": ({"along": "coordinates"}, {}, "wrong"),
    "scaled-step": ({}, {"components": 9}, "wrong"),
    "smaller-eta": ({}, {"scale": 0.1}, "wrong"),
    "any-coordinates": ({}, {"angle": 15.0}, "wrong"),
    "direct-step": ({"rule": es.Adam()}, {}, "holds"),
    "adagrad-oscillation": ({"rule": es.RMSProp()}, {}, "wrong"),
    "adagrad-halts": ({"moves": True}, {}, "holds"),
    "rmsprop-cures": ({}, {"rule": es.RMSProp(lr=0.01, alpha=0.9, eps=0.0045)}, "wrong"),
    "debiasing": ({"beta": 0.9}, {}, "holds"),
    "jensen": ({"betas": (0.9, 0.9)}, {}, "holds"),
    "slower-near-minimum": ({"betas": (0.9, 0.9)}, {}, "wrong"),
    "adam-overcomes": ({"updates": 2500}, {"updates": 2500}, "holds"),
    "not-rmsprop": ({"first_beta": 0.0}, {}, "wrong"),
    "no-accumulation": ({"rule": es.HeavyBall(lr=1.0)}, {}, "wrong"),
    "only-smoothing": ({"first_beta": 0.0}, {}, "holds"),
    "delta-inside": ({"gradient": 10.0}, {}, "holds"),
    "slow-sum": ({"factor": -0.1}, {}, "holds"),
    "alternating-sum": ({"factor": 0.1}, {}, "holds"),
    "step-along": ({"factor": 2 / 101}, {}, "holds"),
    "slope-of-r": ({"magnitude": True}, {}, "holds"),
    "r-order": ({"lr": 0.1}, {}, "holds"),
    "jensen-root": ({"mean": 1.0}, {}, "holds"),
}

ALL = [pytest.param(c, id=c.name, marks=[pytest.mark.slow] if c.name in SLOW else []) for c in CLAIMS]


def test_no_claim_is_left_out() -> None:
    names = [claim.name for claim in CLAIMS]
    assert len(names) == len(set(names))
    assert set(names) == set(EXPECTED) == set(FLIPS)


@pytest.mark.parametrize("claim", ALL)
def test_the_verdict_rests_on_its_number(claim: Claim) -> None:
    verdict, stated, within = EXPECTED[claim.name]
    found = judge(claim)
    assert found.verdict == verdict, found
    assert found.stated.number == stated
    assert (None if found.within is None else found.within.number) == within
    assert found.words.startswith(verdict)
    assert found.as_dict()["must_be"] == {claim.sign: claim.limit}


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_a_flipped_input_changes_the_verdict(claim: Claim) -> None:
    stated, within, verdict = FLIPS[claim.name]
    assert stated or within
    assert verdict != EXPECTED[claim.name][0]
    if claim.name in SLOW and not within:
        within = stated  # the condition's own run, seconds long, is not what is flipped
    assert judge(claim, stated=stated, within=within).verdict == verdict


def test_the_readme_quotes_the_counts() -> None:
    readme = " ".join((Path(__file__).parents[1] / "README.md").read_text().split())
    counts = Counter(verdict for verdict, *_ in EXPECTED.values())
    inferred = sum(bool(claim.inferred) for claim in CLAIMS)
    said = f"Of {len(CLAIMS)} claims {counts['holds']} hold, {counts[ONLY_IF]} hold only under a condition, "
    assert f"{said}{counts['wrong']} are wrong ({inferred} are inferred from its text, and marked)." in readme
    assert f"# {len(CLAIMS)} claims of the article" in readme


def test_three_verdicts_from_two_numbers() -> None:
    def claim(stated: float, within: float | None = None) -> Claim:
        conditional: dict[str, Any] = {} if within is None else {"condition": "small", "within": {"x": within}}
        return Claim("a", "b", "c", lambda x: Measured(x, "given"), "x", "at most", 1.0, {"x": stated}, **conditional)

    assert judge(claim(1.0)).verdict == "holds"
    assert judge(claim(1.1)).verdict == "wrong"
    assert judge(claim(1.1, 0.9)).words == "holds only if small"
    assert judge(claim(1.1, 1.2)).verdict == "wrong"
    assert judge(claim(0.9, 1.2)).verdict == "holds"
    assert judge(claim(math.nan)).verdict == "wrong"


def test_an_unknown_claim_is_refused_with_the_nearest() -> None:
    with pytest.raises(es.UnknownName, match="did you mean 'jensen'"):
        named("jenson")
