"""Short English words that are put together to keys, such as `amber-harbor`."""

import random

_ADJECTIVES = """
able agile amber ancient angry arctic autumn bitter blank bold brave brief bright brisk broken calm careful cheap chilly
clean clever cloudy coarse common cosmic crimson crisp curious daily damp dark dear deep dim distant dusty eager early
elder empty endless equal exact faint fair famous fancy fierce final firm flat foggy frank fresh frozen gentle giant
glad golden grand grave green happy hasty hidden hollow honest humble idle inner ivory jolly keen kind lasting lazy
level light little lively lonely loud loyal lucky mellow merry mild misty modest muddy narrow neat noble noisy odd open
orange outer pale patient plain polite proud pure purple quick quiet rapid rare ready rough round royal rustic sacred
salty sandy scarlet secret serious shady sharp shiny silent silver simple sleepy slow smooth sober soft solid steady
steep sturdy subtle sudden sunny swift tall tame tender thin tidy tiny upper urban useful vague vast velvet vivid warm
weary wide wild windy wise wooden young
"""
_NOUNS = """
acorn anchor apple apron arrow badge bamboo banner barley barrel basin basket beacon beetle bench blanket blossom bottle
boulder branch breeze bridge brook brush bucket button cabin camel candle canoe canyon carpet castle cavern cedar chain
chapel cherry chimney cider circle cliff clock clover coast coffee collar comet copper coral corner cottage cradle crane
crater cricket crown crystal curtain dagger dairy desert dolphin donkey dragon drawer eagle easel ember engine falcon
feather fence ferry fiddle flame flute forest forge fossil fountain garden garlic garment glacier goblet granite grove
hammer harbor harvest hazel helmet heron hill honey island jacket jewel kettle kitten ladder lagoon lantern laurel
lemon lever lily linen locket lumber mantle maple marble market meadow melon mill mirror monkey needle oasis ocean olive
onion orchard otter oyster paddle palace panther parcel parrot pasture pebble pepper piano pigeon pillow planet plum
pocket pony powder prairie pulley puppet quarry rabbit radish raven ribbon river rocket saddle sailor salmon satchel
scarf shelf shovel signal sparrow spoon statue stone summit temple thistle thunder timber tower trumpet tulip tunnel
turtle valley violin wagon walnut willow window winter yarn zebra
"""

ADJECTIVES = tuple(_ADJECTIVES.split())
NOUNS = tuple(_NOUNS.split())
WORD_KEYS = len(ADJECTIVES) * len(NOUNS)  # so many different ones there are


def word_keys(count: int, rng: random.Random) -> list[str]:
    """So many different keys, each an adjective and a noun; all pairs are equally likely."""
    pairs = rng.sample(range(WORD_KEYS), count)
    return [f"{ADJECTIVES[pair // len(NOUNS)]}-{NOUNS[pair % len(NOUNS)]}" for pair in pairs]
