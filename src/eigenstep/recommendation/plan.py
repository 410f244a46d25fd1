"""The numbers of the search, each with its reason."""

# Of the budget of steps, for 1,000: trials of 20 steps find the edge; 6 candidates, a factor 2 apart, are run for 40
# steps, and of the 4 around their best those that lower the loss for about 150, as long as what is left allows: so is
# the answer itself at last. Chosen on the development tasks of benchmarks/advice, where plans that cut more often,
# after fewer steps, lost .03 of the score: after 40 updates every lr within a factor 4 of the best looks alike.
TRIAL, FIRST = 0.02, 0.04
CANDIDATES, FINALISTS = 6, (1, 0, -1)  # the latter in steps from the best of the former
FAST_FIRST, FAST_CANDIDATES, FAST_FINALISTS = 0.06, 3, (0, -1)
SPACING = 2.0
ABOVE = 4.0  # candidates begin this far above the best trial, or at the edge
# Of the whole fall, in the log loss: a finalist that lies so far from the best counts 1 / e in the answer, since a lead
# of less is noise; and the answer stays MARGIN below their middle, since too high costs more than too low.
FLAT, MARGIN = 0.01, 2**0.5
# A falling lr lets its peak lie above the best constant one: in full where the schedule's mean is half of its peak, as
# a cosine's. So measured on the development tasks, the margin included; methods that do not adapt diverge sooner above.
# Squeezed schedules misled there: they stay too short a time at their peak.
LIFT_ADAPTIVE, LIFT = 2.4, 1.7
LOOKS = 5  # at the loss, in a run's second half; the last three count
FAR, FASTER = 10.0, 1.5  # sizes of the loss below 0, and how much more each look must fall than the one before it
SHORTEST = 10  # steps below which a verification says nothing: then a finalist, run itself from the start, stands
PACE = 3  # steps of the shortest run
TRIALS = 0.3  # the share of the budget that finding the edge may take
DECADES = 14.0  # how far from the first guess the edge is looked for
