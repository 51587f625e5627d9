"""Many coroutines behind a plain iterator: what an asynchronous backend shows to its stage.

The event loop runs in a thread of its own, so that requests go on while the stage works on what
it has got, and so that a caller may be asynchronous himself. Items are read as places get free,
never all at once.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class LoopThread:
    """An event loop that runs in a thread from construction until `close`."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="requests", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, _Result]) -> _Result:
        """Run a coroutine to its end."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def each(
        self,
        items: Iterable[_Item],
        work: Callable[[_Item], Coroutine[Any, Any, _Result]],
        *,
        ahead: int,
    ) -> Iterator[tuple[int, _Result]]:
        """Work on items beside each other.

        Args:
            items: Any number of items; read in the caller's thread.
            work: What is done with each.
            ahead: Items that are worked on at a time.

        Yields:
            Each item's index and result, as they are finished. What `work` or `items` raises is
            raised here, and what is under way then is cancelled.
        """
        numbered = enumerate(items)
        done: queue.SimpleQueue[tuple[int, Future[_Result]]] = queue.SimpleQueue()
        under_way: set[Future[_Result]] = set()
        more = True
        try:
            while more or under_way:
                while more and len(under_way) < ahead:
                    entry = next(numbered, None)
                    if entry is None:
                        more = False
                        break
                    index, item = entry
                    future = asyncio.run_coroutine_threadsafe(work(item), self._loop)
                    under_way.add(future)
                    future.add_done_callback(_hand_over(done, index))
                if under_way:
                    index, future = done.get()
                    under_way.discard(future)
                    yield index, future.result()
        finally:
            for future in under_way:
                future.cancel()

    def close(self) -> None:
        """Cancel what is under way, stop the loop and wait for its thread."""
        self.run(_cancel_others())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def _hand_over(
    done: queue.SimpleQueue[tuple[int, Future[_Result]]], index: int
) -> Callable[[Future[_Result]], None]:
    return lambda future: done.put((index, future))
