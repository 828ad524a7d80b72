"""A file system that fails now and then: strace injects errors into system calls of real commands on a real cache."""

import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from helpers import SMALL, are_close, environment_at, make_images, wait_for_tick

from pipeline.data.images import DIGEST, content_digest
from pipeline.data.sources import find_images
from pipeline.features.extractor import Extractor
from pipeline.features.file_index import FileIndex
from pipeline.features.store import FeatureStore
from pipeline.features.weights import weights_from

EXTRACTOR = Extractor(weights_from("random:0"), "block5_pool")

SHARED = {"fdatasync", "linkat", "pwrite64", "renameat"}  # used only by databases and stores
CALLS = {
    **dict.fromkeys(("fcntl", "flock", "getdents64", "mkdir", "pread64", "statx", "unlink", *SHARED), ("EIO",)),
    "openat": ("EIO", "EMFILE"),
}
MOMENTS = ("1", "2", "3", "5", "8", "2+3", "1+")  # 2+3: the second call of a thread, and every third call after it


@dataclass(frozen=True)
class Faulty:
    """A command with injected system call errors."""

    code: int
    err: str
    count: int


@pytest.fixture(scope="module")
def run_faulty(home: Path) -> Callable[..., Faulty]:
    """Run Python while a system call fails, only for files in a folder if the call is a common one."""
    if not shutil.which("strace") or subprocess.run(["strace", "-qq", "true"], capture_output=True).returncode:
        pytest.skip("no strace on this system that may trace (Debian: apt-get install strace)")

    def command(folder: Path, fault: str, *arguments: object) -> Faulty:
        call, record = fault.partition(":")[0], folder.with_suffix(".calls")
        files = [] if call in SHARED else [folder, *folder.rglob("*")]
        places = [word for each in files for word in ("-P", str(each))]
        injection = ["-e", f"trace={call}", "-e", f"inject={fault}"]
        finished = subprocess.run(
            ["strace", "-f", "-qq", "-o", record, *places, *injection, sys.executable, *map(str, arguments)],
            env=environment_at(home),
            capture_output=True,
            text=True,
            timeout=120,
        )
        return Faulty(finished.returncode, finished.stderr, record.read_text().count("(INJECTED)"))

    return command


def check_named(finished: Faulty, folder: Path) -> None:
    """Check that a command succeeded, or failed with one message that names the cache, without reporting damage."""
    assert finished.code in (0, 1), finished.err
    assert "Traceback" not in finished.err
    assert "damaged" not in finished.err.replace("If its files are damaged", "").replace("If it is damaged", "")
    if finished.code:
        [line] = [line for line in finished.err.splitlines() if line.startswith("error:")]
        assert str(folder) in line


def filled_store(cache: Path, contents: Sequence[bytes]) -> tuple[FeatureStore, np.ndarray]:
    """A store with vectors of some contents, and their digests."""
    store, count = FeatureStore(cache, EXTRACTOR), len(contents)
    digests = np.frombuffer(b"".join(map(content_digest, contents)), DIGEST)
    vectors = np.random.default_rng(0).random((count, 512), np.float32)
    store.append(digests, vectors, np.zeros((count, 24, 24), np.uint8), np.arange(count))
    return store, digests


@pytest.mark.faults
def test_a_disk_that_fails_now_and_then_loses_nothing(run, run_faulty, fresh_cache, times: int, tmp_path: Path) -> None:
    known, more = make_images(tmp_path / "known", range(12)), make_images(tmp_path / "more", range(14))
    extract = ("extract", more, *SMALL, "--batch-size", 2, "--cache")
    right = tmp_path / "right.npy"
    run(*extract, fresh_cache("right"), "--out", right)
    wait_for_tick(known)
    run("extract", known, *SMALL, "--batch-size", 2, "--cache", fresh_cache("whole"))
    whole = FeatureStore(tmp_path / "whole", EXTRACTOR)
    files = [file for name in ("data/*", "_versions/*.manifest") for file in whole.path.glob(name)]
    chance, failed, count = random.Random(0), 0, 0
    for number in range(20 * times):
        cache = tmp_path / f"copy{number}"
        shutil.copytree(tmp_path / "whole", cache)
        commands = [
            (*extract, cache),
            (*extract, cache, "--verify"),
            ("cache", "--cache", cache),
            ("cache", "prune", "--not-in", known, "--yes", "--cache", cache),
            ("cache", "merge", cache, "--cache", tmp_path / f"copy{number}-merged"),
        ]
        call = chance.choice(list(CALLS))
        fault = f"{call}:error={chance.choice(CALLS[call])}:when={chance.choice(MOMENTS)}"
        finished = run_faulty(cache, fault, "-m", "pipeline", *chance.choice(commands))
        failed, count = failed + bool(finished.code), count + bool(finished.count)
        check_named(finished, cache)
        assert not list(cache.rglob("*damaged*"))
        kept = [cache / file.relative_to(tmp_path / "whole") for file in files]
        assert [file.read_bytes() for file in kept] == [file.read_bytes() for file in files]
        stored = FeatureStore(cache, EXTRACTOR)
        assert stored.drop_damaged() == 0
        assert np.array_equal(stored.features(whole.digests), whole.features(whole.digests))
        out = tmp_path / "out.npy"
        resumed = run(*extract, cache, "--json", "--overwrite", "--out", out)
        assert resumed.json["computed"] <= 2
        assert are_close(np.load(out), np.load(right))
        shutil.rmtree(cache)
    assert count > 0.4 * 20 * times
    assert failed > 0


def test_an_unreadable_cache_is_reported(run_faulty, tmp_path: Path) -> None:
    data = FeatureStore(tmp_path / "cache", EXTRACTOR).path / "data"
    data.mkdir()
    finished = run_faulty(data, "openat:error=EIO:when=1+", "-m", "pipeline", "cache", "--cache", tmp_path / "cache")
    assert finished.count
    assert finished.err.startswith(f"error: The cache {tmp_path / 'cache'} cannot be listed ([Errno 5] Input/output")


@pytest.mark.parametrize(
    "fault", ["openat:error=EIO:when=2", "openat:error=EMFILE:when=3", "getdents64:error=EIO:when=4"]
)
def test_features_of_an_unlistable_folder_are_kept(run, run_faulty, fault: str, tmp_path: Path) -> None:
    """Even if it can be listed again a moment later and nothing else is wrong."""
    for label in ("a", "b"):
        make_images(tmp_path / "images" / label, [ord(label)])
    _, digests = filled_store(tmp_path / "cache", [ref.read()[0] for ref in find_images(tmp_path / "images").refs])
    prune = ("cache", "prune", "--not-in", tmp_path / "images", "--yes", "--cache", tmp_path / "cache")
    finished = run_faulty(tmp_path / "images", fault, "-m", "pipeline", *prune)
    assert finished.count
    assert "cannot be read; nothing was removed" in finished.err
    assert FeatureStore(tmp_path / "cache", EXTRACTOR).contains(digests).all()
    assert run(*prune, "--json").json["rows"] == {}


OPEN_STORE = """
import sys
from pathlib import Path
from pipeline.core.errors import PipelineError
from pipeline.features.extractor import Extractor
from pipeline.features.store import FeatureStore
from pipeline.features.weights import weights_from

try:
    FeatureStore(Path(sys.argv[1]), Extractor(weights_from("random:0"), "block5_pool")).drop_damaged()
except PipelineError as error:
    sys.exit(f"error: {error}")
"""


@pytest.mark.parametrize("moment", ["1+", "2+2"])
def test_a_read_error_of_a_data_file_is_not_damage(run_faulty, moment: str, tmp_path: Path) -> None:
    """A bad sector that Lance reads; the file's length and end, which are checked for damage first, are intact."""
    store, digests = filled_store(tmp_path, [b"1", b"2", b"3", b"4"])
    finished = run_faulty(store.path / "data", f"pread64:error=EIO:when={moment}", "-c", OPEN_STORE, tmp_path)
    assert finished.count
    assert finished.code == 1
    check_named(finished, store.path)
    assert FeatureStore(tmp_path, EXTRACTOR).contains(digests).all()


READ_INDEX = """
import sys
from pathlib import Path
from pipeline.core.errors import PipelineError
from pipeline.data.sources import find_images
from pipeline.features.file_index import FileIndex

try:
    assert all(FileIndex(Path(sys.argv[1])).digests(find_images(sys.argv[2]).refs))
except PipelineError as error:
    sys.exit(f"error: {error}")
"""


def test_a_read_error_of_the_file_index_is_not_damage(run_faulty, tmp_path: Path) -> None:
    images, cache = make_images(tmp_path / "images", range(4)), tmp_path / "cache"
    wait_for_tick(images)
    refs = find_images(images).refs
    FileIndex(cache).record([(ref, str(ref.version()), bytes(16)) for ref in refs])
    index = (cache / "images.sqlite").read_bytes()
    for moment in (3, 5, 6, "5+", "2+3"):  # on errors in the fifth and sixth call, SQLite reports a malformed database
        finished = run_faulty(cache, f"pread64:error=EIO:when={moment}", "-c", READ_INDEX, cache, images)
        assert finished.count
        check_named(finished, cache)
        assert finished.code == 1
    assert (cache / "images.sqlite").read_bytes() == index
