"""Shards: stable shares of a set of images, for processes that know nothing of each other."""

import dataclasses
import hashlib
import re
from dataclasses import dataclass

from pipeline.core.errors import Parameter, RequestError
from pipeline.data.images import ImageSet


@dataclass(frozen=True)
class Shard:
    """One of several shares of a set of images.

    A digest of its name says which shard an image is in. So each image is in exactly one, and stays there when others
    are added or removed.

    Attributes:
        number: Which one, from 1 to `count`.
        count: How many there are.
    """

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Read a shard such as `3/16`, the third of sixteen.

        Raises:
            RequestError: It is not two whole numbers, or there is no such shard.
        """
        shard = Parameter("shard", text)
        found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text, re.ASCII)
        if not found:
            raise RequestError(shard, " is not NUMBER/COUNT, such as 3/16, the third of sixteen shards.")
        number, count = int(found[1]), int(found[2])
        if not count:
            raise RequestError(shard, " does not exist; there is at least one, 1/1.")
        if not 1 <= number <= count:
            raise RequestError(shard, f" does not exist; the first is 1/{count}, the last {count}/{count}.")
        return cls(number, count)

    def holds(self, name: str) -> bool:
        """Whether an image of this name is in this shard."""
        digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") % self.count == self.number - 1

    def select(self, images: ImageSet) -> ImageSet:
        """The images of a set that are in this shard, in the same order; none where there are too few for all shards.

        Files that were passed over are shared out by their names, too.
        """
        chosen = images.subset([row for row, name in enumerate(images.paths) if self.holds(name)])
        return dataclasses.replace(chosen, passed_over=[name for name in images.passed_over if self.holds(name)])

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"
