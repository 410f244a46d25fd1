"""draw: what the axes hold is what was given, labelled; image files are whole, repeatable, or not there."""

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from eigenstep import draw
from eigenstep.errors import BadFile, InvalidValue


def test_panels_have_the_size_that_a_column_has() -> None:
    figure, axes = draw.panels(columns=2, rows=2, width=7.0, height=4.0)
    assert tuple(figure.get_size_inches()) == (7.0, 4.0)
    assert len(axes) == 4
    for ax in axes:
        assert [name for name, spine in ax.spines.items() if not spine.get_visible()] == ["right", "top"]


def test_axes_are_described() -> None:
    (ax,) = draw.panels()[1]
    draw.describe(ax, "updates", "loss", "three losses", log="xy")
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title(loc="left")) == ("updates", "loss", "three losses")
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")


@pytest.mark.parametrize(
    ("look", "line", "marker"), [("line", "-", "None"), ("dots", "None", "o"), ("dashes", "--", "None")]
)
def test_a_curve_is_what_was_given(look: str, line: str, marker: str) -> None:
    values = torch.tensor([4.0, 2.0, 1.0, 0.5], dtype=torch.float32)
    ax = draw.curve(values, look=look, label="measured", color=draw.GREEN, every=2)  # type: ignore[arg-type]
    (drawn,) = ax.lines
    assert np.asarray(drawn.get_xdata()).tolist() == [0, 2]
    assert np.asarray(drawn.get_ydata()).tolist() == [4.0, 1.0]
    assert (drawn.get_linestyle(), drawn.get_marker(), drawn.get_label()) == (line, marker, "measured")
    assert drawn.get_color() == draw.GREEN


def test_curves_share_the_axes_they_are_given() -> None:
    ax = draw.curve([1.0, 2.0])
    assert draw.curve([2.0, 1.0], [0.5, 1.5], ax) is ax
    assert np.asarray(ax.lines[1].get_xdata()).tolist() == [0.5, 1.5]


def test_a_path_marks_its_start() -> None:
    points = torch.tensor([[0.0, 0.0], [1.0, 0.5], [2.0, 2.0]])
    trail, start = draw.path(points).lines
    assert np.column_stack([trail.get_xdata(), trail.get_ydata()]).tolist() == points.tolist()
    assert (np.asarray(start.get_xdata()).tolist(), start.get_markerfacecolor()) == ([0.0], "white")


def test_contours_of_a_quadratic_are_evenly_spaced() -> None:
    """In the square root of the loss: on a cut through the minimum the lines lie at equal distances."""
    x = np.linspace(-1, 1, 81)
    ax = draw.contours(x, x, x[None] ** 2 + x[:, None] ** 2, levels=7)
    lines = ax.collections[-1]
    radii = [np.hypot(*path.vertices.T).mean() for path in lines.get_paths() if len(path.vertices)]
    whole = [r for r in radii if r < 0.99]  # those that do not touch the frame
    assert np.allclose(np.diff(whole), whole[0], rtol=0.02)
    assert len(whole) >= 4


def test_lines_at_a_value_carry_their_word() -> None:
    ax = draw.line_at(0.02, text="limit")
    draw.line_at(1.0, ax, across="y", text="edge")
    assert np.asarray(ax.lines[0].get_xdata()).tolist() == [0.02, 0.02]
    assert np.asarray(ax.lines[1].get_ydata()).tolist() == [1.0, 1.0]
    assert [text.get_text() for text in ax.texts] == ["limit", "edge"]


def test_factors_show_each_eigenvalue_and_the_largest_beneath() -> None:
    lr = np.linspace(0, 2, 5)
    radii = np.abs(1 - lr[:, None] * np.linspace(0.1, 1, 8))
    ax = draw.factors(lr, radii, [f"λ {i}" for i in range(8)])
    band, *each = ax.lines[:9]
    assert np.allclose(band.get_ydata(), radii.max(1))
    assert all(np.allclose(line.get_ydata(), column) for line, column in zip(each, radii.T, strict=True))
    assert len({(line.get_color(), line.get_linestyle()) for line in each}) == 8, "more lines than colours: told apart"
    with pytest.raises(InvalidValue, match="one for each"):
        draw.factors(lr, radii, ["λ"])


def test_a_region_leaves_out_what_is_not_stable() -> None:
    lr, momentum = np.linspace(0.1, 4, 30), np.linspace(0, 0.9, 20)
    radius = np.where(lr < 2 * (1 + momentum[:, None]), 0.5, 1.5)
    ax = draw.region(lr, momentum, radius)
    shown = ax.collections[0].get_array()
    assert shown is not None
    assert np.array_equal(np.ma.getmaskarray(shown).reshape(radius.shape), radius >= 1)
    assert [other.get_ylabel() for other in ax.figure.axes if other is not ax] == ["factor per update"]


def test_bars_have_the_lengths_of_their_counts() -> None:
    names = [f"group {i}" for i in range(8)]
    ax = draw.bars(["a", "b"], {name: [i + 1.0, None] for i, name in enumerate(names)})
    assert [patch.get_width() for patch in ax.patches] == [float(i + 1) for i in range(8)]
    assert sorted(text.get_text() for text in ax.texts) == sorted([*"12345678", *"––––––––"])
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["a", "b"]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: draw.curve([[1.0]]), "1 dimensions"),
        (lambda: draw.curve([1.0, 2.0], [1.0]), "one x for each y"),
        (lambda: draw.path([1.0, 2.0]), "2 dimensions"),
    ],
)
def test_misshapen_arrays_are_refused(wrong: object, says: str) -> None:
    with pytest.raises(InvalidValue, match=says):
        wrong()  # type: ignore[operator]


def saved(folder: Path) -> tuple[bytes, bytes]:
    figure, (ax,) = draw.panels()
    draw.describe(draw.curve([3.0, 1.0], ax=ax, label="loss"), "updates", "loss")
    draw.legend(ax, "right")
    png, svg = draw.save(figure, folder, "one")
    assert not figure.axes, "the figure's contents are dropped"
    return png.read_bytes(), svg.read_bytes()


def test_files_are_whole_and_the_same_each_time(tmp_path: Path) -> None:
    png, svg = saved(tmp_path)
    assert png.startswith(b"\x89PNG") and png.rstrip().endswith(b"IEND\xaeB`\x82")
    assert ElementTree.fromstring(svg).tag.endswith("svg")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.png", "one.svg"]
    assert saved(tmp_path) == (png, svg)


@pytest.mark.parametrize("where", ["missing", "a-file"])
def test_a_folder_that_cannot_be_written_to(tmp_path: Path, where: str) -> None:
    (tmp_path / "a-file").write_text("")
    figure, (ax,) = draw.panels()
    draw.curve([1.0], ax=ax)
    with pytest.raises(BadFile, match=r"cannot be written .*choose a folder"):
        draw.save(figure, tmp_path / where, "one")
    assert [path.name for path in tmp_path.iterdir()] == ["a-file"]


def test_a_failed_drawing_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one.png").write_text("the old one")
    figure, _ = draw.panels()
    monkeypatch.setattr(figure, "savefig", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        draw.save(figure, tmp_path, "one")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("one.png", "the old one")]


def test_nothing_global_is_touched(tmp_path: Path) -> None:
    """No pyplot, and matplotlib's settings as they were."""
    code = (  # to read 'backend' is to load pyplot
        "import sys, matplotlib\n"
        "now = lambda: {k: matplotlib.rcParams[k] for k in matplotlib.rcParams if k != 'backend'}\n"
        "before = now()\nfrom eigenstep import draw\n"
        "figure, (ax,) = draw.panels()\ndraw.curve([1.0, 2.0], ax=ax)\n"
        f"draw.save(figure, {str(tmp_path)!r}, 'one')\n"
        "assert now() == before\nassert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
