"""Downloads MovieLens 100K for the local run. It is not part of the repository: its terms forbid redistribution.

Sources in this order: GroupLens' zip file, then the package `recbole`, which contains the three tables. The tables of
both sources must have the digests below. Does not join or convert rows: the workload does.
"""

import hashlib
import io
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import requests

from cli.errors import UserError

LICENCE = (
    "MovieLens 100K (GroupLens, F. M. Harper and J. A. Konstan 2015): for research, not to be redistributed; see "
    "https://files.grouplens.org/datasets/movielens/ml-100k-README.txt"
)
_OFFICIAL = "https://files.grouplens.org/datasets/movielens/ml-100k.zip"
_PACKAGE = "recbole==1.2.1"
_PACKAGE_FOLDER = "recbole/dataset_example/ml-100k"
_SECONDS_TO_CONNECT = 4

TABLES = {
    "ml-100k.inter": "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
    "ml-100k.item": "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
    "ml-100k.user": "4f670007d9cfbeb9807e757209af1555b9bcc186bde25e767f67cb67c6dd5972",
}
"""SHA-256 of each table."""

_GENRES = tuple(
    "unknown Action Adventure Animation Children's Comedy Crime Documentary Drama Fantasy Film-Noir Horror Musical "
    "Mystery Romance Sci-Fi Thriller War Western".split(" ")
)


def fetch(folder: Path, report: Callable[[str], None]) -> Path:
    """Download the three tables into the folder unless they exist, and return it. Raises `UserError`."""
    if all(_digest(folder / name) == digest for name, digest in TABLES.items()):
        return folder
    report(LICENCE)
    folder.mkdir(parents=True, exist_ok=True)
    failures = []
    for source, tables in (("GroupLens", _from_grouplens), ("package recbole", _from_package)):
        try:
            contents = tables()
        except (
            requests.RequestException,
            OSError,
            subprocess.CalledProcessError,
            zipfile.BadZipFile,
            KeyError,
        ) as error:
            failures.append(f"{source}: {_short(error)}")
            continue
        wrong = [name for name, digest in TABLES.items() if hashlib.sha256(contents[name]).hexdigest() != digest]
        if wrong:
            failures.append(f"{source}: {', '.join(wrong)} is not the expected table (its digest differs)")
            continue
        for name, content in contents.items():
            temporary = folder / f".{name}.partial"
            temporary.write_bytes(content)
            os.replace(temporary, folder / name)
        return folder
    raise UserError(
        "MovieLens 100K could not be fetched:\n  - " + "\n  - ".join(failures) + "\n"
        f"Put the tables {', '.join(TABLES)} into {folder} yourself, or use DATASET=criteo."
    )


def _from_grouplens() -> dict[str, bytes]:
    answer = requests.get(_OFFICIAL, timeout=(_SECONDS_TO_CONNECT, 60))
    answer.raise_for_status()
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        return as_tables({name: archive.read(f"ml-100k/{name}") for name in ("u.data", "u.item", "u.user")})


def as_tables(files: dict[str, bytes]) -> dict[str, bytes]:
    """Convert GroupLens' three files to RecBole's tables: tab separated, with a header of names and types.

    `u.item` is latin-1, with `|` between title, release date and 19 genre flags. Titles end with the year in brackets.
    """

    def table(header: str, rows: Iterable[Iterable[str]]) -> bytes:
        lines = [header.split(), *rows]
        return "".join("\t".join(line) + "\n" for line in lines).encode()

    users = (line.split("|") for line in files["u.user"].decode("latin-1").splitlines())
    items = (line.split("|") for line in files["u.item"].decode("latin-1").splitlines())
    ratings = (line.split("\t") for line in files["u.data"].decode("ascii").splitlines())
    return {
        "ml-100k.inter": table("user_id:token item_id:token rating:float timestamp:float", ratings),
        "ml-100k.user": table("user_id:token age:token gender:token occupation:token zip_code:token", users),
        "ml-100k.item": table(
            "item_id:token movie_title:token_seq release_year:token class:token_seq",
            ([item[0], *_title_and_year(item[1]), " ".join(_genres(item[5:]))] for item in items),
        ),
    }


def _title_and_year(title: str) -> tuple[str, str]:
    name, separator, year = title.rpartition(" (")
    # The tables with the digests above spell the one film without title and year like this.
    return (name, year.rstrip(")")) if separator else ("unkonwn", "unkonwn")


def _genres(flags: list[str]) -> list[str]:
    return [genre for genre, flag in zip(_GENRES, flags, strict=True) if flag == "1"]


def _from_package() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [
                *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"),
                *("--disable-pip-version-check", "--dest", folder, _PACKAGE),
            ],
            check=True,
            capture_output=True,
            text=True,
        )
        wheel = next(Path(folder).glob("*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            return {name: archive.read(f"{_PACKAGE_FOLDER}/{name}") for name in TABLES}


def _digest(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def _short(error: Exception) -> str:
    text = getattr(error, "stderr", None) or str(error) or type(error).__name__
    return text.strip().splitlines()[-1][:300]
