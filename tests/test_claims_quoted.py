"""Every claim names its place in the article, in the article's own words, and is marked where it is only inferred."""

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from eigenstep.article.claims import CLAIMS, Claim
from eigenstep.cli import main

ARTICLE = Path(__file__).parents[2] / "shared" / "article.md"
ABSENT = f"the article is not at {ARTICLE}: whether the words quoted stand in it is not tested"

# The article's sections, each after the part it stands in, and how many equations each displays.
SECTIONS = {
    "Introduction": 0,
    "Deriving Gradient Descent": 6,
    "Convergence of Gradient Descent": 15,
    "The Steep Valley Problem (ill-conditioning)": 5,
    "Momentum": 7,
    "Adaptive Learning Rate": 0,
    "Adaptive Learning Rate, Motivation": 2,
    "Adaptive Learning Rate, AdaGrad": 2,
    "Adaptive Learning Rate, RMSProp": 2,
    "Adaptive Learning Rate, Adam": 9,
    "Experiments": 0,
    "Experiments, SGD - Learning Rate Too High": 0,
    "Experiments, SGD": 0,
    "Experiments, Momentum": 0,
    "Experiments, Adam": 0,
    "Recommendations": 0,
    "References": 0,
}

# What is written in the equation that a claim names.
EQUATIONS = {
    "eta-max-excluded": r"\eta_{max} = \frac{2}{\lambda_{max}}",
    "linear-rotated": r"=r(\lambda_i)^t\alpha^{(0)}",
    "remainder-c1": r"+O(\delta w^2)",
    "remainder-c2": r"+ O(\delta w^3)",
    "eta-small": r"\eta << 1",
    "eigencomponents": r"=r(\lambda_i)^t\alpha^{(0)}",
    "eta-max": r"\eta_{max} = \frac{2}{\lambda_{max}}",
    "eta-star": r"\frac{2}{\lambda_{min}+\lambda_{max}} < \eta_{max}",
    "rate": r"\frac{\kappa(H)-1}{\kappa(H)+1}",
    "amplified": r"\approx \frac{g_{min}}{1-\beta}",
    "damped": r"\frac{(-1)^{(t)}g_{max}}{1+\beta}",
    "nesterov-sense": r"\nabla L(w^{(t-1)}+\beta m^{(t-1)} )",
    "torch-momentum": r"m^{(t)} = \beta m^{(t-1)} - \eta \nabla L(w^{(t-1)})",
    "torch-nesterov": r"\nabla L(w^{(t-1)}+\beta m^{(t-1)} )",
    "scaled-step": r"\text{sign}(\alpha^{(t-1)})\eta",
    "jensen": r"\leq \sqrt{\mathbb{E}",
    "no-accumulation": r"\frac{(1-\beta)g}{1-\beta}=g",
    "delta-inside": r"+ \delta}}",
    "slow-sum": r"\approx \frac{g_{min}}{1-\beta}",
    "alternating-sum": r"\frac{(-1)^{(t)}g_{max}}{1+\beta}",
    "step-along": r"-\hat{u}_i^T\nabla L(w) = - \eta\alpha_i^{(t-1)}\lambda_i",
    "r-order": r"r(\lambda_{max}) \leq r(\lambda_i) \leq r(\lambda_{min}) < 1",
    "jensen-root": r"g^{-1}(g(\mathbb{E}(X)))",
}

INFERRED = {
    "eta-max-excluded",
    "float32",
    "code",
    "linear-rotated",
    "converged",
    "adam-stays",
    "favourable-speed",
    "eta-star-fewest",
    "both-factors",
    "nesterov-sense",
    "torch-momentum",
    "torch-nesterov",
    "smaller-eta",
    "any-coordinates",
    "rmsprop-cures",
    "delta-inside",
}


@pytest.fixture(scope="module")
def sections() -> dict[str, str]:
    """The article's text by section."""
    if not ARTICLE.exists():
        pytest.skip(ABSENT)
    found: dict[str, str] = {}
    part = name = ""
    for line in ARTICLE.read_text().splitlines():
        if heading := re.fullmatch(r"(##+) (.+)", line):
            level, title = heading.groups()
            part = title if level == "##" else part
            name = title if level == "##" else f"{part}, {title}"
            found[name] = ""
        elif name:
            found[name] += line + "\n"
    return found


def equations(text: str) -> list[str]:
    """The displayed equations of a section."""
    return re.findall(r"\$\$(.+?)\$\$", text, re.S)


def test_the_list_of_sections_is_the_articles(sections: dict[str, str]) -> None:
    assert {name: len(equations(text)) for name, text in sections.items()} == SECTIONS


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_a_claim_names_its_place(claim: Claim) -> None:
    assert 0 <= claim.equation <= SECTIONS[claim.section]
    assert claim.quote or claim.equation
    assert len(claim.quote.split()) <= 10
    assert (claim.name in EQUATIONS) == bool(claim.equation)
    assert (claim.name in INFERRED) == bool(claim.inferred)


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_the_article_has_the_words_there(claim: Claim, sections: dict[str, str]) -> None:
    text = sections[claim.section]
    assert claim.quote in text
    if claim.equation:
        assert EQUATIONS[claim.name] in equations(text)[claim.equation - 1]


def test_place_and_mark_are_shown() -> None:
    def run(*arguments: str) -> str:
        result = CliRunner().invoke(main, ["claims", "torch-momentum", "slow-sum", *arguments])
        assert result.exit_code == 0, result.output
        return result.stdout

    lines = {line.split()[0]: line for line in run().splitlines() if line}
    assert "Momentum, equation 1, inferred" in lines["torch-momentum"]
    assert "Momentum, equation 5" in lines["slow-sum"]
    assert "inferred" not in lines["slow-sum"]
    assert "1 are inferred" in run()
    details = run("--details")
    assert 'slow-sum (Momentum, equation 5: "amplify by a factor of 10")' in details
    assert details.count("Inferred, not said: the article runs torch.optim, and gives this formula.") == 1
    first, second = json.loads(run("--json"))["claims"]
    assert (first["section"], first["equation"]) == ("Momentum", 1)
    assert first["inferred"] == "the article runs torch.optim, and gives this formula"
    assert (second["quote"], second["inferred"]) == ("amplify by a factor of 10", None)
