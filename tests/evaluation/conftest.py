import pytest

from evaluation.readers import Oracle
from infini_attention.data.haystack import Haystack
from infini_attention.data.vocabulary import byte_tokenizer
from infini_attention.evaluation.stream import Subject


@pytest.fixture(scope="session")
def tokenizer():
    return byte_tokenizer()


@pytest.fixture(scope="session")
def filler(tokenizer):
    return Haystack.repeat(tokenizer)


@pytest.fixture
def subject():
    """`subject(Reader)`: it as the one that is tested, and the log of all its streams."""

    def subject(reader=Oracle, fingerprint="of-the-stub"):
        log = []
        return Subject(lambda: reader(64, None, log), 64, {"fingerprint": fingerprint, "rule": "stub"}), log

    return subject
