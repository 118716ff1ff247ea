"""Names: those of tests are none of training's."""

import random

from infini_attention.data.names import TEST_NAMES, TRAIN_NAMES, made_up_names


def test_no_name_of_the_tests_is_one_of_trainings():
    assert not set(TEST_NAMES) & {*TRAIN_NAMES, *made_up_names(2000, random.Random(0))}


def test_made_up_names_are_different_and_repeatable():
    names = made_up_names(2000, random.Random(0))  # of which one would be a name of the tests
    assert len(set(names)) == len(names) == 2000
    assert names == made_up_names(2000, random.Random(0))
    assert all(name.isalpha() and name.istitle() for name in names)
