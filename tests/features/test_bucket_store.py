"""A feature store in a bucket."""

import sys
import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import lance
import numpy as np
import pytest
from helpers import PROGRAMS, run_program
from lance.file import LanceFileSession
from object_storage import S3Server, s3_server

from pipeline.commands.cache import list_cache
from pipeline.core.errors import PipelineError, RequestError
from pipeline.features import merging, store_bucket
from pipeline.features.cache import cache_location
from pipeline.features.extractor import Extractor
from pipeline.features.options import ExtractionOptions
from pipeline.features.store import FeatureStore
from pipeline.features.store_bucket import StoreBucket, storage_options
from pipeline.features.store_folder import StoreFolder
from pipeline.features.vector_index import open_index
from pipeline.features.weights import weights_from

sys.path.append(str(PROGRAMS))
from append_to_store import rows

EXTRACTOR = Extractor(weights_from("random:0"), "block5_pool")


@pytest.fixture
def cache(s3: S3Server, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a cache in an empty bucket."""
    for name, value in s3.variables.items():
        monkeypatch.setenv(name, value)
    name = f"store-{zlib.crc32(request.node.name.encode())}"
    s3.create_bucket(name)
    return f"s3://{name}/some cache/ä"


def batch(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    return rows(seed, 0)


def data_files(store: FeatureStore) -> tuple[LanceFileSession, list[str]]:
    session = LanceFileSession(f"{store.path}/data", storage_options=storage_options())
    return session, session.list()


def test_features_are_returned_in_the_requested_order(cache: str) -> None:
    store = FeatureStore(cache, EXTRACTOR)
    digests, vectors, thumbnails, pixels = batch(1)
    store.append(digests, vectors, thumbnails, pixels)
    order = [7, 0, 9, 7]
    for opened in (store, FeatureStore(cache, EXTRACTOR)):
        assert len(opened) == 10
        assert np.array_equal(opened.features(digests[order]), vectors[order])
        assert np.array_equal(opened.thumbnails(digests[order]), thumbnails[order])
        assert np.array_equal(opened.pixel_counts(digests), pixels)


def test_three_processes_lose_and_duplicate_nothing(cache: str) -> None:
    with ThreadPoolExecutor() as pool:  # each checks its reads while the others append
        list(pool.map(lambda process: run_program("append_to_store", cache, process), range(3)))
    store = FeatureStore(cache, EXTRACTOR)
    assert len(store) == len(store.digests) == 3 * 5 * 8 + 5 * 2
    for process in range(3):
        for number in range(5):
            digests, vectors, *_ = rows(process, number)
            assert np.array_equal(store.features(digests), vectors)


def test_creating_an_existing_store_replaces_nothing(cache: str, s3: S3Server) -> None:
    store = FeatureStore(cache, EXTRACTOR)
    digests, vectors, *rest = batch(1)
    store.append(digests, vectors, *rest)
    before = s3.requests("PUT", "_versions")
    store._lance._create(store._schema)  # like a process that saw no store before this one was created
    assert s3.requests("PUT", "_versions") == before
    store.append(*batch(2))
    for opened in (store, FeatureStore(cache, EXTRACTOR)):
        assert len(opened) == 18
        assert np.array_equal(opened.features(digests), vectors)


def test_duplicate_rows_are_read_once(cache: str) -> None:
    store = FeatureStore(cache, EXTRACTOR)
    store.append(*batch(1))
    # Like a process that stores the same images at the same time.
    dataset = lance.dataset(store.path, storage_options=storage_options())
    lance.write_dataset(dataset.to_table(), dataset, mode="append")
    store.append(*batch(2))
    for opened in (store, FeatureStore(cache, EXTRACTOR)):
        assert len(opened) == len(opened.digests) == 18
        for seed in (1, 2):
            digests, vectors, *_ = batch(seed)
            assert np.array_equal(opened.features(digests), vectors)


def test_merging_keeps_every_vector(cache: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merging, "FRAGMENTS_BEFORE_MERGE", 3)
    stores = [FeatureStore(cache, EXTRACTOR) for _ in range(2)]

    def fill(half: int) -> None:
        for seed in range(half, 12, 2):
            stores[half].append(*batch(seed))
            stores[half].merge()

    with ThreadPoolExecutor() as pool:  # both merge at the same time
        list(pool.map(fill, range(2)))
    for opened in (*stores, FeatureStore(cache, EXTRACTOR)):
        opened.append(*batch(0))
        for seed in range(12):
            digests, vectors, *_ = batch(seed)
            assert np.array_equal(opened.features(digests), vectors)


def test_losing_a_race_to_merge_is_not_an_error(cache: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merging, "FRAGMENTS_BEFORE_MERGE", 3)
    stores = [FeatureStore(cache, EXTRACTOR) for _ in range(2)]
    for seed in range(4):
        stores[0].append(*batch(seed))
    stores[1].append(*batch(4))
    stores[0].append(*batch(5))
    before = stores[0]._lance.dataset()
    stores[0].merge()
    with monkeypatch.context() as patch:
        patch.setattr(stores[1]._lance, "dataset", lambda: before)
        stores[1].merge()  # too late
    for store in stores:
        store.append(*batch(5))
        assert len(store._dataset.get_fragments()) == 1
        assert len(store) == 6 * 8 + 2
        for seed in range(6):
            digests, vectors, *_ = batch(seed)
            assert np.array_equal(store.features(digests), vectors)


def test_an_append_takes_five_requests_and_one_more_after_other_commits(cache: str, s3: S3Server) -> None:
    def requests() -> int:
        return sum(len(s3.requests(method)) for method in ("GET", "PUT", "POST", "HEAD", "DELETE"))

    first, second = FeatureStore(cache, EXTRACTOR), FeatureStore(cache, EXTRACTOR)
    for seed in range(5):
        first.append(*batch(seed))
    before = requests()
    first.append(*batch(5))
    assert requests() - before == 5
    second.append(*batch(6))
    first.append(*batch(7))
    before = requests()
    second.append(*batch(8))
    assert requests() - before <= 5 + 3  # the newest version, and its one new data file
    before = requests()
    second.features(second.digests)
    assert requests() - before <= len(data_files(second)[1]) + 1  # not one request for each of 70 rows


def test_leftovers_of_a_killed_process_are_kept_for_a_week(cache: str, tmp_path: Path) -> None:
    store = FeatureStore(cache, EXTRACTOR)
    store.append(*batch(1))
    session, _ = data_files(store)
    (tmp_path / "left").write_bytes(b"of an append that may still run elsewhere")
    session.upload_file(str(tmp_path / "left"), "left.lance")
    store.tidy()
    assert "left.lance" in data_files(store)[1]


def test_a_changed_vector_is_detected_and_dropped(cache: str, tmp_path: Path) -> None:
    store = FeatureStore(cache, EXTRACTOR)
    digests, vectors, *rest = batch(1)
    store.append(digests, vectors, *rest)
    session, [name] = data_files(store)
    session.download_file(name, str(tmp_path / "data"))
    data = bytearray((tmp_path / "data").read_bytes())
    data[data.index(vectors[2].tobytes()[:64]) + 5] ^= 1
    (tmp_path / "data").write_bytes(data)
    session.upload_file(str(tmp_path / "data"), name)
    opened = FeatureStore(cache, EXTRACTOR)
    with pytest.raises(PipelineError, match=r"damaged.*extract --verify"):
        opened.features(digests)
    assert opened.drop_damaged() == 1
    kept = np.arange(10) != 2
    assert np.array_equal(opened.contains(digests), kept)
    assert np.array_equal(FeatureStore(cache, EXTRACTOR).features(digests[kept]), vectors[kept])


@pytest.mark.parametrize("place", ["data", "_versions"])
def test_a_damaged_store_is_refused(cache: str, place: str, tmp_path: Path) -> None:
    store = FeatureStore(cache, EXTRACTOR)
    store.append(*batch(1))
    session = LanceFileSession(f"{store.path}/{place}", storage_options=storage_options())
    name = min(session.list())
    (tmp_path / "half").write_bytes(b"no longer what it was")
    session.upload_file(str(tmp_path / "half"), name)
    with pytest.raises(PipelineError, match=r"cannot be opened \(.*delete this store in the bucket") as raised:
        FeatureStore(cache, EXTRACTOR)
    assert len(str(raised.value)) < 500
    [listed] = list_cache(cache).stores
    assert (listed.path, listed.images) == (store.path, None)


class Answer(BaseHTTPRequestHandler):
    """The response to all requests: a status, and the code of an S3 error."""

    status, code = 200, ""

    def do_GET(self) -> None:
        body = f"<Error><Code>{self.code}</Code><Message>{'a long story ' * 50}</Message></Error>".encode()
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Answer]]:
    answer = type("Answer", (Answer,), {})
    with ThreadingHTTPServer(("127.0.0.1", 0), answer) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        variables = {"AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{listening.server_port}")
        yield answer
        listening.shutdown()


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (404, "NoSuchBucket", "no such bucket"),
        (403, "AccessDenied", "access is denied"),
        (403, "InvalidAccessKeyId", "credentials are not valid"),
        (400, "ExpiredToken", "credentials have expired; log in again"),
        (501, "NotImplemented", "does not know conditional writes"),
        (503, "SlowDown", "overloaded or broken"),
    ],
)
def test_a_refused_request_gives_one_message(server: type[Answer], status: int, code: str, message: str) -> None:
    server.status, server.code = status, code
    with pytest.raises(PipelineError, match=rf"s3://pictures/\S+ cannot be opened: .*{message}") as raised:
        FeatureStore("s3://pictures/cache", EXTRACTOR)
    assert "long story" not in str(raised.value)


def test_an_unreachable_server_gives_one_message(server: type[Answer], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    with pytest.raises(PipelineError, match="does not answer; check the network"):
        FeatureStore("s3://pictures/cache", EXTRACTOR)


def test_missing_credentials_give_one_message(
    server: type[Answer], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(PipelineError, match="there are no credentials; set"):
        FeatureStore("s3://pictures/cache", EXTRACTOR)


def test_a_broken_connection_gives_one_message_and_keeps_stored_features(
    cache: str, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.setattr(store_bucket, "PATIENCE", store_bucket.NO_PATIENCE | {"client_max_retries": "1"})
    with s3_server(tmp_path_factory.mktemp("s3") / "log") as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        server.create_bucket("gone")
        store = FeatureStore("s3://gone", EXTRACTOR)
        store.append(*batch(1))
    with pytest.raises(PipelineError, match=r"cannot be written: the server does not answer"):
        store.append(*batch(2))
    with pytest.raises(PipelineError, match=r"cannot be read: the server does not answer"):
        store.features(batch(1)[0])
    with pytest.raises(PipelineError, match=r"cannot be read: the server does not answer"):
        store.thumbnails(batch(1)[0])


def test_every_failing_task_has_a_message() -> None:
    for place in (StoreFolder(Path("features/x.lance")), StoreBucket("s3://bucket/x.lance")):
        for task in ("open", "read", "write", "tidy", "repair", "prune"):
            for error in (OSError("odd"), RuntimeError("HTTP error: error sending request")):
                assert str(place.path) in str(place.error(task, error))


def test_a_vector_index_is_refused(cache: str) -> None:
    with pytest.raises(RequestError, match=r"index=True needs a store in a folder"):
        open_index(FeatureStore(cache, EXTRACTOR))


def test_a_url_stays_a_url(tmp_path: Path) -> None:
    options = ExtractionOptions(cache="s3://bucket/a prefix/")
    assert str(options.cache) == "s3://bucket/a prefix"
    assert options.folder == ExtractionOptions().folder
    local = ExtractionOptions(cache=str(tmp_path))
    assert (str(local.cache), local.folder) == (str(tmp_path), tmp_path)


@pytest.mark.parametrize(
    "place", ["ftp://bucket/x", "s3://", "s3:///x", "S3://bucket", Path("s3://bucket"), "s3:/b", "gs://b/a#1"]
)
def test_invalid_locations_of_a_cache_are_refused(place: str | Path) -> None:
    with pytest.raises(RequestError, match="The cache"):
        cache_location(place)
