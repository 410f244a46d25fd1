"""`load`: any result that was saved, by what its file says that it is."""

import importlib
from typing import Any

from eigenstep.files import LOG, PathLike, peek, refuse_other
from eigenstep.result import Result, from_file

_RESULTS = {  # where the results live, by the kinds of their files
    "spectrum": ("eigenstep.spectrum", "Spectrum"),
    "measurement": ("eigenstep.curvature", "Measurement"),
    "density": ("eigenstep.curvature", "Density"),
    "trace": ("eigenstep.curvature", "Trace"),
    "layers": ("eigenstep.curvature", "Layers"),
    "finite step": ("eigenstep.curvature", "FiniteStep"),
    "limit": ("eigenstep.stability", "Limit"),
    "critical sharpness": ("eigenstep.stability", "CriticalSharpness"),
    "diagnosis": ("eigenstep.diagnosis", "Diagnosis"),
    "recommendation": ("eigenstep.recommendation", "Recommendation"),
    "check": ("eigenstep.front", "Check"),
    "prediction": ("eigenstep.theory.prediction", "Prediction"),
    "tuning": ("eigenstep.theory.tuned", "Tuning"),
    "run": ("eigenstep.simulation", "Run"),
    "postmortem": ("eigenstep.training", "Postmortem"),
    LOG: ("eigenstep.training", "Log"),
}


def load(path: PathLike) -> Result:
    """Return the result that a file holds, of its own class: whatever `save` or a monitor's log wrote.

    A file has no vectors of the model's size; what needs them says so. Raises BadFile for any other file, and for a
    field that is not what it should be, by its name.

    >>> import tempfile
    >>> from eigenstep import HeavyBall, Spectrum, tune
    >>> file = tempfile.mkdtemp() + "/tuned.json"
    >>> tune(HeavyBall(), Spectrum.from_eigenvalues([1.0, 100.0])).save(file)
    >>> load(file)
    Tuning(heavy-ball: lr 0.0203035, momentum 0.9, rate 0.9487)
    """
    content = refuse_other(path, peek(path), *_RESULTS)
    module, name = _RESULTS[_kind(content)]
    kind: type[Result] = getattr(importlib.import_module(module), name)
    return kind.load(path) if content["kind"] == LOG else from_file(kind, path, content)


def _kind(content: dict[str, Any]) -> str:
    """The kind of a file; a spectrum's by what it holds, since all its forms are saved as one."""
    kind = str(content["kind"])
    if kind != "spectrum":
        return kind
    return "density" if content.get("covers") == "density" else "measurement" if content.get("residuals") else kind
