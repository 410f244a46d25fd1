"""What an optimizer will do on a model: a verdict in words, and every number that it rests on."""

from eigenstep.diagnosis.diagnose import diagnose
from eigenstep.diagnosis.result import Diagnosis

__all__ = ["Diagnosis", "diagnose"]
