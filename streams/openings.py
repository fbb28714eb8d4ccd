"""What the group gave a worker and is not open yet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from streams.kafka.errors import MetadataBehind
from streams.opening import Opener
from streams.partition import Partition


class Opening(NamedTuple):
    """A partition on its way to being open, and the same one as it was before."""

    task: asyncio.Task[Partition]
    held: Partition | None


class Openings:
    """The openings that are under way, and the look at the topics without which none of them goes on.

    `wake` is called whenever one of these ends.
    """

    def __init__(self, opener: Opener, wake: Callable[[], None]) -> None:
        self._opener = opener
        self._wake = wake
        self._under_way: dict[int, Opening] = {}
        self._checking: asyncio.Task[int] | None = None
        self._epoch = 0
        self.partition_count = 0  # of each input, as it was found last

    @property
    def is_checking(self) -> bool:
        """Whether it is not known yet that the topics are as they should be."""
        return self._checking is not None

    def start(self, partitions: Mapping[int, Partition | None]) -> None:
        """Open each of these anew, from what it was before where it was open.

        The topics are looked at each time, also without partitions: it may be for topics that changed that they went.
        """
        self._checking = asyncio.create_task(self._opener.check_topics())
        self._checking.add_done_callback(lambda _: self._wake())
        for number, held in partitions.items():
            self._epoch += 1
            task = asyncio.create_task(self._opener.open(number, self._epoch, held))
            task.add_done_callback(lambda _: self._wake())
            self._under_way[number] = Opening(task, held)

    def opened(self) -> Iterator[Partition]:
        """Hand over the partitions that are open, once the topics are found to be as they should be.

        Raises what an opening failed with, or what is wrong with the topics.
        """
        for number, opening in list(self._under_way.items()) if self._has_checked() else ():
            if opening.task.done():
                del self._under_way[number]
                yield opening.task.result()

    def _has_checked(self) -> bool:
        """Whether the topics are as they should be, as far as that is known. Raises what is wrong with them."""
        if self._checking is None:
            return True
        if not self._checking.done():
            return False
        self.partition_count = count = self._checking.result()
        beyond = sorted(number for number in self._under_way if number >= count)
        if beyond:
            raise MetadataBehind(beyond, count)
        self._checking = None
        return True

    async def cancel(self) -> dict[int, Partition]:
        """End all of them. Answers the partitions that are open; the stores of the others are closed."""
        openings, self._under_way = self._under_way, {}
        checking, self._checking = self._checking, None
        if checking is not None:
            checking.cancel()
            await asyncio.gather(checking, return_exceptions=True)
        for opening in openings.values():
            opening.task.cancel()
        ended = await asyncio.gather(*(opening.task for opening in openings.values()), return_exceptions=True)
        opened: dict[int, Partition] = {}
        for (number, opening), end in zip(openings.items(), ended, strict=True):
            if isinstance(end, Partition):
                opened[number] = end
            elif opening.held is not None:
                opening.held.close()  # an opening that was cancelled before its first step has not
        return opened
