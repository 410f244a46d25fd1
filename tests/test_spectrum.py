"""Spectrum: its constructors, what a partial one answers, and the file envelope."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import eigenstep as es
from eigenstep.files import read_envelope, write_envelope

finite = st.floats(-1e6, 1e6)


@given(values=st.lists(finite, min_size=1, max_size=20))
def test_values_keep_their_order(values: list[float]) -> None:
    spectrum = es.Spectrum.from_eigenvalues(values)
    assert spectrum.eigenvalues.tolist() == values
    assert spectrum.eigenvalues.dtype == torch.float64
    assert (spectrum.largest, spectrum.smallest) == (max(values), min(values))
    assert spectrum.dimension == len(values)


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor])
def test_what_counts_as_values(kind: type) -> None:
    assert es.Spectrum.from_eigenvalues(kind([2, 1])).eigenvalues.tolist() == [2.0, 1.0]


@given(n=st.integers(1, 12), seed=st.integers(0, 1000))
def test_from_matrix_finds_a_prescribed_spectrum(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    q, _ = np.linalg.qr(rng.standard_normal((n, n)))
    prescribed = np.sort(rng.standard_normal(n))[::-1]
    matrix = (q * prescribed) @ q.T
    found = es.Spectrum.from_matrix((matrix + matrix.T) / 2)
    assert found.bounds is not None
    assert bool(((found.eigenvalues - torch.as_tensor(prescribed.copy())).abs() <= found.bounds + 1e-14).all())


def test_geometric() -> None:
    found = es.Spectrum.geometric(1.0, 1e4, 5)
    assert found.eigenvalues.tolist() == pytest.approx([1, 10, 100, 1000, 1e4])
    assert found.condition == 1e4


def test_condition() -> None:
    assert es.Spectrum.from_eigenvalues([2.0, 0.0]).condition == math.inf
    assert es.Spectrum.from_eigenvalues([2.0, -1.0]).condition is None
    partial = es.Spectrum.from_eigenvalues([2.0], covers="top", dimension=5)
    assert (partial.largest, partial.smallest, partial.condition) == (2.0, None, None)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: es.Spectrum.from_eigenvalues([]), "at least one"),
        (lambda: es.Spectrum.from_eigenvalues([1.0, math.nan]), "not finite"),
        (lambda: es.Spectrum.from_eigenvalues([[1.0]]), "one-dimensional"),
        (lambda: es.Spectrum.from_eigenvalues(["a"]), "numbers"),
        (lambda: es.Spectrum.from_eigenvalues([1j]), "real"),
        (lambda: es.Spectrum.from_eigenvalues([1.0], covers="some"), "covers"),
        (lambda: es.Spectrum.from_eigenvalues([1.0], covers="top"), "dimension"),
        (lambda: es.Spectrum.from_eigenvalues([1.0], bounds=[1.0, 2.0]), "one entry per"),
        (lambda: es.Spectrum.from_eigenvalues([1.0], bounds=[-1.0]), "negative"),
        (lambda: es.Spectrum.from_matrix([[1.0, 2.0], [3.0, 4.0]]), "not symmetric"),
        (lambda: es.Spectrum.from_matrix([[1.0, 2.0]]), "square"),
        (lambda: es.Spectrum.from_matrix([[math.inf]]), "not finite"),
        (lambda: es.Spectrum.geometric(2.0, 1.0, 3), "0 < mu <= L"),
        (lambda: es.Spectrum.geometric(1.0, 2.0, 1), "n >= 1"),
    ],
)
def test_refusals(make: object, says: str) -> None:
    with pytest.raises(es.InvalidValue, match=says):
        make()  # type: ignore[operator]


def test_a_file_gives_back_what_was_saved(tmp_path: Path) -> None:
    spectrum = es.Spectrum.from_eigenvalues(
        [0.1, 1 / 3],
        bounds=[1e-3, 0.0],
        weights=[1.0, 4.0],
        dimension=9,
        covers="top",
        operator="preconditioned",
        preconditioner={"rule": "adam", "t": 3},
        provenance={"seed": 1, "converged": True},
    )
    spectrum.save(tmp_path / "s.json")
    assert es.Spectrum.load(tmp_path / "s.json").as_dict() == spectrum.as_dict()
    assert [p.name for p in tmp_path.iterdir()] == ["s.json"]
    head = json.loads((tmp_path / "s.json").read_text())
    assert (head["format"], head["version"], head["kind"]) == ("eigenstep", 1, "spectrum")


def test_every_cut_of_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    es.Spectrum.from_eigenvalues([1.0, 2.0]).save(path)
    whole = path.read_text().rstrip()
    for cut in range(len(whole)):
        path.write_text(whole[:cut])
        with pytest.raises(es.BadFile, match=r"s\.json"):
            es.Spectrum.load(path)


def test_foreign_files_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    for text, says in (
        ("[1, 2]", "not a file of eigenstep"),
        ('{"format": "other"}', "not a file of eigenstep"),
        ('{"format": "eigenstep", "version": 2, "kind": "spectrum"}', "version 2"),
        ('{"format": "eigenstep", "version": 1, "kind": "article"}', "'article'"),
        ('{"format": "eigenstep", "version": 1, "kind": "spectrum", "values": [1]}', "lacks bounds"),
        (json.dumps(es.Spectrum.from_eigenvalues([1.0]).as_dict() | {"values": [None]}), "not a file"),
    ):
        path.write_text(text)
        with pytest.raises(es.BadFile, match=says):
            es.Spectrum.load(path)
    content = es.Spectrum.from_eigenvalues([1.0]).as_dict()
    for spoiled in ({"values": [None]}, {"values": "abc"}, {"weights": [1, 2]}, {"covers": "x"}, {"dimension": "n"}):
        write_envelope(path, "spectrum", {**content, **spoiled})
        with pytest.raises(es.BadFile, match="not a usable spectrum"):
            es.Spectrum.load(path)
    with pytest.raises(es.BadFile, match="cannot be read"):
        es.Spectrum.load(tmp_path / "missing.json")
    with pytest.raises(es.BadFile, match="cannot be written"):
        write_envelope(tmp_path / "none" / "f.json", "spectrum", {})
    with pytest.raises(es.BadFile, match="cannot be written"):
        write_envelope(path / "inside-a-file.json", "spectrum", {})
    assert read_envelope(path, "spectrum")["kind"] == "spectrum"
