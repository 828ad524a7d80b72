"""Headers of tar files: read like Python's tarfile reads them, and without trust in what they declare."""

import io
import subprocess
import tarfile
import tracemalloc
from pathlib import Path

import pytest

from pipeline.data.tar_headers import DamagedTar, Member, read_members

NAMES = ["a.jpg", "folder/b.jpg", "long/" * 25 + "c.jpg", "d" * 300 + ".jpg", "é.jpg", "with space#1.jpg"]


def header(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = size, kind, link
    return info.tobuf(tarfile.GNU_FORMAT)


def members(content: bytes) -> list[Member]:
    return list(read_members(io.BytesIO(content)))


def with_checksum(block: bytes) -> bytes:
    """A header with its checksum computed again."""
    total = sum(block[:148]) + 8 * 32 + sum(block[156:512])
    return block[:148] + b"%06o\0 " % total + block[156:]


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_those_that_tarfile_finds(kind: int) -> None:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w", format=kind, encoding="utf-8") as tar:
        for size, name in enumerate(NAMES):
            if kind == tarfile.USTAR_FORMAT and len(name) > 255:
                continue
            info = tarfile.TarInfo(name)
            info.size = 300 * size
            tar.addfile(info, io.BytesIO(bytes([size]) * info.size))
        for special in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE):
            info = tarfile.TarInfo("special.jpg")
            info.type, info.linkname = special, "/etc/passwd"
            tar.addfile(info)
        tar.addfile(tarfile.TarInfo("last.jpg"))
    with tarfile.open(fileobj=io.BytesIO(written.getvalue()), encoding="utf-8") as tar:
        expected = [Member(info.name, info.offset_data, info.size) for info in tar if info.isreg()]
    assert members(written.getvalue()) == expected
    assert expected[-1].name == "last.jpg"


def test_sizes_above_eight_gigabytes_are_read() -> None:
    assert members(header("a.jpg", 2**40)) == [Member("a.jpg", 512, 2**40)]


def test_names_of_other_encodings_are_kept() -> None:
    [member] = members(with_checksum(b"\xff" + header("a.jpg")[1:]))
    assert member.name == "\udcff.jpg"


def test_sparse_files_are_left_out(tmp_path: Path) -> None:
    with open(tmp_path / "sparse.jpg", "wb") as file:
        for gap in range(40):  # more than fit into the first header
            file.seek(gap * 2**16)
            file.write(b"x" * 4096)
    (tmp_path / "after.jpg").write_bytes(b"after")
    for kind in ("gnu", "posix"):
        command = ["tar", "--sparse", f"--format={kind}", "-cf", f"{kind}.tar", "sparse.jpg", "after.jpg"]
        subprocess.run(command, cwd=tmp_path, check=True)
        [member] = members((tmp_path / f"{kind}.tar").read_bytes())
        assert (member.name, member.size) == ("after.jpg", 5)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (b"x" + header("b.jpg")[1:], r"its header at byte 1,024 \(after 'a.jpg'\) is damaged"),
        (header("b.jpg")[:300], r"its header at byte 1,024 \(after 'a.jpg'\) is damaged"),
        (with_checksum(header("b.jpg")[:124] + b"\xff" * 12 + header("b.jpg")[136:]), "is damaged"),  # size: -1
        (with_checksum(header("b.jpg")[:124] + b"\x80" + b"\xff" * 11 + header("b.jpg")[136:]), "is damaged"),
        (with_checksum(header("b.jpg")[:124] + b"-0000000001\0" + header("b.jpg")[136:]), "is damaged"),
        (with_checksum(header("b.jpg")[:124] + b"0000_000011\0" + header("b.jpg")[136:]), "is damaged"),
        (header("pax", 2**33, tarfile.XHDTYPE), "declares a name of 8,589,934,592 bytes"),
        (header("././@LongLink", 2**33, tarfile.GNUTYPE_LONGNAME), "declares a name of 8,589,934,592 bytes"),
    ],
)
def test_damaged_headers_end_the_members(block: bytes, message: str) -> None:
    stream = read_members(io.BytesIO(header("a.jpg", 1) + b"x" * 512 + block))
    assert next(stream).name == "a.jpg"
    with pytest.raises(DamagedTar, match=message):
        next(stream)


def test_a_record_that_lies_about_its_length_ends() -> None:
    for record in (b"0 path=b\n", b"999999 path=b\n", b"7 path", b"\xff" * 20):
        content = header("pax", len(record), tarfile.XHDTYPE) + record.ljust(512, b"\0") + header("a.jpg")
        assert len(members(content)) == 1


def test_many_empty_members_take_no_memory() -> None:
    stream = io.BytesIO(header("a.jpg") * 5000)
    tracemalloc.start()
    assert sum(1 for _ in read_members(stream)) == 5000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000
