"""First names for samples: those that training may use, and those that only tests use."""

import random

_TRAIN = """
Aaron Abigail Adam Adele Agnes Alan Albert Alexander Alfred Alice Amanda Amelia Amy Andrew Angela Anita Ann Anthony
Arnold Arthur Audrey Barbara Beatrice Benjamin Bernard Bertha Betty Brandon Brenda Brian Bridget Bruce Calvin Carl
Caroline Catherine Charles Charlotte Christopher Clara Clarence Claudia Clifford Colin Cynthia Daniel David Deborah
Dennis Diana Donald Doris Dorothy Douglas Edgar Edith Edmund Edward Eleanor Elizabeth Ellen Emily Emma Eric Ernest
Esther Ethel Eugene Evelyn Felix Florence Frances Francis Franklin Frederick Gabriel George Gerald Gilbert Gloria Grace
Gregory Hannah Harold Harriet Harry Harvey Helen Henry Herbert Howard Hugh Ida Irene Isaac Isabel Ivan Jack Jacob James
Janet Jasper Jean Jeffrey Jennifer Jeremy Jessica Joan John Jonathan Joseph Joshua Joyce Judith Julian June Karen
Katherine Keith Kenneth Kevin Laura Lawrence Leonard Leslie Lewis Lillian Linda Louis Louise Lucas Lucy Luke Lydia
Mabel Marcus Margaret Maria Marion Mark Martha Martin Mary Matthew Maurice Megan Melissa Michael Mildred Monica Nancy
Natalie Nathan Nicholas Nina Nora Norman Oliver Olivia Oscar Pamela Patricia Patrick Paul Peter Philip Phyllis
"""
_TEST = """
Ada Adrian Alma Anna Austin Ben Bella Blake Bruno Cecil Cora Curtis Cyril Daisy Damian Dora Duncan Dylan Elias Elsa
Ethan Eva Faith Fiona Flora Gavin Gina Gordon Greta Gwen Hazel Hector Heidi Hilda Hugo Iris Ivy Jane Jared Jill Jonas
Kate Kirk Lena Leo Liam Lois Lorna Mason Maud Max Mia Milo Mona Myra Neil Noah Olga Otto Owen Pearl Percy Quentin
Rachel Ralph Ray Rita Roland Rose Ruby Rufus Ruth Sam Sarah Scott Simon Stella Susan Theo Tina Toby Ursula Vera Victor
Wanda Wendy Xavier Yara Zoe
"""

TRAIN_NAMES = tuple(_TRAIN.split())
TEST_NAMES = tuple(_TEST.split())


def made_up_names(count: int, rng: random.Random) -> tuple[str, ...]:
    """Different names of two or three syllables, such as Keluvo: with few real ones, a model would learn the list."""
    names: dict[str, None] = {}  # in the order in which they were made
    while len(names) < count:
        syllables = (rng.choice("bcdfghjklmnprstvwz") + rng.choice("aeiou") for _ in range(rng.choice((2, 3))))
        name = ("".join(syllables) + rng.choice(("", "", "l", "n", "r", "s"))).capitalize()
        if name not in TEST_NAMES:
            names[name] = None
    return tuple(names)
