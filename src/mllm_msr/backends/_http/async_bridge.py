"""Bridge from coroutines to a plain iterator, for asynchronous backends.

The event loop runs in its own thread. Requests therefore continue while the stage processes earlier
results, and the caller may itself be asynchronous. Items are read lazily, as slots become free.
"""

from __future__ import annotations

import asyncio
import functools
import queue
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class LoopThread:
    """Event loop in a thread, running from construction until `close`."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="requests", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, _Result]) -> _Result:
        """Run a coroutine and return its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def map_unordered(
        self,
        items: Iterable[_Item],
        function: Callable[[_Item], Coroutine[Any, Any, _Result]],
        *,
        max_concurrent: int,
    ) -> Iterator[tuple[int, _Result]]:
        """Apply a coroutine function to items concurrently.

        An exception of `function` or `items` is raised here and cancels all running coroutines.

        Args:
            items: Any number of items; read in the caller's thread.
            function: Called with each item.
            max_concurrent: Maximum number of coroutines at a time.

        Yields:
            Each item's index and result, in order of completion.
        """
        numbered = enumerate(items)
        done: queue.SimpleQueue[tuple[int, Future[_Result]]] = queue.SimpleQueue()
        pending: set[Future[_Result]] = set()
        exhausted = False
        try:
            while not exhausted or pending:
                while not exhausted and len(pending) < max_concurrent:
                    entry = next(numbered, None)
                    if entry is None:
                        exhausted = True
                        break
                    index, item = entry
                    future = asyncio.run_coroutine_threadsafe(function(item), self._loop)
                    pending.add(future)
                    future.add_done_callback(functools.partial(_put, done, index))
                if pending:
                    index, future = done.get()
                    pending.discard(future)
                    yield index, future.result()
        finally:
            for future in pending:
                future.cancel()

    def close(self) -> None:
        """Cancel all coroutines, stop the loop and join its thread."""

        async def cancel_others() -> None:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        self.run(cancel_others())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def _put(
    done: queue.SimpleQueue[tuple[int, Future[_Result]]], index: int, future: Future[_Result]
) -> None:
    done.put((index, future))
