"""Downloads of TensorFlow data sets, from an archive on disk; nothing comes from the network."""

import hashlib
import http.server
import shutil
import threading
from pathlib import Path

import pytest

from pipeline.core.errors import PipelineError
from pipeline.data.sources import find_images


def define(name: str, url: str, archive: Path | None) -> None:
    """Register a data set with an archive at a URL and, if it exists, a registered checksum."""
    import tensorflow_datasets as tfds

    infos = {}
    if archive:
        content = archive.read_bytes()
        infos[url] = tfds.download.checksums.UrlInfo(
            size=len(content), checksum=hashlib.sha256(content).hexdigest(), filename=archive.name
        )

    class Downloaded(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")
        url_infos = infos

        def _info(self):
            features = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(names=["blue", "red"])}
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, manager):
            folder = Path(manager.download_and_extract(url))
            return {"train": self._generate_examples(folder)}

        def _generate_examples(self, folder):
            if name.endswith("unpackaged"):
                import no_such_package  # noqa: F401
            for file in sorted(folder.rglob("*.png")):
                yield f"{file.parent.name}-{file.name}", {"image": file, "label": file.parent.name}

    type(name.title().replace("_", ""), (Downloaded,), {})


@pytest.fixture
def archive(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.make_archive(str(tmp_path / "archive"), "zip", folder))


def test_a_data_set_is_downloaded_and_unpacked(archive: Path, tmp_path: Path) -> None:
    define("newcomer_local", str(archive), archive)
    images = find_images("tfds:newcomer_local:train", tmp_path / "data")
    assert sorted(images.labels) == ["blue"] * 3 + ["red"] * 3


def test_the_package_needed_for_downloads_is_declared() -> None:
    import importlib.metadata

    import importlib_resources.abc

    assert importlib_resources.abc.Traversable
    declared = importlib.metadata.requires("image-vectors") or []
    project = (Path(__file__).resolve().parents[2] / "pyproject.toml").read_text()
    assert any(each.startswith("importlib-resources") for each in declared) or '"importlib-resources>=' in project


def test_only_network_errors_are_called_network_errors(archive: Path, tmp_path: Path) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:  # no files
        threading.Thread(target=server.serve_forever, daemon=True).start()
        define("newcomer_offline", f"http://127.0.0.1:{server.server_port}/a.zip", None)
        with pytest.raises(PipelineError, match=r"cannot be downloaded.*network connection.*data_dir=FOLDER"):
            find_images("tfds:newcomer_offline:train", tmp_path / "data")
        server.shutdown()
    define("newcomer_unpackaged", str(archive), archive)
    with pytest.raises(PipelineError, match="needs the Python package 'no_such_package'") as raised:
        find_images("tfds:newcomer_unpackaged:train", tmp_path / "data")
    assert "network connection" not in str(raised.value)
    archive.write_bytes(b"not a zip")
    define("newcomer_damaged", str(archive), archive)
    with pytest.raises(PipelineError, match="cannot be downloaded") as raised:
        find_images("tfds:newcomer_damaged:train", tmp_path / "data")
    assert "network connection" not in str(raised.value)
