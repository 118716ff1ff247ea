"""What goes wrong around a store loses nothing that was acknowledged, and is told clearly."""

import contextlib
import errno
import json
import os
import random
import shutil
import stat
import subprocess
import sys
import tempfile
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from faults import as_nobody, small_files
from infini_attention.errors import InfiniError, SnapshotError, StoreError
from infini_attention.models import load_model
from infini_attention.models.tensor_file import replace_file
from infini_attention.sessions import Session, SessionStore, rebuild_store
from infini_attention.sessions.store import blobs, depot
from processes import environment
from streams import assert_equal
from tiny import book, byte_tokenizer, infini_model, new_session, save_model

TEXT = book(1200)

# One process that imports, and then forks workers that are killed: the imports are paid once.
WORKERS = """
import json, os, random, signal, sys, time
import torch
from infini_attention.models import load_model
from infini_attention.sessions import Session, SessionStore
from tiny import byte_tokenizer

mode, folder, where, acknowledged, count = sys.argv[1:]
torch.set_num_threads(1)
model, chance = load_model(folder), random.Random(0)

def work(number):
    chance = random.Random(number)
    store, session = SessionStore(where), Session(model, byte_tokenizer(), name="tiny")
    session.read_tokens([number, *range(100)])
    log = open(acknowledged, "a")
    for round_number in range(10**6 if mode == "kill" else 8):
        session.read_tokens([chance.randrange(256) for _ in range(chance.randrange(1, 30))])
        name = f"s{chance.randrange(3)}" if mode == "kill" else f"s{round_number % 3}"
        saved = store.save(name, session)
        entry = [name, saved.revision, saved.place.tokens_digest]
        if chance.random() < 0.3:
            fork = f"f{number}-{round_number}"
            store.fork(name, fork) if mode == "kill" else store.save(fork, session)
            entry += [fork]
        log.write(json.dumps(entry) + "\\n")
        log.flush()
        if mode != "kill":
            loaded = store.load(name, model, byte_tokenizer())
            assert loaded.dropped_tokens == 0
            if len(entry) > 3:
                store.delete(entry[3])

pids = []
for number in range(int(count)):
    written, end = os.path.getsize(acknowledged), time.monotonic() + 20
    pid = os.fork()
    if pid == 0:
        try:
            work(number)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    if mode == "kill":
        while number % 5 and os.path.getsize(acknowledged) == written and time.monotonic() < end:
            time.sleep(0.001)  # some are killed before their first save returns, most after it
        time.sleep(chance.random() * 0.2)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    else:
        pids.append(pid)
failed = [pid for pid in pids if os.waitpid(pid, 0)[1]]
sys.exit(len(failed))
"""


@pytest.fixture(scope="module")
def model():
    return infini_model()


@pytest.fixture
def session(model):
    session = new_session(model)
    session.read(TEXT[:300], chunk_size=40)
    return session


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def store(folder, session):
    """Holds `session` as `a`."""
    store = SessionStore(folder)
    store.save("a", session)
    yield store
    store.close()


def blobs_of(folder):
    return sorted(path for path in (folder / "parts").rglob("*") if path.is_file())


def run_workers(mode, tmp_path, count):
    """The lines that were acknowledged, oldest first."""
    model = save_model(tmp_path / "model", infini_model())
    log = tmp_path / "acknowledged"
    log.touch()
    arguments = [sys.executable, "-c", WORKERS, mode, model, tmp_path / "store", log, str(count)]
    done = subprocess.run([*map(str, arguments)], env=environment(), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    lines = log.read_text().splitlines(keepends=True)
    return load_model(model), [json.loads(line) for line in lines if line.endswith("\n")]


@pytest.mark.slow
class TestKilled:
    def test_nothing_that_was_acknowledged_is_lost(self, tmp_path, monkeypatch):
        model, acknowledged = run_workers("kill", tmp_path, 50)
        assert len(acknowledged) >= 40
        print(f"{len(acknowledged)} acknowledged saves in 50 processes that were killed")
        self.check(tmp_path / "store", model, acknowledged)
        # The same from the records alone, and after what was left behind is swept.
        store = SessionStore(tmp_path / "store")
        known = {(saved.name, saved.revision, saved.place) for saved in store.sessions()}
        monkeypatch.setattr(depot.time, "time", lambda time=depot.time.time: time() + 2 * depot.HOLD_SECONDS)
        store.sweep()
        used = {blob for saved in store.sessions() for blob in self.digests(store, saved)}
        assert {path.name for path in blobs_of(tmp_path / "store")} == used
        assert not list((tmp_path / "store").rglob("*.tmp"))
        store.close()
        assert rebuild_store(tmp_path / "store") == []
        assert {
            (saved.name, saved.revision, saved.place) for saved in SessionStore(tmp_path / "store").sessions()
        } == known
        self.check(tmp_path / "store", model, acknowledged)

    def check(self, folder, model, acknowledged):
        store, newest = SessionStore(folder), {}
        for name, revision, digest, *forks in acknowledged:
            newest[name] = max(newest.get(name, (0, "")), (revision, digest))
            for fork in forks:
                assert store.verify(fork).place.tokens_digest == digest
        for name, (revision, digest) in newest.items():
            saved = store.verify(name)
            assert saved.revision >= revision
            assert saved.revision > revision or saved.place.tokens_digest == digest
            loaded = store.load(name, model, byte_tokenizer())
            assert loaded.position.digest.hex == saved.place.tokens_digest
            loaded.generate("and", max_new_tokens=2)
        store.close()

    def digests(self, store, saved):
        for place in saved.places:
            yield place.manifest.digest
            yield from (blob.digest for blob in store._depot.manifest("", place).parts)

    def test_several_processes_at_once(self, tmp_path):
        model, acknowledged = run_workers("together", tmp_path, 6)
        assert len(acknowledged) == 6 * 8
        store = SessionStore(tmp_path / "store")
        assert {saved.name: saved.revision for saved in store.sessions()} == {"s0": 18, "s1": 18, "s2": 12}
        for name in ("s0", "s1", "s2"):
            store.verify(name)
            store.load(name, model, byte_tokenizer())


class TestFullDisk:
    @pytest.mark.parametrize("limit", [0, 100, 2000, 5000])
    def test_a_save_fails_whole(self, store, session, model, limit):
        before, going_on = store.get("a"), session.fork()
        going_on.read(TEXT[300:600])
        with small_files(limit), pytest.raises(StoreError, match="nothing that was stored is lost"):
            store.save("a", going_on)
        assert store.verify("a") == before
        assert_equal(store.load("a", model, session.tokenizer), session)
        store.save("a", going_on)
        assert_equal(store.load("a", model, session.tokenizer), going_on)

    def test_wherever_it_happens(self, store, session, monkeypatch):
        """The n-th file that a save writes is the one for which there is no room."""
        before = store.get("a")
        session.read(TEXT[300:600])
        for number in range(1, 20):
            left = iter(range(1, number))

            def full(*args, left=left):
                if next(left, None) is None:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                replace_file(*args)

            with monkeypatch.context() as patched:
                patched.setattr(blobs, "replace_file", full)
                try:
                    saved = store.save("a", session)
                except StoreError as error:
                    assert "No space left on device" in str(error)
                    assert store.verify("a") == before
                    continue
            break
        assert number > 4
        assert (saved.revision, store.verify("a")) == (2, saved)
        store.sweep()
        store.verify("a")

    def test_a_session_file(self, session, tmp_path):
        with small_files(1000), pytest.raises(SnapshotError, match="nothing was changed"):
            session.save(tmp_path / "session")
        assert list(tmp_path.iterdir()) == []


class TestReadOnly:
    @pytest.fixture
    def place(self):
        """A folder that others may look into: pytest's own are closed to them."""
        place = Path(tempfile.mkdtemp())
        place.chmod(0o755)
        yield place
        place.chmod(0o755)
        shutil.rmtree(place)

    def test_no_store_can_be_made(self, place):
        place.chmod(0o555)
        with as_nobody(), pytest.raises(StoreError, match=r"could not be made here \(Permission denied\)"):
            SessionStore(place / "store")

    def test_a_store_that_cannot_be_written(self, place, session):
        SessionStore(place).save("a", session)
        for path in (place, *place.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        with (
            as_nobody(),
            pytest.raises(StoreError, match=r"index.sqlite: the index could not be used .* can be written"),
        ):
            SessionStore(place).save("b", session)
        for path in (place, *place.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        SessionStore(place).verify("a")

    def test_a_session_file(self, place, session):
        place.chmod(0o555)
        with as_nobody(), pytest.raises(SnapshotError, match="Permission denied"):
            session.save(place / "session")
        with as_nobody(), pytest.raises(SnapshotError, match="no such session file"):
            Session.load(place / "session", session.model, session.tokenizer)

    def test_others_cannot_read_what_was_read(self, store, folder, session, tmp_path):
        session.save(tmp_path / "session")
        for path in (tmp_path / "session", folder, *folder.rglob("*")):
            private = path == folder or folder not in path.parents or path.is_dir() or path.parent != folder
            assert not (private and stat.S_IMODE(path.stat().st_mode) & 0o077), path


class TestDamagedIndex:
    @pytest.mark.parametrize("content", [b"", b"not a database" * 100, bytes(5000), "cut", "pages"])
    def test_is_told_and_made_anew(self, store, folder, session, model, content):
        saved = store.save("b", session, owner="ann")
        store.close()
        index = folder / "index.sqlite"
        whole = index.read_bytes()
        if content == "cut":
            content = whole[: len(whole) // 2]
        elif content == "pages":
            content = whole[:4096] + random.Random(0).randbytes(len(whole) - 4096)
        index.write_bytes(content)
        if content:  # an empty file is a new database: its sessions are missed below
            with pytest.raises(StoreError, match="index"):
                damaged = SessionStore(folder)
                damaged.load("a", model, session.tokenizer)
        assert rebuild_store(folder) == []
        anew = SessionStore(folder)
        assert_equal(anew.load("a", model, session.tokenizer), session)
        assert anew.verify("b", owner="ann").places == saved.places
        assert [path.name for path in folder.glob("index.sqlite.damaged-*")]
        anew.save("a", session)
        anew.delete("a")
        anew.sweep()
        assert_equal(anew.load("b", model, session.tokenizer, owner="ann"), session)

    def test_a_missing_one_is_no_new_store(self, store, folder):
        store.close()
        (folder / "index.sqlite").unlink()
        with pytest.raises(StoreError, match=r"is missing, but not the sessions: `infini session rebuild`"):
            SessionStore(folder)
        assert rebuild_store(folder) == []
        SessionStore(folder).verify("a")

    def test_another_programs_database(self, folder):
        import sqlite3

        folder.mkdir()
        with contextlib.closing(sqlite3.connect(folder / "index.sqlite")) as database:
            database.execute("CREATE TABLE other (x)")
            database.commit()
        with pytest.raises(StoreError, match="is not the index of a store"):
            SessionStore(folder)

    def test_whatever_is_damaged_in_it(self, store, folder, session, model):
        """A message or the right answer, never something else; nothing is lost."""
        store.fork("a", "b")
        store.close()
        index, chance = folder / "index.sqlite", random.Random(0)
        whole = index.read_bytes()
        outcomes = {"right": 0, "told": 0}
        for _ in range(60):
            damaged = bytearray(whole)
            for _ in range(chance.choice((1, 10))):
                start = chance.randrange(len(whole))
                damaged[start : start + 100] = chance.choice((bytes(100), chance.randbytes(100)))[: len(whole) - start]
            for path in folder.glob("index.sqlite*"):
                path.unlink()
            index.write_bytes(damaged)
            try:
                with contextlib.closing(SessionStore(folder)) as tried:
                    tried.sessions()
                    loaded = tried.load("a", model, session.tokenizer)
                    assert torch.equal(loaded.position.logits, session.position.logits)
                    tried.longest_prefix(model, [0] * 400)
                outcomes["right"] += 1
            except InfiniError:
                outcomes["told"] += 1
        assert min(outcomes.values()) > 5, outcomes
        rebuild_store(folder)
        for name in "ab":
            assert_equal(SessionStore(folder).load(name, model, session.tokenizer), session)

    def test_a_sweep_of_a_damaged_store_removes_nothing(self, store, folder, session, model):
        before = blobs_of(folder)
        store.close()
        index = folder / "index.sqlite"
        whole = index.read_bytes()
        index.write_bytes(whole[:8192] + bytes(len(whole) - 8192))
        with pytest.raises(StoreError, match="the index is damaged"):
            SessionStore(folder).sweep()
        assert blobs_of(folder) == before
        rebuild_store(folder)
        assert_equal(SessionStore(folder).load("a", model, session.tokenizer), session)

    def test_records_that_are_damaged_are_named(self, store, folder, session):
        store.fork("a", "b")
        store.close()
        records = sorted((folder / "sessions").rglob("*.json"))
        records[0].write_text("{}")
        assert rebuild_store(folder) == [records[0].relative_to(folder).as_posix()]
        assert [saved.name for saved in SessionStore(folder).sessions()] == ["b"]


class TestDamagedBlobs:
    @pytest.mark.parametrize("damage", ["cut", "flip", "empty", "grown", "gone"])
    def test_each_is_told(self, store, folder, session, model, damage):
        for path in blobs_of(folder):
            whole = path.read_bytes()
            middle = len(whole) // 2
            changed = {
                "cut": whole[:middle],
                "flip": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
                "empty": b"",
                "grown": whole + b" ",
                "gone": None,
            }[damage]
            path.unlink() if changed is None else path.write_bytes(changed)
            for act in (store.verify, lambda name: store.load(name, model, session.tokenizer)):
                with pytest.raises(SnapshotError, match="is missing" if damage == "gone" else "damaged"):
                    act("a")
            path.write_bytes(whole)
        store.verify("a")

    def forge(self, store, folder, session, change):
        """The manifest of `a` changed, by someone who can write the index too."""
        saved = store.get("a")
        place = saved.place
        path = next(path for path in blobs_of(folder) if path.name == place.manifest.digest)
        entries = json.loads(path.read_text())
        change(entries)
        content = json.dumps(entries).encode()
        self.put(store, folder, place.manifest.digest, content)

    def put(self, store, folder, old, content):
        digest = sha256(content).hexdigest()
        parts = next((folder / "parts").iterdir())
        (parts / digest).write_bytes(content)
        with store._database.writing() as db:
            for table in ("snapshots", "blobs"):
                db.execute(f"UPDATE {table} SET digest = ?, nbytes = ? WHERE digest = ?", (digest, len(content), old))
        return [digest, len(content)]

    @pytest.mark.parametrize(
        "change",
        [
            lambda entries: entries.update(version=7),
            lambda entries: entries.update(parts=[]),
            lambda entries: entries.update(parts=[["../../../etc/passwd", 10]] * 3),
            lambda entries: entries["parts"][0].__setitem__(1, 10**15),
            lambda entries: entries["parts"][2].__setitem__(1, -1),
            lambda entries: entries["parts"].extend([entries["parts"][2]] * 5),
            lambda entries: entries["parts"].extend([entries["parts"][2]] * 5000),
            lambda entries: entries["parts"].reverse(),
            lambda entries: entries["header"].update(model=3),
            lambda entries: entries["header"]["stats"].update(tokens_read=1),
            lambda entries: entries["header"]["stats"].update(tokens_read=0),
            lambda entries: entries.pop("header"),
            lambda entries: entries.clear(),
        ],
    )
    def test_manifests_that_make_no_sense(self, store, folder, session, model, change):
        self.forge(store, folder, session, change)
        with pytest.raises(SnapshotError):
            store.load("a", model, session.tokenizer)

    @pytest.mark.parametrize("index", [0, 1, 2])
    @pytest.mark.parametrize("tensors", [{}, {"logits": torch.zeros(3)}, {"layers.0.keys": torch.zeros(())}, "half"])
    def test_parts_of_other_shapes(self, store, folder, session, model, index, tensors):
        own = session.snapshot().parts[index].tensors
        content = save({name: tensor.half() for name, tensor in own.items()} if tensors == "half" else tensors)
        part = self.put(store, folder, "", content)
        self.forge(store, folder, session, lambda entries: entries["parts"].__setitem__(index, part))
        with pytest.raises(SnapshotError, match="does not fit this model"):
            store.load("a", model, session.tokenizer)

    def test_a_part_that_is_no_safetensors_file(self, store, folder, session, model):
        part = self.put(store, folder, "", b"\x80\x04K\x01.")
        self.forge(store, folder, session, lambda entries: entries["parts"].__setitem__(0, part))
        with pytest.raises(SnapshotError, match="is damaged"):
            store.load("a", model, session.tokenizer)

    def test_an_index_whose_paths_lead_elsewhere(self, store, folder, session, tmp_path):
        precious = tmp_path / "precious"
        precious.write_text("precious")
        with store._database.writing() as db:
            db.execute("UPDATE sessions SET record = '../precious'")
        store.delete("a")
        assert precious.read_text() == "precious"
