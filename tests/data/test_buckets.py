"""Images in buckets: moto's S3 server, directly and behind a server that refuses requests."""

import contextlib
import csv
import json
import re
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from faulty_storage import FaultyServer, faulty_storage
from helpers import SMALL, CrashingRef, Finished, decode_ahead, encoded, make_image, write_targets
from object_storage import S3Server

from pipeline.core.errors import ImageError, PipelineError, RequestError
from pipeline.data import buckets
from pipeline.data.decoding import MAX_PIXELS
from pipeline.data.images import DIGEST, ImageRef
from pipeline.data.sources import find_images, image_refs
from pipeline.features.backends.slots import Slots

Run = Callable[..., Finished]
ODD_NAMES = ("a b/é.png", "a+b/#1?.png", "p%20q/%.png", "~/*&=.png")


@pytest.fixture(autouse=True)
def variables(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3.variables.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def cache(fresh_cache: Callable[[str], Path]) -> Path:
    return fresh_cache("cache")


@pytest.fixture
def photos(s3: S3Server, folder: Path, request: pytest.FixtureRequest) -> str:
    """The images of `folder` in a new bucket."""
    name = "".join(
        letter for letter in request.node.name.lower().replace("_", "-") if letter.isalnum() or letter == "-"
    )
    s3.upload(folder, name[:60])
    return name[:60]


@contextlib.contextmanager
def refusing(s3: S3Server, status: int, code: str, after: int = 0) -> Iterator[str]:
    """Start a server that forwards some requests for objects and lists, then refuses all; returns its address."""
    answered = iter(range(after))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if next(answered, None) is None:
                answer, headers, data = status, {}, f"<Error><Code>{code}</Code></Error>".encode()
            else:
                connection = HTTPConnection(s3.url.removeprefix("http://"))
                connection.request(self.command, self.path, headers=dict(self.headers))
                got = connection.getresponse()
                answer, headers, data = got.status, dict(got.headers), got.read()
            self.send_response(answer)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        do_HEAD = do_GET

        def log_message(self, *arguments: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            pass  # the client has exited

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def extract(run: Run, images: object, cache: Path, code: int = 0) -> Finished:
    return run("extract", images, *SMALL, "--cache", cache, "--json", code=code)


def reads(s3: S3Server, bucket: str) -> int:
    return len(s3.requests("GET", f"/{bucket}/"))


def test_a_bucket_is_searched_like_a_folder(
    s3: S3Server, folder: Path, photos: str, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("notes.txt", ".hidden.png", "red/.git/x.png", "red/x.psd", "top.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
        s3.put(photos, name, b"x")
    here = find_images(folder)
    caplog.clear()
    found = find_images(f"s3://{photos}")
    assert (found.paths, found.labels, found.passed_over) == (here.paths, here.labels, here.passed_over)
    assert found.paths[-1] == "top.png"
    assert found.labels[-1] == ""
    assert "'red/x.psd'" in caplog.text
    assert [ref.uri for ref in found.refs] == [f"s3://{photos}/{path}" for path in found.paths]
    assert [ref.read()[0] for ref in found.refs] == [ref.read()[0] for ref in here.refs]


def test_keys_are_used_verbatim(s3: S3Server) -> None:
    s3.create_bucket("odd-names")
    for name in ODD_NAMES:
        s3.put("odd-names", name, name.encode())
    found = find_images("s3://odd-names")
    assert found.paths == sorted(ODD_NAMES)
    assert [ref.read()[0].decode() for ref in found.refs] == found.paths


def test_a_prefix_is_a_folder_and_an_object_is_an_image(s3: S3Server, photos: str) -> None:
    s3.put(photos, "red-2/x.png", b"x")
    for source in (f"s3://{photos}/red", f"s3://{photos}/red/"):
        assert find_images(source).paths == ["0.png", "1.png", "2.png"]
    one = find_images(f"s3://{photos}/red/1.png")
    assert (one.paths, one.refs[0].uri) == (["1.png"], f"s3://{photos}/red/1.png")
    assert one.refs[0].version()
    with pytest.raises(RequestError, match="no images below this prefix"):
        find_images(f"s3://{photos}/re")


def test_an_unchanged_bucket_is_not_read_again(run: Run, s3: S3Server, photos: str, cache: Path) -> None:
    assert extract(run, f"s3://{photos}", cache).json["computed"] == 6
    assert reads(s3, photos) == 6
    assert extract(run, f"s3://{photos}", cache).json["cached"] == 6
    assert extract(run, f"s3://{photos}/red", cache).json["cached"] == 3
    assert reads(s3, photos) == 6
    s3.put(photos, "red/1.png", encoded(make_image(77)))
    again = extract(run, f"s3://{photos}", cache).json
    assert (again["computed"], again["cached"]) == (1, 5)
    assert s3.requests("GET", f"/{photos}/")[6:] == [f"/{photos}/red/1.png"]


def test_an_object_changed_after_listing_has_the_version_that_was_read(s3: S3Server, photos: str) -> None:
    [listed, *_] = find_images(f"s3://{photos}").refs
    s3.put(photos, "blue/0.png", b"changed")
    data, version = listed.read()
    assert data == b"changed"
    assert version != listed.version()
    assert version == find_images(f"s3://{photos}").refs[0].version()


def test_a_list_can_mix_objects_and_files(run: Run, s3: S3Server, folder: Path, photos: str, cache: Path) -> None:
    names = [f"s3://{photos}/red/{number}.png" for number in (2, 0)] + [f"s3://{photos}/gone.png", "blue/1.png"]
    file = folder / "list.csv"
    with open(file, "w", newline="") as opened:
        csv.writer(opened).writerows([("path",), *((name,) for name in names)])
    found = find_images(file)
    assert found.paths == sorted(names)
    assert found.labels == ["blue", "", "red", "red"]
    result = extract(run, file, cache)
    assert result.json["computed"] == 3
    assert result.json["failed"] == [{"path": f"s3://{photos}/gone.png", "error": "there is no such object"}]
    assert extract(run, file, cache).json["cached"] == 3
    assert reads(s3, photos) == 2 + 2  # a missing object is requested each time


def test_other_kinds_of_urls_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"https:// URLs are not supported.*s3://BUCKET/PREFIX"):
        find_images("https://example.org/images")
    with pytest.raises(RequestError, match="s3:///images has no bucket name"):
        find_images("s3:///images")
    (tmp_path / "list.txt").write_text("ftp://example.org/a.png\n")
    with pytest.raises(RequestError, match=r"'ftp://example\.org/a\.png' is at an address that is not read"):
        find_images(tmp_path / "list.txt")


def test_objects_that_are_not_images_are_named(run: Run, s3: S3Server, photos: str, cache: Path) -> None:
    s3.put(photos, "blue/0.png", b"")
    s3.put(photos, "red/0.png", b"not an image")
    failed = extract(run, f"s3://{photos}", cache).json["failed"]
    assert [each["path"] for each in failed] == ["blue/0.png", "red/0.png"]
    assert failed[0]["error"] == "the object is empty"
    with pytest.raises(ImageError, match="there is no such object"):
        ImageRef(f"s3://{photos}/redirect to region/latest/api/token").read()
    with pytest.raises(ImageError, match="there is no such object"):
        ImageRef(f"s3://{photos}/a//b.png").read()
    with pytest.raises(ImageError, match="cannot address"):
        ImageRef(f"gs://{photos}/a//b.png").read()


def test_a_too_large_object_is_not_read(photos: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buckets, "MAX_BYTES", 100)
    with pytest.raises(ImageError, match="larger than 100 bytes"):
        ImageRef(f"s3://{photos}/red/0.png").read()


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., FaultyServer]]:
    """Start a server with the bucket `bucket` for this process."""
    with contextlib.ExitStack() as running:

        def start(objects: Mapping[str, bytes], **faults: str) -> FaultyServer:
            server = running.enter_context(faulty_storage(objects, faults))
            monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
            return server

        yield start


ODD_KEYS = (
    "tab\there.png",
    "new\nline.png",
    "/lead.png",
    "//two.png",
    "red//x.png",
    "red/y\x7f.png",
    "nfd/e\u0301.png",
)


@pytest.mark.parametrize("odd", ODD_KEYS)
def test_an_odd_key_does_not_break_a_bucket(faulty: Callable[..., FaultyServer], odd: str) -> None:
    plain = ("a.png", "A.png", "red/b.png", "100%.png")
    faulty({key: key.encode() for key in (*plain, odd)})
    found = find_images("s3://bucket")
    assert found.paths == sorted((*plain, odd))
    assert [ref.read()[0].decode() for ref in found.refs] == found.paths
    assert all(ref.version() for ref in found.refs)
    below = find_images("s3://bucket/red").paths
    assert below == [key.removeprefix("red/") for key in sorted((*plain, odd)) if key.startswith("red/")]


def test_keys_with_dots_as_a_segment_are_hidden(faulty: Callable[..., FaultyServer]) -> None:
    faulty(dict.fromkeys(("a.png", "red/./b.png", "red/../c.png", "./d.png"), b"x"))
    assert find_images("s3://bucket").paths == ["a.png"]


@pytest.mark.parametrize("odd", ["tab\there.png", "//two.png", "red//x.png", "red/../z.png"])
def test_an_odd_key_is_named_if_no_client_can_list_it(
    faulty: Callable[..., FaultyServer], odd: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """obstore refuses the whole listing, and botocore has no credentials for other clouds. Azurite too."""
    server = faulty({key: key.encode() for key in ("a.png", "red/b.png", "z/c.png", odd)})
    monkeypatch.setenv("GOOGLE_BASE_URL", server.url)
    monkeypatch.setenv("GOOGLE_BEARER_TOKEN", "token")
    with pytest.raises(RequestError, match=rf'gs://bucket: .*"{re.escape(odd)}".*Rename this object'):
        find_images("gs://bucket")
    assert find_images("gs://bucket/z").paths == ["c.png"]


@pytest.mark.parametrize("odd", [(), ("b//c.png",)])
def test_folder_markers_are_not_images(faulty: Callable[..., FaultyServer], odd: tuple[str, ...]) -> None:
    images = ("cats.jpg/1.png", "empty.png", *odd)
    faulty(dict.fromkeys(images, b"") | {"cats.jpg/": b"", "dogs/": b"", "birds.png/": b""})
    assert find_images("s3://bucket").paths == sorted(images)


def test_a_prefix_can_be_odd(faulty: Callable[..., FaultyServer]) -> None:
    faulty(dict.fromkeys(("a\tb/1.png", "a/2.png"), b"x"))
    assert find_images("s3://bucket/a\tb").paths == ["1.png"]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests of this process time out early."""
    monkeypatch.setitem(buckets.RETRIES, "retry_timeout", timedelta(seconds=0.5))
    monkeypatch.setitem(buckets.CLIENT, "read_timeout", timedelta(seconds=1))
    monkeypatch.setattr(buckets, "PATIENCE", 1.0)
    monkeypatch.setattr(buckets, "SHORT", timedelta(seconds=2))


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        ("error", r"does not deliver it \(status 500\)"),
        ("silent", r"does not deliver it \(TimedOut\)"),
        ("cut", r"does not deliver it \(its answer broke off\)"),
        ("trickle", r"download is too slow: \d+ of 400 bytes in \d s"),
        ("flip", r"differs from its ETag, an MD5"),
    ],
)
def test_a_failing_object_fails_only_its_image(faulty: Callable[..., FaultyServer], fault: str, cause: str) -> None:
    faulty({"a.png": bytes(400), "b.png": b"b"}, **{"a.png": fault})
    bad, good = find_images("s3://bucket").refs
    with pytest.raises(ImageError, match=cause):
        bad.read()
    assert good.read()[0] == b"b"
    assert buckets.find_versions([bad.uri, good.uri])[good.uri] == good.version()


@pytest.mark.slow
def test_bad_objects_are_named_and_the_run_continues(
    run: Run, faulty: Callable[..., FaultyServer], cache: Path
) -> None:
    objects = {f"{number}.png": encoded(make_image(number)) for number in range(12)}
    server = faulty(objects, **{"3.png": "cut", "5.png": "flip", "7.png": "flip once", "9.png": "encrypted"})
    failed = extract(run, "s3://bucket", cache).json["failed"]
    assert [each["path"] for each in failed] == ["3.png", "5.png"]
    assert server.gets["5.png"] > server.gets["1.png"] == 1
    server.faults.clear()
    again = extract(run, "s3://bucket", cache).json
    assert (again["computed"], again["cached"], again["failed"]) == (2, 10, [])


@pytest.mark.usefixtures("impatient")
def test_a_slow_odd_key_fails_only_its_image(
    faulty: Callable[..., FaultyServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buckets, "LONG", timedelta(seconds=1))
    server = faulty({"a//1.png": bytes(400), "a//2.png": b"b"}, **{"a//1.png": "trickle"})
    bad, good = find_images("s3://bucket").refs
    with pytest.raises(ImageError, match="download is too slow: incomplete after 1 s"):
        bad.read()
    assert good.read()[0] == b"b"
    server.faults[""] = "trickle"
    with pytest.raises(PipelineError, match="does not answer"):
        find_images("s3://bucket/a//")


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("fault", ["cut", "trickle"])
def test_a_broken_listing_fails_the_command(faulty: Callable[..., FaultyServer], fault: str) -> None:
    faulty({"a.png": b"x"}, **{"": fault})
    with pytest.raises(PipelineError, match="does not answer") as raised:
        find_images("s3://bucket")
    assert raised.value.exit_code == 1


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
def test_a_lost_server_fails_the_command(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for status in (500, 503):
        with refusing(s3, status, "InternalError") as address:
            monkeypatch.setenv("AWS_ENDPOINT_URL", address)
            with pytest.raises(PipelineError, match="does not answer") as raised:
                ImageRef("s3://bucket/a.png").read()
            assert not isinstance(raised.value, ImageError)


def test_a_wrong_bucket_gives_one_message(run: Run, s3: S3Server, tmp_path: Path) -> None:
    message = f"There is no bucket s3://nowhere at {s3.url}. Check its name and AWS_ENDPOINT_URL."
    assert message in run("extract", "s3://nowhere", *SMALL, code=2).err
    (tmp_path / "list.txt").write_text("".join(f"s3://nowhere/{number}.png\n" for number in range(30)))
    finished = run("extract", tmp_path / "list.txt", *SMALL, code=2)
    assert finished.err.count("There is no bucket") == 1


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (403, "AccessDenied", "access denied by .*; a public bucket is read with AWS_SKIP_SIGNATURE=true"),
        (
            403,
            "InvalidAccessKeyId",
            r"does not accept the credentials \(InvalidAccessKeyId\)\. Renew AWS_ACCESS_KEY_ID",
        ),
        (400, "ExpiredToken", r"does not accept the credentials \(ExpiredToken\)\. Renew .*AWS_SESSION_TOKEN"),
        (301, "PermanentRedirect", "another region. Set AWS_REGION"),
        (400, "AuthorizationHeaderMalformed", "another region. Set AWS_REGION"),
    ],
)
def test_a_denied_bucket_gives_one_message(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch, status: int, code: str, message: str
) -> None:
    with refusing(s3, status, code) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        with pytest.raises(RequestError, match=message):
            find_images("s3://bucket")


@pytest.mark.parametrize(
    ("scheme", "metadata", "missing"),
    [
        ("s3", "AWS_METADATA_ENDPOINT", "AWS_ACCESS_KEY_ID.*AWS_SKIP_SIGNATURE=true"),
        ("gs", "GCE_METADATA_HOST", "GOOGLE_APPLICATION_CREDENTIALS.*GOOGLE_SKIP_SIGNATURE=true"),
        ("az", "AZURE_MSI_ENDPOINT", "AZURE_STORAGE_ACCOUNT_NAME.*AZURE_SKIP_SIGNATURE=true"),
    ],
)
def test_missing_credentials_give_one_message(
    monkeypatch: pytest.MonkeyPatch, scheme: str, metadata: str, missing: str
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    here = f"127.0.0.1:{closed_port()}"  # instead of the cloud's metadata address
    monkeypatch.setenv(metadata, here if scheme == "gs" else f"http://{here}")
    monkeypatch.setitem(buckets.RETRIES, "retry_timeout", timedelta(0))
    with pytest.raises(RequestError, match=f"{scheme}://bucket: no credentials were found. Set {missing}"):
        find_images(f"{scheme}://bucket")


def test_a_dead_endpoint_gives_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(buckets.RETRIES, "retry_timeout", timedelta(seconds=0.5))
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{closed_port()}")
    with pytest.raises(PipelineError, match=r"does not answer \(Connection refused\)\. Check the network") as raised:
        find_images("s3://bucket")
    assert not isinstance(raised.value, RequestError)
    with pytest.raises(PipelineError, match="does not answer"):
        image_refs(["s3://bucket/a.png"])


def test_expiring_credentials_end_the_run_which_then_resumes(
    run: Run, s3: S3Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.create_bucket("expiring")
    for number in range(80):
        s3.put("expiring", f"{number:02}.png", encoded(make_image(number)))
    with refusing(s3, 400, "ExpiredToken", after=61) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        finished = extract(run, "s3://expiring", cache, code=2)
    assert finished.err.count("ExpiredToken") == 1
    assert "skipped" not in finished.err
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.url)
    resumed = extract(run, "s3://expiring", cache).json
    assert (resumed["images"], resumed["failed"]) == (80, [])


def test_a_list_in_a_denied_bucket_gives_one_message(
    run: Run, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "list.txt").write_text("".join(f"s3://bucket/{number}.png\n" for number in range(30)))
    with refusing(s3, 400, "ExpiredToken") as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        assert run("extract", tmp_path / "list.txt", *SMALL, code=2).err.count("ExpiredToken") == 1
    with refusing(s3, 403, "AccessDenied") as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        assert "None of the 30 images" in run("extract", tmp_path / "list.txt", *SMALL, code=1).err


def test_objects_that_crash_the_decoder_are_named_and_affect_no_other(s3: S3Server) -> None:
    s3.create_bucket("crashes")
    for number in range(30):
        s3.put("crashes", f"{number:02}.png", encoded(make_image(number)))
    refs = list(find_images("s3://crashes").refs)
    refs[20] = CrashingRef(refs[20].uri)
    found = list(decode_ahead(refs, range(30), np.zeros(0, DIGEST), Slots(64), 1, MAX_PIXELS))
    assert [image.number for image in found] == list(range(30))
    assert [image.number for image in found if not image.is_new] == [20]
    assert found[20].crashed


def test_a_run_on_a_bucket(run: Run, photos: str, tmp_path: Path) -> None:
    targets = write_targets(tmp_path, "blue", "red")
    options = ("--epochs", 2, "--models", tmp_path / "models", "--api", "functional", "--split", "random:0.4")
    trained = run("train", f"s3://{photos}", "--targets", targets, *SMALL, *options, "--json").json
    folder = Path(trained["run"])
    assert json.loads((folder / "run.json").read_text())["options"]["images"] == f"s3://{photos}"
    again = run("train", "--config", folder, "--models", tmp_path / "again", "--quiet", "--json").json
    assert again["models"]["functional"]["train_cosine"] == trained["models"]["functional"]["train_cosine"]
    report = tmp_path / "report.html"
    evaluated = run("evaluate", folder, "--report", report, "--json", "--quiet").json
    assert evaluated["models"]["functional"]["worst"][0]["path"].startswith(("blue/", "red/"))
    assert report.read_text().count("data:image/jpeg;base64,") >= evaluated["images"]
    found = run("search", f"s3://{photos}", "--query", f"s3://{photos}/red/1.png", *SMALL, "--json").json["found"]
    assert "red/1.png" not in [each["path"] for each in found]
    assert len({each["path"] for each in found}) == len(found) > 1
    missing = run("search", f"s3://{photos}", "--query", f"s3://{photos}/red/9.png", *SMALL, code=2)
    assert "there is no such object" in missing.err


def test_images_in_gs(run: Run, s3: S3Server, folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with moto's server: obstore's client for Google uses the XML API, which matches S3's."""
    s3.upload(folder, photos := "googlesphotos")  # moto does not unescape the client's "-"
    monkeypatch.setenv("GOOGLE_BASE_URL", s3.url)
    monkeypatch.setenv("GOOGLE_BEARER_TOKEN", "token")
    assert extract(run, f"gs://{photos}", cache).json["computed"] == 6
    assert extract(run, f"gs://{photos}/red", cache).json["cached"] == 3
    assert reads(s3, photos) == 6
    with pytest.raises(RequestError, match=r"no bucket gs://nowhere at .*GOOGLE_BASE_URL"):
        find_images("gs://nowhere")


@pytest.mark.parametrize(("scheme", "extra"), [("s3", "s3"), ("gs", "gcs"), ("az", "azure")])
def test_a_missing_extra_is_reported(run: Run, monkeypatch: pytest.MonkeyPatch, scheme: str, extra: str) -> None:
    buckets._connect.cache_clear()
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    message = f"{scheme}:// addresses need obstore; install it with pip install 'image-vectors[{extra}]'"
    assert message in run("extract", f"{scheme}://bucket", *SMALL, code=2).err
