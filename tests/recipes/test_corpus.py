"""The corpus recipe, without the network: R's format, the split, the manifest, and what goes wrong."""

import hashlib
import json
import struct
import sys
import zlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "corpus"
sys.path.insert(0, str(RECIPE))

import build  # noqa: E402
import rdata  # noqa: E402
import sources  # noqa: E402

MANIFEST = json.loads((RECIPE / "manifest.json").read_text())
DOCUMENTS = [
    (source, name, document) for source, entry in MANIFEST.items() for name, document in entry["documents"].items()
]


def charsxp(text: bytes, flags: int = 0x40009) -> bytes:
    return struct.pack(">ii", flags, len(text)) + text


def serialised(*strings: bytes, version: int = 3, flags: int = 16) -> bytes:
    encoding = struct.pack(">i", 5) + b"UTF-8" if version == 3 else b""
    header = b"X\n" + struct.pack(">iii", version, 0x40201, 0x30500) + encoding
    return header + struct.pack(">ii", flags, len(strings)) + b"".join(strings)


def stored(body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + zlib.compress(body)


class TestRData:
    @pytest.mark.parametrize("version", [2, 3])
    def test_reads_vectors_of_strings(self, version):
        first = serialised(charsxp(b"EMMA"), charsxp(b""), charsxp("é".encode(), 0x8009), version=version)
        second = serialised(charsxp("é".encode("latin-1"), 0x4009), version=version)
        vectors = [rdata.strings(body) for body in rdata.objects(stored(first) + stored(second))]
        assert vectors == [["EMMA", "", "é"], ["é"]]

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            (b"A\n", r"begins with b'X\\n', got b'A\\n'"),
            (serialised(charsxp(b"EMMA"))[:-1], "expected 4 more bytes, got 3"),
            (serialised(charsxp(b"EMMA")) + b"!", "the end after 1 strings, got 1 more"),
            (serialised(charsxp(b"EMMA"), flags=13), "plain character vector"),
            (serialised(struct.pack(">ii", 9, -1)), "size -1"),
        ],
    )
    def test_refuses_anything_else(self, body, message):
        with pytest.raises(rdata.RDataError, match=message):
            rdata.strings(body)

    @pytest.mark.parametrize("damage", [lambda rdb: rdb[:-6], lambda rdb: b"\1" + rdb[1:], lambda rdb: rdb[:4] + b"??"])
    def test_refuses_a_damaged_file(self, damage):
        with pytest.raises(rdata.RDataError, match="expected"):
            list(rdata.objects(damage(stored(serialised(charsxp(b"EMMA"))))))


class TestManifest:
    def test_schema(self):
        assert list(MANIFEST) == list(sources.SOURCES)
        for name, entry in MANIFEST.items():
            assert entry.keys() == {"packages", "licence", "documents"}
            assert tuple(entry["packages"]) == sources.SOURCES[name].packages
            assert all(entry["packages"].values())
            assert entry["licence"] == sources.SOURCES[name].licence
            assert entry["documents"]
        for _, _, document in DOCUMENTS:
            assert document.keys() == {"split", "bytes", "sha256"}
            assert document["bytes"] > 1000
            assert len(bytes.fromhex(document["sha256"])) == 32

    def test_the_splits_follow_the_rule(self):
        assert all(document["split"] == build.split_of(source, name) for source, name, document in DOCUMENTS)

    def test_no_text_is_listed_twice(self):
        """Nor, therefore, in two splits."""
        assert len({document["sha256"] for _, _, document in DOCUMENTS}) == len(DOCUMENTS)

    def test_the_test_books_and_nothing_else_are_held_out(self):
        held_out = {(source, name) for source, name, document in DOCUMENTS if document["split"] == "test"}
        assert held_out == {("janeausten", "northanger-abbey"), ("janeausten", "persuasion")}

    def test_validation_is_a_twentieth_of_the_addresses(self):
        validation = {source for source, _, document in DOCUMENTS if document["split"] == "validation"}
        assert validation == {"sotu"}
        splits = [document["split"] for document in MANIFEST["sotu"]["documents"].values()]
        assert 0.03 < splits.count("validation") / len(splits) < 0.07

    def test_the_committed_novel_is_the_held_out_one(self):
        committed = (ROOT / "examples" / "books" / "northanger-abbey.txt").read_bytes()
        listed = MANIFEST["janeausten"]["documents"]["northanger-abbey"]
        assert listed == build.describe("janeausten", "northanger-abbey", committed)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A source of two tiny novels, which a test may change; it counts its downloads."""

    class Package:
        texts = {"emma": "\nEMMA\n\nby Jane", "persuasion": "Persuasion"}  # noqa: RUF012
        downloads = 0

    def fetch(source, work, pins):
        Package.downloads += 1
        return {"novels": "1.0"}

    source = sources.Source("debian", ("novels",), "public domain", lambda work: dict(Package.texts))
    monkeypatch.setattr(sources, "SOURCES", {"janeausten": source})
    monkeypatch.setattr(sources, "fetch", fetch)
    monkeypatch.setattr(build, "MANIFEST", tmp_path / "manifest.json")
    assert build.main([str(tmp_path / "first"), "--update-manifest"]) == 0
    Package.downloads = 0
    return Package


def files(out):
    return {str(path.relative_to(out)): path.read_text() for path in out.rglob("*") if path.is_file()}


def build_json(out, capsys):
    capsys.readouterr()
    assert build.main([str(out), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def fails(capsys, *arguments):
    """The one line that a failed build leaves on stderr."""
    assert build.main(list(map(str, arguments))) == 2
    return capsys.readouterr().err.splitlines()[-1]


EXPECTED = {"train/janeausten/emma.txt": "EMMA\n\nby Jane\n", "test/janeausten/persuasion.txt": "Persuasion\n"}


class TestBuild:
    def test_writes_each_document_into_its_split(self, package, tmp_path, capsys):
        result = build_json(tmp_path / "out", capsys)
        assert files(tmp_path / "out") == EXPECTED
        assert result["written"] == {"janeausten": 2}
        assert result["splits"]["train"] == {"documents": 1, "bytes": len("EMMA\n\nby Jane\n")}
        assert result["splits"]["validation"] == {"documents": 0, "bytes": 0}

    def test_a_second_build_fetches_nothing(self, package, tmp_path, capsys):
        for written in (2, 0):
            assert build_json(tmp_path / "out", capsys)["written"] == {"janeausten": written}
        assert package.downloads == 1

    @pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_text("half")])
    def test_a_build_that_was_cut_off_is_completed(self, package, tmp_path, capsys, damage):
        build_json(tmp_path / "out", capsys)
        damage(tmp_path / "out" / "train" / "janeausten" / "emma.txt")
        assert build_json(tmp_path / "out", capsys)["written"] == {"janeausten": 1}
        assert files(tmp_path / "out") == EXPECTED

    @pytest.mark.parametrize("texts", [{"emma": "Other"}, {"lady-susan": "New"}])
    def test_another_text_than_the_manifest_s_is_refused(self, package, tmp_path, capsys, texts):
        package.texts = package.texts | texts
        error = fails(capsys, tmp_path / "out")
        (name,) = texts
        assert error.startswith(f"error: janeausten/{name}: expected ")
        assert hashlib.sha256(f"{texts[name]}\n".encode()).hexdigest() in error
        assert "--update-manifest" in error
        assert not (tmp_path / "out").exists()

    def test_a_text_that_is_gone_is_refused(self, package, tmp_path, capsys):
        package.texts = {"emma": package.texts["emma"]}
        assert "janeausten/persuasion: expected test 11 " in fails(capsys, tmp_path / "out")

    def test_update_manifest_accepts_the_change(self, package, tmp_path, capsys):
        package.texts = package.texts | {"emma": "Other"}
        assert build.main([str(tmp_path / "out"), "--update-manifest"]) == 0
        assert build_json(tmp_path / "out", capsys)["written"] == {"janeausten": 0}
        assert files(tmp_path / "out") == EXPECTED | {"train/janeausten/emma.txt": "Other\n"}

    def test_a_test_book_among_the_training_texts_is_refused(self, package, tmp_path, capsys):
        stranger = tmp_path / "out" / "train" / "janeausten" / "persuasion.txt"
        stranger.parent.mkdir(parents=True)
        stranger.write_text("Persuasion\n")
        error = fails(capsys, tmp_path / "out")
        assert error.startswith(f"error: {stranger}")
        assert error.endswith("remove this file")

    def test_a_missing_program_is_named(self, tmp_path):
        with pytest.raises(sources.CorpusError, match="expected the program no-such-program"):
            sources.run("no-such-program", cwd=tmp_path)

    def test_a_failing_program_is_quoted(self, tmp_path):
        with pytest.raises(sources.CorpusError, match=r"`sh -c .*` failed: no such package"):
            sources.run("sh", "-c", "echo no such package >&2; exit 3", cwd=tmp_path)

    def test_an_unknown_source_is_refused(self, package, tmp_path, capsys):
        with pytest.raises(SystemExit, match="2"):
            build.main([str(tmp_path / "out"), "--only", "gutenberg"])
        assert "gutenberg" in capsys.readouterr().err
