"""Answers questions about stories from their sentences alone: what the simulator is checked with."""

import re

FACT = re.compile(
    r"The (?P<a>\w+) is (?P<way>north|south|east|west) of the (?P<b>\w+)\.|"
    r"(?P<giver>\w+) (?:gave|handed|passed) the (?P<gift>\w+) to (?P<receiver>\w+)\.|"
    r"(?P<mover>\w+) (?:went|moved|journeyed|travelled) to the (?P<place>\w+)\.|"
    r"(?P<taker>\w+) (?:picked up|got|grabbed|took) the (?P<taken>\w+)\.|"
    r"(?P<dropper>\w+) (?:dropped|discarded|left|put down) the (?P<dropped>\w+)\."
)
BACK = {"north": "south", "south": "north", "east": "west", "west": "east"}


def facts_in(text):
    """All facts that a text states, in order."""
    return [{name: word for name, word in found.groupdict().items() if word} for found in FACT.finditer(text)]


def solve(text, question):
    """The answer to one of the simulator's questions; "" where the text does not tell."""
    facts = facts_in(text)
    for form, answer in FORMS:
        asked = re.fullmatch(form, question)
        if asked:
            return answer(facts, *asked.groups())
    raise ValueError(question)


def _person(facts, who):
    return next((fact["place"] for fact in reversed(facts) if fact.get("mover") == who), "")


def _trail(facts, thing):
    """The places that a thing has been to, as far as the text tells."""
    where, carrier, trail = {}, None, []
    for fact in facts:
        where |= {fact["mover"]: fact["place"]} if "mover" in fact else {}
        if fact.get("taken") == thing:
            carrier = fact["taker"]
        elif fact.get("dropped") == thing:
            carrier = None
        place = where.get(carrier)
        if place is not None and trail[-1:] != [place]:
            trail.append(place)
    return trail


def _thing(facts, thing):
    return (_trail(facts, thing) or [""])[-1]


def _before(facts, thing, place):
    trail = _trail(facts, thing)
    return next((trail[at - 1] for at in range(len(trail) - 1, 0, -1) if trail[at] == place), "")


def _lies(facts, way, place):
    for fact in facts:
        if fact.get("b") == place and fact["way"] == way:
            return fact["a"]
        if fact.get("a") == place and fact["way"] == BACK[way]:
            return fact["b"]
    return ""


def _gift(want, **known):
    def answer(facts, *words):
        told = dict(zip(known, words, strict=True))
        fits = [fact for fact in facts if "gift" in fact and all(fact[name] == word for name, word in told.items())]
        return fits[-1][want] if fits else ""

    return answer


FORMS = (
    (r"What is (\w+) of the (\w+)\?", _lies),
    (r"What is the (\w+) (\w+) of\?", lambda facts, place, way: _lies(facts, BACK[way], place)),
    (r"Where was the (\w+) before the (\w+)\?", _before),
    (r"Where is the (\w+)\?", _thing),
    (r"Where is (\w+)\?", _person),
    (r"Who gave the (\w+) to (\w+)\?", _gift("giver", gift=0, receiver=1)),
    (r"Who gave the (\w+)\?", _gift("giver", gift=0)),
    (r"What did (\w+) give to (\w+)\?", _gift("gift", giver=0, receiver=1)),
    (r"Who received the (\w+)\?", _gift("receiver", gift=0)),
    (r"Who did (\w+) give the (\w+) to\?", _gift("receiver", giver=0, gift=1)),
)
