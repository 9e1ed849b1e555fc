"""Many processes on one store at once: whatever the order in which they come, nothing is lost (P2, P5)."""

from tests.trials.races.copies import COPIES
from tests.trials.races.crowd import CROWD
from tests.trials.races.forced import FORCED
from tests.trials.races.interleavings import INTERLEAVINGS
from tests.trials.races.threads import THREADS

RECIPES = (CROWD, INTERLEAVINGS, FORCED, COPIES, THREADS)
