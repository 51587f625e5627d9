"""Write a small made-up bookshop: the files that the other examples and the tutorials read.

    python examples/write_shop.py shop

The folder gets `interactions.csv`, `items.csv` and a drawn cover per book in `images/`. Readers
prefer one or two of five subjects and change one of them halfway, so there is something to learn.
"""

from __future__ import annotations

import argparse
import csv
import random
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image, ImageDraw

# Subject: its color, and words that its titles and texts are made of.
SUBJECTS = {
    "sea": ("#2a6f97", ["Harbor", "Lighthouse", "Island", "Tide", "Sailor", "Storm"]),
    "garden": ("#588157", ["Orchard", "Rose", "Beekeeper", "Seed", "Meadow", "Hedge"]),
    "space": ("#3d348b", ["Comet", "Orbit", "Moon", "Signal", "Station", "Galaxy"]),
    "kitchen": ("#bc6c25", ["Bread", "Pepper", "Market", "Spice", "Oven", "Honey"]),
    "city": ("#6c757d", ["Bridge", "Museum", "Rooftop", "Tram", "Square", "Tower"]),
}
MOODS = ["Quiet", "Last", "Hidden", "Golden", "Second", "Distant", "Small", "Broken"]
FIRST_TIME = 1_700_000_000  # seconds since 1970
HOUR = 3600


def write_shop(folder: Path, *, n_users: int = 80, n_books: int = 60, seed: int = 0) -> Path:
    """Write the files of a shop, which depend on the arguments only, and return the folder."""
    random_ = random.Random(seed)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    books = {f"b{number:03}": list(SUBJECTS)[number % len(SUBJECTS)] for number in range(n_books)}
    titles = {}
    for subject, (_, words) in SUBJECTS.items():
        titles[subject] = [f"The {mood} {word}" for mood in MOODS for word in words]
        random_.shuffle(titles[subject])
    rows = []
    for number, (book, subject) in enumerate(books.items()):
        color, words = SUBJECTS[subject]
        first, second = random_.sample(words, 2)
        text = f"A story of the {subject}: {first.lower()} and {second.lower()}."
        rows.append((book, titles[subject].pop(), text))
        draw_cover(folder / "images" / f"{book}.png", color, number=number)
    write_csv(folder / "items.csv", ("item_id", "title", "text"), rows)

    interactions = []
    for user in range(n_users):
        tastes = random_.sample(list(SUBJECTS), 2)
        left = list(books)
        random_.shuffle(left)
        n_books_of_user = random_.randint(8, 14)
        for step in range(n_books_of_user):
            if step == n_books_of_user // 2:
                tastes[1] = random_.choice(list(SUBJECTS))
            liked = [book for book in left if books[book] in tastes]
            book = random_.choice(liked if liked and random_.random() < 0.9 else left)
            left.remove(book)
            time = FIRST_TIME + HOUR * (24 * step + random_.randint(0, 20))
            interactions.append((f"reader{user:02}", book, time))
    write_csv(folder / "interactions.csv", ("user_id", "item_id", "timestamp"), interactions)
    return folder


def draw_cover(path: Path, color: str, *, number: int) -> None:
    """Draw a cover in the color of its subject, with rings that tell the books apart."""
    cover = Image.new("RGB", (96, 128), color)
    pen = ImageDraw.Draw(cover)
    for ring in range(1 + number % 4):
        edge = 14 + 9 * ring
        pen.ellipse((edge, edge + 16, 96 - edge, 112 - edge), outline="#f4f1de", width=3)
    cover.save(path)


def write_csv(path: Path, columns: tuple[str, ...], rows: Iterable[Sequence[object]]) -> None:
    """Write a table with a header."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--users", type=int, default=80)
    parser.add_argument("--books", type=int, default=60)
    given = parser.parse_args()
    print(f"Wrote {write_shop(given.folder, n_users=given.users, n_books=given.books)}")
