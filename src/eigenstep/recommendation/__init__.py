"""Which lr to train with: rehearsed on copies, with an interval, a reason and the check that was run."""

from eigenstep.recommendation.recommend import recommend
from eigenstep.recommendation.result import Recommendation

__all__ = ["Recommendation", "recommend"]
