"""Seeded mutations of files, for fuzzing: bytes replaced or inserted, ranges removed or repeated."""

import random

ODD = (b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff", b"nan", b"1e999", b",,", b"\n", b'"', b"9" * 400, b"\xff\xfe")


def mutated(content: bytes, chance: random.Random) -> bytes:
    """A copy with one to thirty mutations; never empty."""
    data = bytearray(content)
    for _ in range(chance.choice([1, 1, 3, 30])):
        at = chance.randrange(len(data))
        how = chance.randrange(4)
        if how == 0:
            data[at] = chance.randrange(256)
        elif how == 1:
            odd = chance.choice(ODD)
            data[at : at + len(odd)] = odd
        elif how == 2:
            del data[at : at + chance.randrange(1, 50)]
        else:
            data[at:at] = data[chance.randrange(len(data)) :][: chance.randrange(1, 50)]
        data = data or bytearray(b"x")
    return bytes(data)
