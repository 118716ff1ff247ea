"""Little stories with a question, simulated: the first five tasks of bAbI (Weston et al. 2015, arXiv 1502.05698).

qa1: where a person is. qa2: where a thing is that people carry about. qa3: where it was before. qa4: which place lies
in a direction of another one. qa5: who gave what to whom. Sentences and questions have bAbI's wording; the people,
places and things of `held-out` are none of those of `seen`.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

MOVES = ("went to", "moved to", "journeyed to", "travelled to")
GRABS = ("picked up", "got", "grabbed", "took")
DROPS = ("dropped", "discarded", "left", "put down")
GIVES = ("gave", "handed", "passed")
OPPOSITE = {"north": "south", "south": "north", "east": "west", "west": "east"}
CAST = 4  # people of a story


@dataclass(frozen=True)
class Words:
    """What stories are told with; no word is a part of another one, so that each can be found in an answer."""

    people: tuple[str, ...]
    places: tuple[str, ...]
    things: tuple[str, ...]


SPLITS = {
    "seen": Words(
        ("Mary", "John", "Sandra", "Daniel", "Fred", "Bill", "Jeff", "Julie"),
        ("bathroom", "bedroom", "garden", "hallway", "kitchen", "office"),
        ("apple", "cake", "football", "milk"),
    ),
    "held-out": Words(
        ("Fiona", "Gordon", "Hazel", "Milo", "Olga", "Percy", "Stella", "Wanda"),
        ("attic", "balcony", "cellar", "garage", "library", "nursery"),
        ("hammer", "lantern", "letter", "ribbon"),
    ),
}


@dataclass(frozen=True)
class Story:
    """Sentences and what they tell.

    Attributes:
        facts: sentences, in order.
        question: one about them.
        answer: a single word.
        support: the number of the last sentence that the answer hangs on.
        labels: words that an answer may be.
    """

    facts: tuple[str, ...]
    question: str
    answer: str
    support: int
    labels: tuple[str, ...]


@dataclass
class _World:
    """Where everybody and everything is, and the sentences that say so."""

    words: Words
    rng: random.Random
    facts: list[str] = field(default_factory=list)
    where: dict[str, str] = field(default_factory=dict)  # people
    moved: dict[str, int] = field(default_factory=dict)  # the sentence that says so
    carriers: dict[str, str] = field(default_factory=dict)  # things that somebody has
    trails: dict[str, list[tuple[str, int]]] = field(default_factory=dict)  # places of a thing, with their sentences
    told: dict[str, int] = field(default_factory=dict)  # the last sentence about a thing itself
    gifts: list[tuple[str, str, str, int]] = field(default_factory=list)  # giver, thing, receiver, sentence

    def __post_init__(self) -> None:
        self.people = self.rng.sample(self.words.people, CAST)

    def say(self, sentence: str) -> int:
        self.facts.append(sentence)
        return len(self.facts) - 1

    def move(self) -> None:
        person = self.rng.choice(self.people)
        place = self.rng.choice([place for place in self.words.places if place != self.where.get(person)])
        self.moved[person] = self.say(f"{person} {self.rng.choice(MOVES)} the {place}.")
        self.where[person] = place
        for thing in self._carried(person):
            self.trails[thing].append((place, self.moved[person]))

    def grab(self) -> None:
        """Somebody takes what lies where they are, or what nobody has heard of."""
        within_reach = [
            (person, thing)
            for person in self.people
            for thing in self.words.things
            if person in self.where
            and thing not in self.carriers
            and (thing not in self.trails or self.trails[thing][-1][0] == self.where[person])
        ]
        if within_reach:
            person, thing = self.rng.choice(within_reach)
            self.carriers[thing] = person
            self.told[thing] = self.say(f"{person} {self.rng.choice(GRABS)} the {thing}.")
            self.trails.setdefault(thing, [(self.where[person], self.told[thing])])

    def drop(self) -> None:
        if self.carriers:
            thing = self.rng.choice(sorted(self.carriers))
            self.told[thing] = self.say(f"{self.carriers.pop(thing)} {self.rng.choice(DROPS)} the {thing}.")

    def give(self) -> None:
        """From hand to hand; where they are does not matter."""
        thing = self.rng.choice(self.words.things)
        if thing not in self.carriers and thing in self.told:
            return  # somebody dropped it
        giver = self.carriers.get(thing) or self.rng.choice(self.people)
        receiver = self.rng.choice([person for person in self.people if person != giver])
        place = self.say(f"{giver} {self.rng.choice(GIVES)} the {thing} to {receiver}.")
        self.carriers[thing] = receiver
        self.gifts.append((giver, thing, receiver, place))

    def _carried(self, person: str) -> list[str]:
        """Things whose place is known; what was only given may have been anywhere."""
        return [thing for thing, carrier in self.carriers.items() if carrier == person and thing in self.trails]


def _person(words: Words, rng: random.Random) -> Story | None:
    world = _World(words, rng)
    for _ in range(rng.randint(2, 10)):
        world.move()
    person = rng.choice(sorted(world.where))
    return _story(world, f"Where is {person}?", world.where[person], world.moved[person])


def _carry(words: Words, rng: random.Random, steps: tuple[int, int]) -> _World:
    world = _World(words, rng)
    for _ in range(rng.randint(*steps)):
        rng.choices((world.move, world.grab, world.drop), (6, 3, 1))[0]()
    return world


def _thing(words: Words, rng: random.Random) -> Story | None:
    world = _carry(words, rng, (4, 20))
    if not world.trails:
        return None
    thing = rng.choice(sorted(world.trails))
    place, since = world.trails[thing][-1]
    return _story(world, f"Where is the {thing}?", place, max(since, world.told[thing]))


def _thing_before(words: Words, rng: random.Random) -> Story | None:
    world = _carry(words, rng, (8, 40))
    far = sorted(thing for thing, trail in world.trails.items() if len(trail) > 1)
    if not far:
        return None
    thing = rng.choice(far)
    trail = world.trails[thing]
    asked = rng.choice(sorted({place for place, _ in trail[1:]}))
    at = max(number for number, (place, _) in enumerate(trail) if place == asked)  # the last time that it was there
    before, since = trail[at - 1][0], trail[at][1]
    return _story(world, f"Where was the {thing} before the {asked}?", before, max(since, world.told[thing]))


def _direction(words: Words, rng: random.Random) -> Story | None:
    world = _World(words, rng)
    middle, *others = rng.sample(words.places, 3)
    ways = dict(zip(others, rng.sample(sorted(OPPOSITE), 2), strict=True))
    said = {}
    for place, way in ways.items():
        turned = f"The {middle} is {OPPOSITE[way]} of the {place}."
        said[place] = world.say(rng.choice((f"The {place} is {way} of the {middle}.", turned)))
    answer = rng.choice(others)
    way = ways[answer]
    question = rng.choice((f"What is {way} of the {middle}?", f"What is the {middle} {OPPOSITE[way]} of?"))
    return _story(world, question, answer, said[answer])


def _gift(words: Words, rng: random.Random) -> Story | None:
    world = _World(words, rng)
    for _ in range(rng.randint(5, 15)):
        rng.choices((world.move, world.grab, world.drop, world.give), (4, 1, 1, 4))[0]()
    if not world.gifts:
        return None
    giver, thing, receiver, _ = rng.choice(world.gifts)
    # What is asked, which of the three is the answer, and which of them the question names.
    forms: tuple[tuple[str, int, tuple[int, ...]], ...] = (
        (f"Who gave the {thing} to {receiver}?", 0, (1, 2)),
        (f"Who gave the {thing}?", 0, (1,)),
        (f"What did {giver} give to {receiver}?", 1, (0, 2)),
        (f"Who received the {thing}?", 2, (1,)),
        (f"Who did {giver} give the {thing} to?", 2, (0, 1)),
    )
    question, asked, named = rng.choice(forms)
    known = (giver, thing, receiver)
    fits = [gift for gift in world.gifts if all(gift[at] == known[at] for at in named)]
    latest = fits[-1]
    answers = (latest[0], latest[1], latest[2])
    return _story(world, question, answers[asked], latest[3], labels=(*words.people, *words.things))


def _story(world: _World, question: str, answer: str, support: int, labels: Sequence[str] = ()) -> Story:
    return Story(tuple(world.facts), question, answer, support, tuple(labels) or world.words.places)


TASKS: dict[str, Callable[[Words, random.Random], Story | None]] = {
    "qa1": _person,
    "qa2": _thing,
    "qa3": _thing_before,
    "qa4": _direction,
    "qa5": _gift,
}


def draw_story(task: str, words: Words, rng: random.Random) -> Story:
    """A story of one of `TASKS`; what is asked is the latest of what fits, and can be told from the sentences."""
    while (story := TASKS[task](words, rng)) is None:
        pass
    return story
