"""Write the recommendations of all users of a run to a Parquet file.

    python examples/batch_recommendations.py --run runs/demo --out recommendations.parquet

Users are ranked in chunks: the model reads the prompts of a chunk together, and only one chunk is
in memory. The chunks become row groups of one file.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

import pyarrow.parquet as pq

from mllm_msr import MllmMsr


def main() -> None:
    """Recommend to all users, chunk by chunk."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", default="runs/demo")
    parser.add_argument("--out", default="recommendations.parquet")
    parser.add_argument("-k", type=int, default=10, help="items per user")
    parser.add_argument("--budget", type=int, default=50, help="items that the model ranks")
    parser.add_argument("--chunk", type=int, default=100, help="users per call")
    parser.add_argument("--users", type=int, help="only the first users")
    arguments = parser.parse_args()

    with MllmMsr.from_run(arguments.run) as model:
        users = list(model.users)[: arguments.users]
        writer = None
        for chunk in chunks(users, arguments.chunk):
            lists = model.recommend(chunk, arguments.k, budget=arguments.budget)
            table = lists.to_polars().to_arrow()
            writer = writer or pq.ParquetWriter(arguments.out, table.schema)
            writer.write_table(table)
        if writer is not None:
            writer.close()
    print(f"Wrote {arguments.k} items for each of {len(users)} users to {arguments.out}")


def chunks(users: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    """Yield consecutive users, `size` at a time."""
    for start in range(0, len(users), size):
        yield users[start : start + size]


if __name__ == "__main__":
    main()
