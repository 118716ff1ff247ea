"""Snapshots: save, load, continue = never saved, also in another process; damaged and foreign files are refused."""

import errno
import hashlib
import json
import os
import random
import re
import struct
import subprocess
import sys
import tracemalloc
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from helpers import tensors_of
from infini_attention.errors import SnapshotError
from infini_attention.models.fingerprint import fingerprint
from infini_attention.models.states import empty_states
from infini_attention.sessions import Session, read_header
from infini_attention.sessions.migrations import MIGRATIONS
from infini_attention.sessions.snapshot_file import VERSION, load_snapshot
from streams import assert_equal
from tiny import SEGMENT, VOCABULARY, book, byte_tokenizer, infini_model, new_session, save_model

FIRST, SECOND = book(3000)[:1500], book(3000)[1500:]

GO_ON = """
import sys
import torch
from infini_attention.models import load_model, load_tokenizer
from infini_attention.sessions import Session

folder, before, after, text = sys.argv[1:]
torch.set_num_threads(1)
session = Session.load(before, load_model(folder), load_tokenizer(folder))
session.read(text)
session.save(after)
"""


def file_of(session, path):
    session.save(path)
    return path


def assert_same_content(out, ref):
    """Equal to the last bit; only the order in the file may differ."""
    with safe_open(out, framework="pt") as out_file, safe_open(ref, framework="pt") as ref_file:
        assert out_file.metadata() == ref_file.metadata()  # with the sha256 of all numbers
        assert sorted(out_file.keys()) == sorted(ref_file.keys())
        for name in ref_file.keys():  # noqa: SIM118 - a file, not a dict
            assert torch.equal(out_file.get_tensor(name), ref_file.get_tensor(name)), name


@pytest.fixture(scope="module")
def model():
    return infini_model()


@pytest.fixture
def snapshot(model, tmp_path):
    session = new_session(model)
    session.read(FIRST)
    return file_of(session, tmp_path / "session")


@pytest.fixture(scope="module")
def load(model):
    """Loads a snapshot: all that `Session.load` checks, and `load_snapshot` even where the fingerprint is another."""
    expected, tokenizer = empty_states(model), byte_tokenizer()

    def load(path):
        load_snapshot(path, expected, VOCABULARY)
        return Session.load(path, model, tokenizer)

    return load


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    """The bytes of a session file."""
    session = new_session(model)
    session.read(FIRST)
    return file_of(session, tmp_path_factory.mktemp("whole") / "session").read_bytes()


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzzed") / "session"


def tracked(content):
    """All that a file says: its header, in whatever form, and its numbers."""
    end = 8 + struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8:end])
    return header.pop("__metadata__"), header, content[end:]


def refusal(load, path):
    """The message of a refusal that took no more memory than such a file may."""
    tracemalloc.start()
    try:
        with pytest.raises(SnapshotError) as refused:
            load(path)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    return str(refused.value)


class TestGoingOn:
    @pytest.mark.slow
    @pytest.mark.parametrize("rule", ["delta", "gated_delta"])
    def test_in_a_new_process_is_bit_equal_to_never_saved(self, rule, tmp_path):
        folder = save_model(tmp_path / "model", infini_model(rule=rule))
        session = new_session(infini_model(rule=rule))
        session.read(FIRST)
        before, after = file_of(session, tmp_path / "before"), tmp_path / "after"
        subprocess.run([sys.executable, "-c", GO_ON, folder, before, after, SECOND], check=True)
        session.read(SECOND)
        assert_same_content(after, file_of(session, tmp_path / "never"))

    def test_a_loaded_session_stands_where_it_was_saved(self, model, snapshot, load):
        session = new_session(model)
        session.read(FIRST)
        loaded = load(snapshot)
        assert (loaded.stats, loaded.name, loaded.position.digest) == (session.stats, "tiny", session.position.digest)
        assert torch.equal(loaded.position.logits, session.position.logits)
        for out, ref in zip(loaded.cache.states, session.cache.states, strict=True):
            assert all(torch.equal(tensor, tensors_of(ref)[name]) for name, tensor in tensors_of(out).items())
        assert loaded.generate(" And", max_new_tokens=20) == session.generate(" And", max_new_tokens=20)

    def test_saving_again_gives_the_same_file(self, snapshot, load, tmp_path):
        assert_same_content(file_of(load(snapshot), tmp_path / "again"), snapshot)

    def test_bfloat16(self, tmp_path):
        model = infini_model().bfloat16()
        session = new_session(model)
        session.read(FIRST)
        loaded = Session.load(file_of(session, tmp_path / "session"), model, byte_tokenizer())
        loaded.read(SECOND)
        session.read(SECOND)
        assert torch.equal(loaded.position.logits, session.position.logits)

    def test_the_header_alone(self, snapshot):
        header = read_header(snapshot)
        assert (header.model, header.stats.tokens_read) == ("tiny", len(FIRST.encode()))
        assert header.settings["segment_size"] == 16

    @pytest.mark.parametrize("count", [SEGMENT, 3 * SEGMENT, 3 * SEGMENT + 5])
    @pytest.mark.parametrize("rule", ["linear", "delta", "gated_delta", "none"])
    def test_only_what_is_in_use_is_written(self, rule, count, tmp_path):
        model = infini_model(rule=rule)
        session = new_session(model)
        session.read(FIRST, max_tokens=count)
        loaded = Session.load(file_of(session, tmp_path / "session"), model, byte_tokenizer())
        assert_equal(loaded, session)
        assert loaded.state_bytes == session.state_bytes
        with safe_open(tmp_path / "session", framework="pt") as file:
            assert file.get_slice("layers.0.keys").get_shape()[1] == count % SEGMENT
            assert ("layers.0.running.matrix" in set(file.keys())) == (count % SEGMENT > 0)

    def test_the_same_session_gives_the_same_bytes(self, snapshot, load, tmp_path):
        assert file_of(load(snapshot), tmp_path / "again").read_bytes() == snapshot.read_bytes()


def save_version_1(session, path):
    """As files of version 1 were: the whole segment, used or not, and the tokens that each layer has seen."""
    tensors = {"logits": session.position.logits}
    for layer, state in enumerate(session.cache.states):
        named = {"keys": state.keys, "values": state.values, "tokens_seen": state.tokens_seen}
        for name, memory in (("committed", state.committed), ("running", state.running)):
            named[f"{name}.matrix"] = memory.matrix
            if memory.normalizer is not None:
                named[f"{name}.normalizer"] = memory.normalizer
        tensors |= {f"layers.{layer}.{name}": tensor.clone() for name, tensor in named.items()}
    entries = {
        "model": "tiny",
        "fingerprint": fingerprint(session.model),
        "settings": session.model.config.infini,
        "stats": vars(session.stats),
        "digest_chain": session.position.digest.chain,
        "digest_pending": list(session.position.digest.pending),
    }
    header = json.dumps(entries)
    digest = hashlib.sha256(header.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    metadata = {"format": "infini-attention session", "version": "1", "header": header, "sha256": digest.hexdigest()}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata)


class TestMigrations:
    @pytest.mark.parametrize("count", [SEGMENT, 3 * SEGMENT + 5])
    @pytest.mark.parametrize("rule", ["linear", "delta", "gated_delta", "none"])
    def test_of_version_1(self, rule, count, tmp_path):
        model = infini_model(rule=rule)
        session = new_session(model)
        session.read(FIRST, max_tokens=count)
        save_version_1(session, tmp_path / "old")
        assert (read_header(tmp_path / "old").dtype, read_header(tmp_path / "old").turns) == ("unknown", 0)
        loaded = Session.load(tmp_path / "old", model, byte_tokenizer())
        assert_equal(loaded, session)
        loaded.save(tmp_path / "new")
        assert_equal(Session.load(tmp_path / "new", model, byte_tokenizer()), session)
        assert read_header(tmp_path / "new").dtype == "float32"

    def test_layers_that_have_seen_something_else(self, model, tmp_path):
        session = new_session(model)
        session.read(FIRST)
        state = session.cache.layers[1].state
        session.cache.layers[1].state = replace(state, tokens_seen=state.tokens_seen + 1)
        save_version_1(session, tmp_path / "old")
        with pytest.raises(SnapshotError, match="its layers have not seen the 1500 tokens"):
            Session.load(tmp_path / "old", model, byte_tokenizer())

    def test_each_version_leads_to_the_next(self):
        assert list(MIGRATIONS) == list(range(1, VERSION))
        assert len({migration.name for migration in MIGRATIONS.values()}) == len(MIGRATIONS)


MUTATIONS = st.lists(
    st.tuples(
        st.sampled_from(["flip", "cut", "insert", "remove", "double", "number"]),
        st.floats(0, 1),
        st.integers(0, 255),
        st.integers(1, 64),
    ),
    min_size=1,
    max_size=4,
)


def mutated(content, mutations):
    """What a hostile hand or a bad disk makes of a file."""
    for kind, where, byte, size in mutations:
        index = int(where * (len(content) - 1))
        if kind == "flip":
            content = content[:index] + bytes([content[index] ^ (byte or 1)]) + content[index + 1 :]
        elif kind == "cut":
            content = content[: max(1, index)]
        elif kind == "insert":
            content = content[:index] + bytes([byte]) * size + content[index:]
        elif kind == "remove":
            content = content[:index] + content[index + size :] or b"a"
        elif kind == "double":
            content = content[:index] + content[index : index + size] + content[index:]
        else:  # another number, perhaps a giant one, where the header has one
            end = 8 + struct.unpack("<Q", content[:8])[0] if len(content) > 8 else 0
            found = [*re.finditer(rb"\d+", content[8:end])]
            if found:
                span = found[int(where * (len(found) - 1))].span()
                number = str(byte << size).encode()
                content = content[: 8 + span[0]] + number + content[8 + span[1] :]
    return content


class TestRefused:
    @settings(max_examples=300)
    @given(mutations=MUTATIONS)
    def test_whatever_is_changed(self, whole, fuzzed, load, mutations):
        """Refused without taking memory, or what was changed says nothing."""
        content = mutated(whole, mutations)
        fuzzed.write_bytes(content)
        tracemalloc.start()
        try:
            loaded = load(fuzzed)
        except SnapshotError:
            assert tracemalloc.get_traced_memory()[1] < 4 << 20
            return
        finally:
            tracemalloc.stop()
        out, ref = tracked(content), tracked(whole)
        assert out == ref
        assert loaded.stats.tokens_read == len(FIRST.encode())

    @pytest.mark.parametrize("name", ["a\0b", "x" * 300, "a/../../b", "missing/session"])
    def test_paths_that_cannot_be(self, model, load, tmp_path, name):
        with pytest.raises(SnapshotError):
            load(tmp_path / name)
        session = new_session(model)
        session.read(FIRST[:50])
        with pytest.raises(SnapshotError, match="could not be written"):
            session.save(tmp_path / name)

    def test_pipes_and_links(self, snapshot, load, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        assert "no such session file" in refusal(load, tmp_path / "pipe")
        (tmp_path / "loop").symlink_to(tmp_path / "loop")
        refusal(load, tmp_path / "loop")
        (tmp_path / "link").symlink_to(snapshot)
        assert load(tmp_path / "link").stats.tokens_read == len(FIRST.encode())

    def test_another_models_snapshot(self, snapshot):
        with pytest.raises(SnapshotError, match=r"another model \(tiny\)"):
            Session.load(snapshot, infini_model(seed=1), byte_tokenizer())

    @pytest.mark.parametrize("options", [{"layers": 3}, {"width": 16}, {"rule": "delta"}])
    def test_a_model_of_another_shape(self, snapshot, options):
        with pytest.raises(SnapshotError, match="the model it was made with"):
            load_snapshot(snapshot, empty_states(infini_model(**options)), VOCABULARY)

    def test_a_missing_file(self, load, tmp_path):
        assert "no such session file" in refusal(load, tmp_path / "missing")

    def test_a_directory(self, load, tmp_path):
        assert "no such session file" in refusal(load, tmp_path)

    def test_a_foreign_file(self, load, tmp_path):
        save_file({"x": torch.zeros(3)}, tmp_path / "foreign")
        refusal(load, tmp_path / "foreign")
        with pytest.raises(SnapshotError, match="not a session file"):
            read_header(tmp_path / "foreign")

    @pytest.mark.parametrize("content", [b"", b"a", b"text, and no tensors at all", bytes(100), b"\xff" * 100])
    def test_no_snapshot_at_all(self, load, tmp_path, content):
        (tmp_path / "garbage").write_bytes(content)
        refusal(load, tmp_path / "garbage")

    def test_cut_short_anywhere(self, snapshot, load):
        content = snapshot.read_bytes()
        header = 8 + struct.unpack("<Q", content[:8])[0]
        for length in {*range(12), *range(12, len(content), 701), header - 1, header, header + 1, len(content) - 1}:
            snapshot.write_bytes(content[:length])
            refusal(load, snapshot)

    def test_something_appended(self, snapshot, load):
        snapshot.write_bytes(snapshot.read_bytes() + b"\0")
        refusal(load, snapshot)

    def test_one_flipped_bit(self, snapshot, load):
        """Wherever it is: in the length, in the header, in a tensor."""
        content, chance = snapshot.read_bytes(), random.Random(0)
        header = 8 + struct.unpack("<Q", content[:8])[0]
        inside = [chance.randrange(8, header) for _ in range(300)]
        unused = content[:header].rstrip()  # the header is padded with spaces, which say nothing
        inside = [index for index in inside if index < len(unused)]
        for index in (*range(8), *inside, *(chance.randrange(header, len(content)) for _ in range(30))):
            flipped = bytearray(content)
            flipped[index] ^= 1 << chance.randrange(8)
            snapshot.write_bytes(flipped)
            refusal(load, snapshot)

    @pytest.mark.parametrize("shape", [[2**40], [2**62, 2**62], [-1], [0], "16", None])
    def test_impossible_dimensions(self, snapshot, load, shape):
        edit(snapshot, lambda header: header["layers.0.keys"].update(shape=shape))
        refusal(load, snapshot)

    def test_giant_tensors_that_the_file_does_hold(self, model, snapshot, load, tmp_path):
        """A sparse file of a terabyte: the shapes are compared before anything is read."""
        size = 1 << 40
        header = {"logits": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}
        encoded = json.dumps(header).encode()
        giant = tmp_path / "giant"
        with giant.open("wb") as file:
            file.write(struct.pack("<Q", len(encoded)) + encoded)
            file.truncate(8 + len(encoded) + size)
        refusal(load, giant)

    def test_a_header_that_claims_to_be_giant(self, tmp_path, load):
        giant = tmp_path / "giant"
        with giant.open("wb") as file:
            file.write(struct.pack("<Q", 1 << 30))
            file.truncate(1 << 31)
        assert "is not a session file" in refusal(load, giant)

    @pytest.mark.parametrize("version", ["0", str(VERSION + 1), "", None])
    def test_another_version(self, snapshot, version):
        def change(header):
            header["__metadata__"].pop("version")
            if version is not None:
                header["__metadata__"]["version"] = version

        edit(snapshot, change)
        with pytest.raises(SnapshotError, match=f"has version .*, this program reads versions 1 to {VERSION}"):
            read_header(snapshot)

    @pytest.mark.parametrize(
        "change",
        [
            "no json",
            "[]",
            "null",
            "[" * 100_000,
            {"stats": None},
            {"stats": {"tokens_read": "3"}},
            {"stats": {"tokens_read": -1}},
            {"stats": {"tokens_read": 10**400}},
            {"stats": {"nats": float("nan")}},
            {"stats": {"unknown": 1}},
            {"model": 3},
            {"fingerprint": None},
            {"settings": []},
            {"digest_chain": 0},
            {"digest_pending": ["a"]},
            {"digest_pending": [-1]},
            {"unknown": 1},
        ],
        ids=lambda change: str(change)[:40],
    )
    def test_a_header_that_makes_no_sense(self, snapshot, change):
        def damage(header):
            entries = header["__metadata__"]
            text = change if isinstance(change, str) else json.dumps(json.loads(entries["header"]) | change)
            entries["header"] = text

        edit(snapshot, damage)
        with pytest.raises(SnapshotError, match="its header is damaged"):
            read_header(snapshot)


def edit(path, change):
    """Changes the safetensors header of a file in place."""
    content = path.read_bytes()
    end = 8 + struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8:end])
    change(header)
    encoded = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + content[end:])


class TestWriting:
    @pytest.fixture
    def session(self, model):
        session = new_session(model)
        session.read(FIRST)
        return session

    @pytest.fixture(params=["fsync", "replace"])
    def full_disk(self, request, monkeypatch):
        def full(*args, **kwargs):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, request.param, full)

    def test_a_full_disk_leaves_nothing(self, session, tmp_path, full_disk):
        with pytest.raises(SnapshotError, match="No space left on device"):
            session.save(tmp_path / "session")
        assert list(tmp_path.iterdir()) == []

    def test_a_full_disk_leaves_the_file_that_was_there(self, session, tmp_path, full_disk):
        (tmp_path / "session").write_text("precious")
        with pytest.raises(SnapshotError, match="nothing was changed"):
            session.save(tmp_path / "session")
        assert [path.read_text() for path in tmp_path.iterdir()] == ["precious"]

    def test_an_interrupt_leaves_nothing(self, session, tmp_path, monkeypatch):
        def interrupt(descriptor):
            raise KeyboardInterrupt

        monkeypatch.setattr(os, "fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            session.save(tmp_path / "session")
        assert list(tmp_path.iterdir()) == []

    def test_a_missing_folder(self, session, tmp_path):
        with pytest.raises(SnapshotError, match="No such file or directory"):
            session.save(tmp_path / "missing" / "session")

    def test_nothing_read_is_nothing_to_save(self, model, tmp_path):
        with pytest.raises(SnapshotError, match="nothing to save"):
            new_session(model).save(tmp_path / "session")

    def test_it_replaces_an_older_one(self, session, model, tmp_path):
        path = file_of(session, tmp_path / "session")
        session.read(SECOND)
        session.save(path)
        assert read_header(path).stats == session.stats
        assert list(tmp_path.iterdir()) == [path]
