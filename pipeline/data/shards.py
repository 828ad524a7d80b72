"""Shards: stable parts of a set of images, for processes that do not communicate."""

import dataclasses
import hashlib
import re
from dataclasses import dataclass

from pipeline.core.errors import Parameter, RequestError
from pipeline.data.images import ImageSet


@dataclass(frozen=True)
class Shard:
    """One of several parts of a set of images.

    A digest of an image's name determines its shard. So each image is in exactly one shard, and stays there when other
    images are added or removed.

    Attributes:
        number: The number of this shard, from 1 to `count`.
        count: The number of shards.
    """

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Parse a shard such as `3/16`, the third of sixteen.

        Raises:
            RequestError: The text is not two whole numbers, or there is no such shard.
        """
        shard = Parameter("shard", text)
        match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text, re.ASCII)
        if not match:
            raise RequestError(shard, " is not NUMBER/COUNT, such as 3/16, the third of sixteen shards.")
        number, count = int(match[1]), int(match[2])
        if not count:
            raise RequestError(shard, " does not exist; there is at least one, 1/1.")
        if not 1 <= number <= count:
            raise RequestError(shard, f" does not exist; the first is 1/{count}, the last {count}/{count}.")
        return cls(number, count)

    def holds(self, name: str) -> bool:
        """Whether the image with this name is in this shard."""
        digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") % self.count == self.number - 1

    def select(self, images: ImageSet) -> ImageSet:
        """The images of a set that are in this shard, in the same order; a small set may have none.

        Files that were passed over are distributed by name, too.
        """
        subset = images.subset([row for row, name in enumerate(images.paths) if self.holds(name)])
        return dataclasses.replace(subset, passed_over=[name for name in images.passed_over if self.holds(name)])

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"
