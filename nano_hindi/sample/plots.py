"""The plots of the stories, and whom each takes besides the people of every story.

A plot is a text, a list that offers a choice, or a tuple that is told in order; what stands in braces is explained in grammar.py. Who is who:
h the hero (a name), k a trade and t its tool, f a friend, e an elder spoken of with respect; a, b, c and s animals; x a thing. d are h and f, he are
h and e, ab and ca two animals. v is a village, p and forest are places. `e.one` is how an elder speaks of himself.
"""

from nano_hindi.sample.animals import GREED, PRIDE, WINTER_STORE
from nano_hindi.sample.children import CONTEST, FAIR, LOST_CHILD, QUARREL, RIDDLE, SAPLING, TRUTH
from nano_hindi.sample.home import CAGE, LAMPS, MEDICINE, READING, SCALES, STORM
from nano_hindi.sample.village import DROUGHT, GUEST, LOST_TOOL, RESCUE
from nano_hindi.sample.words import (
    BIRDS,
    CAGED,
    CONTESTS,
    DILIGENT,
    ELDERS,
    FINDS,
    FRAGILE,
    GIANTS,
    HUMBLE,
    LAZY,
    NESTERS,
    PREDATORS,
    RIDDLES,
    SQUIRREL,
    SWIMMERS,
    TEACHERS,
    THIEVES,
    TOYS,
    TREES,
    WILD,
)  # fmt: skip

PLOTS = (
    (LOST_TOOL, {"s": SWIMMERS}),
    (RESCUE, {"a": [*BIRDS, *WILD, SQUIRREL]}),
    (FAIR, {"x": TOYS}),
    (DROUGHT, {"e": ELDERS}),
    (CONTEST, {"e": TEACHERS, "contest": CONTESTS}),
    (TRUTH, {"x": FRAGILE}),
    (QUARREL, {"x": FINDS, "a": THIEVES}),
    (GREED, {"a": [*WILD, *PREDATORS, SQUIRREL], "b": [*WILD, *PREDATORS, SQUIRREL]}),
    (PRIDE, {"a": [*BIRDS, *WILD, *PREDATORS, *GIANTS], "c": HUMBLE}),
    (WINTER_STORE, {"c": DILIGENT, "a": LAZY}),
    (SAPLING, {"tree": TREES, "bird": NESTERS}),
    (GUEST, {}),
    (LOST_CHILD, {}),
    (RIDDLE, {"riddle": RIDDLES}),
    (STORM, {}),
    (READING, {}),
    (LAMPS, {}),
    (MEDICINE, {}),
    (CAGE, {"bird": CAGED}),
    (SCALES, {}),
)
