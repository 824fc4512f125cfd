"""The plots of the stories.

A plot is a text, a list of alternatives, or a tuple of parts told in order; world.py explains the
facts that its lines need and set, and grammar.py the braces. The names in them: h is the hero (a
name), k a trade and t its tool, f a friend, e an elder (honorific); a, b, c and s are animals; x is
a thing. d means h and f, he means h and e, ab and ca mean two animals. v is a village, p and forest
are places. `e.one` is an elder without the honorific, and `h.many` agrees with the perfective of
तुम: तुम रुकीं.
"""

from nano_hindi.sample.animals import GREED, PRIDE, WINTER_STORE
from nano_hindi.sample.children import CONTEST, EXPERIMENT, FAIR, LOST_CHILD, QUARREL, RIDDLE, SAPLING, TRUTH
from nano_hindi.sample.feasts import FEASTS
from nano_hindi.sample.home import CAGE, LAMPS, MEDICINE, READING, SCALES, STORM
from nano_hindi.sample.school import SCHOOL
from nano_hindi.sample.town import TOWN
from nano_hindi.sample.village import DROUGHT, GUEST, LOST_TOOL, RESCUE
from nano_hindi.sample.work import WORK

PLOTS = (
    LOST_TOOL,
    RESCUE,
    DROUGHT,
    GUEST,
    GREED,
    PRIDE,
    WINTER_STORE,
    FAIR,
    CONTEST,
    EXPERIMENT,
    TRUTH,
    QUARREL,
    SAPLING,
    LOST_CHILD,
    RIDDLE,
    STORM,
    READING,
    LAMPS,
    MEDICINE,
    CAGE,
    SCALES,
    *WORK,
    *FEASTS,
    *SCHOOL,
    *TOWN,
)
