"""Reader for examples of TensorFlow data sets (https://www.tensorflow.org/datasets)."""

import contextlib
import functools
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.error import URLError

from pipeline.core.errors import Parameter, PipelineError, RequestError, first_line
from pipeline.core.keras_backend import import_keras

SOURCE = re.compile(r"tfds:(?P<name>\w+(?:/[\w.-]+)*(?::\d+\.\d+\.\d+)?):(?P<split>[^:]+(?:\[.*\])?)")


def example_uri(source: str, data_dir: Path | None, number: int) -> str:
    """The URI of an example in a split, by its number."""
    folder = json.dumps(str(data_dir.absolute())) if data_dir else "null"
    return f"{source}#{number}#{folder}"


def read_example(uri: str) -> bytes:
    """Read the image of an example, as the bytes of a file.

    Args:
        uri: A URI from `example_uri`.

    Raises:
        PipelineError: The data set has changed or is damaged.
    """
    source, number, folder = uri.split("#", 2)
    return _reader(source, folder).read(int(number))


@functools.lru_cache(maxsize=1)
def _reader(source: str, folder: str) -> "ExampleReader":
    data_dir = json.loads(folder)
    return ExampleReader(source, Path(data_dir) if data_dir else None)


class ExampleReader:
    """Reads the examples of a split as stored on disk: encoded, in order.

    Args:
        source: `tfds:NAME[/CONFIG]:SPLIT`.
        data_dir: The data folder of tensorflow-datasets; None for its default.

    Raises:
        RequestError: The data set does not exist, or has no images.
        PipelineError: It is not on disk and cannot be downloaded.
    """

    def __init__(self, source: str, data_dir: Path | None) -> None:
        self._split = _parts_of(source)["split"]
        import_keras()  # configures TensorFlow's threads and log before TensorFlow is loaded
        import tensorflow_datasets as tfds

        with _known_features_only(source):
            self._builder = _builder(source, data_dir)
            _prepare(source, self._builder)
            kinds = self._builder.info.features.items()
        self._image = next((name for name, kind in kinds if isinstance(kind, tfds.features.Image)), None)
        self._label = next((name for name, kind in kinds if isinstance(kind, tfds.features.ClassLabel)), None)
        if self._image is None:
            raise RequestError(f"{source}: this data set has no image (it has {', '.join(name for name, _ in kinds)}).")
        self._next = 0
        self._examples: Iterator[tuple[str, bytes, str]] = iter(())

    def examples(self) -> Iterator[tuple[str, bytes, str]]:
        """The id, the bytes of the image file and the label's name ("" without a label) of each example."""
        import tensorflow as tf
        import tensorflow_datasets as tfds

        decoders = {self._image: tfds.decode.SkipDecoding()}
        config = tfds.ReadConfig(add_tfds_id=True, interleave_cycle_length=1)
        try:
            for example in self._builder.as_dataset(split=self._split, decoders=decoders, read_config=config):
                number = -1 if self._label is None else int(example[self._label])  # -1: TFDS hides the label
                label = self._builder.info.features[self._label].int2str(number) if number >= 0 else ""
                yield example["tfds_id"].numpy().decode(), example[self._image].numpy(), label
        except tf.errors.OpError as error:
            raise PipelineError(
                f"The data set in {self._builder.data_path} is damaged ({first_line(error)}); "
                "delete it and run the command again."
            ) from error

    def read(self, number: int) -> bytes:
        """Read the image of an example: directly from a local TFRecord, otherwise after all examples before it.

        Raises:
            PipelineError: The data set changed or is damaged.
        """
        record = self._record(number)
        return self._read_in_order(number) if record is None else self._read_record(*record)

    @functools.cached_property
    def _parts(self) -> Sequence[Any]:
        """The files of the split in order, with the ranges of examples that belong to it."""
        return self._builder.info.splits[self._split].file_instructions

    def _record(self, number: int) -> tuple[str, int] | None:
        """The local TFRecord that contains an example, and its number in it; None if there is no such file."""
        for part in self._parts:
            count = part.take if part.take >= 0 else part.examples_in_shard - part.skip
            if number < count:
                is_local = self._builder.info.file_format.value == "tfrecord" and Path(part.filename).is_file()
                return (str(part.filename), part.skip + number) if is_local else None
            number -= count
        return None

    def _read_record(self, file: str, number: int) -> bytes:
        import tensorflow as tf
        import tensorflow_datasets as tfds
        from tensorflow.python.lib.io.tf_record import tf_record_random_reader

        try:
            record, _ = tf_record_random_reader(file).read(_record_offsets(file)[number])
        except (OSError, OverflowError, IndexError, tf.errors.OpError) as error:
            raise PipelineError(
                f"The data set in {self._builder.data_path} is damaged ({first_line(error)}); "
                "delete it and run the command again."
            ) from error
        decoders = {self._image: tfds.decode.SkipDecoding()}
        return self._builder.info.features.deserialize_example_np(record, decoders=decoders)[self._image]

    def _read_in_order(self, number: int) -> bytes:
        if number < self._next or not self._next:
            self._next, self._examples = 0, self.examples()
        for _, content, _ in self._examples:
            self._next += 1
            if self._next == number + 1:
                return content
        raise PipelineError(f"{self._builder.name}: the data set changed on disk while it was read.")


@functools.lru_cache(maxsize=4)
def _record_offsets(file: str) -> list[int]:
    """Offsets of the records in a TFRecord: each has its length in 8 bytes, a checksum, the data, and a checksum."""
    offsets, offset = [], 0
    with open(file, "rb", buffering=0) as stream:
        while len(length := stream.read(8)) == 8:
            offsets.append(offset)
            offset += 8 + 4 + int.from_bytes(length, "little") + 4
            stream.seek(offset)
    return offsets


@contextlib.contextmanager
def _known_features_only(source: str) -> Iterator[None]:
    """Stop tensorflow-datasets from importing modules named in a data set's `features.json`, except its own.

    Raises:
        RequestError: The file names another module, which is not imported yet.
    """
    import tensorflow_datasets as tfds

    connector = tfds.features.FeatureConnector
    original = vars(connector)["cls_from_name"]

    def checked(cls: Any, name: str) -> Any:
        module = str(name).rpartition(".")[0]
        if not module.startswith("tensorflow_datasets.") and module not in sys.modules:
            raise RequestError(
                f"{source}: its features.json names {name!r}, which is not a feature of tensorflow-datasets. "
                "If you trust it, import its module first, from Python."
            )
        return original.__func__(cls, name)

    connector.cls_from_name = classmethod(checked)
    try:
        yield
    finally:
        connector.cls_from_name = original


def check_on_disk(source: str, data_dir: Path | None) -> None:
    """Refuse a data set that would have to be downloaded.

    Args:
        source: `tfds:NAME[/CONFIG]:SPLIT`.
        data_dir: The data folder of tensorflow-datasets; None for its default.

    Raises:
        RequestError: The data set is not on disk, or does not exist.
    """
    import_keras()  # see `ExampleReader`
    with _known_features_only(source):
        builder = _builder(source, data_dir)
    if not builder.is_prepared():
        raise RequestError(
            f"{source} is not in {builder.data_dir}. Name a folder that holds it with ",
            Parameter("data_dir", "FOLDER"),
            f", or download it first: python -m pipeline extract {source}",
        )


def _builder(source: str, data_dir: Path | None) -> Any:
    """The builder of a data set."""
    import tensorflow_datasets as tfds

    try:
        return tfds.builder(_parts_of(source)["name"], data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        raise RequestError(f"{source}: tensorflow-datasets does not know this data set.") from error
    except RequestError:
        raise
    except Exception as error:  # an unknown config or version, or damaged metadata on disk
        raise RequestError(f"{source}: {first_line(error)}") from error


def _parts_of(source: str) -> re.Match[str]:
    """Split a source into the name of a data set and its split."""
    if not (parts := SOURCE.fullmatch(source)):
        raise RequestError(f"{source}: name a data set as tfds:NAME[/CONFIG]:SPLIT, such as tfds:cifar10:train.")
    return parts


def _prepare(source: str, builder: Any) -> None:
    """Download a data set if it is not on disk."""
    if not builder.is_prepared():
        try:
            builder.download_and_prepare()
        except Exception as error:  # the data set's own code and the network raise many types
            raise PipelineError(
                f"{source} is not in {builder.data_dir}, and cannot be downloaded ({first_line(error)}). ",
                *_way_out(error),
            ) from error


def _way_out(error: BaseException) -> Sequence[object]:
    """Advice on an error during download and preparation, as parts of a message."""
    import requests
    import tensorflow_datasets as tfds

    network = (requests.RequestException, URLError, ConnectionError, TimeoutError, tfds.download.DownloadError)
    causes, folder = list(_causes(error)), Parameter("data_dir", "FOLDER")
    if missing := next((cause.name for cause in causes if isinstance(cause, ImportError) and cause.name), None):
        return (f"It needs the Python package {missing.partition('.')[0]!r}; install it with pip.",)
    if any(isinstance(cause, network) for cause in causes):
        return "Check the network connection, or name a folder that holds the data set with ", folder, "."
    return "Name a folder that holds the data set with ", folder, ", or use another data set."


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error:
        yield error
        error = error.__cause__ or error.__context__
