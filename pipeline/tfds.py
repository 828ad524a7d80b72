"""TensorFlow data sets as a source of images (https://www.tensorflow.org/datasets)."""

import contextlib
import functools
import re
from collections.abc import Iterator
from pathlib import Path

from pipeline.backend import import_keras
from pipeline.errors import PipelineError, RequestError
from pipeline.images import ImageSet, Record, digest

SOURCE = re.compile(r"tfds:(?P<name>\w+(?:/[\w.-]+)*(?::\d+\.\d+\.\d+)?):(?P<split>[^:]+(?:\[.*\])?)")


def find_records(source: str, data_dir: Path | None) -> ImageSet:
    """Find the images of a data set's split; one that is not on disk is downloaded, with progress.

    Images are named by their TFDS ids and stay in the data set's own order; label names become labels. The data set is
    read once for the digests of its images; those that the feature store lacks are read again.

    Args:
        source: `tfds:NAME[/CONFIG]:SPLIT`; SPLIT as tensorflow-datasets takes it, such as `train[:10%]`.
        data_dir: Where its data are kept; None for tensorflow-datasets' own default.

    Returns:
        The images.

    Raises:
        RequestError: There is no such data set or split, or it has no image.
        PipelineError: It is not on disk and cannot be downloaded, or cannot be read.
    """
    asked = SOURCE.fullmatch(source)
    if not asked:
        raise RequestError(f"{source}: a data set is named as tfds:NAME[/CONFIG]:SPLIT, such as tfds:cifar10:train.")
    import_keras()  # sets up TensorFlow's threads and its log before it is loaded
    import tensorflow_datasets as tfds

    builder = _builder(source, asked["name"], data_dir)
    features = builder.info.features
    image = next((name for name, kind in features.items() if isinstance(kind, tfds.features.Image)), None)
    label = next((name for name, kind in features.items() if isinstance(kind, tfds.features.ClassLabel)), None)
    if image is None:
        raise RequestError(f"{source}: this data set has no image (it has {', '.join(features)}).")
    reader = _Reader(builder, asked["split"], image, label)
    try:
        paths, records, labels = [], [], []
        for number, (path, content, name) in enumerate(reader.examples()):
            paths.append(path)
            labels.append(name)
            records.append(Record(digest(content), functools.partial(reader.read, number)))
    except ValueError as error:
        raise RequestError(f"{source}: {_first_line(error)}") from error
    if not paths:
        raise RequestError(f"{source}: this split holds no examples.")
    return ImageSet(source, paths, records, labels)


def _builder(source: str, name: str, data_dir: Path | None):
    """The data set's builder, its data on disk."""
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        raise RequestError(f"{source}: tensorflow-datasets neither knows such a data set nor has it.") from error
    except ValueError as error:  # another config or version than there is
        raise RequestError(f"{source}: {_first_line(error)}") from error
    if not builder.is_prepared():
        try:
            builder.download_and_prepare()
        except Exception as error:  # whatever the data set's own code and the network raise
            raise PipelineError(
                f"{source} is not in {builder.data_dir}, and cannot be downloaded ({_first_line(error)}). Bring the "
                "network up, or name the folder that holds it with --data-dir."
            ) from error
    return builder


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class _Reader:
    """Reads the examples of a split, as they lie on disk: encoded, in order.

    Args:
        builder: The data set.
        split: The split.
        image: The name of its image.
        label: The name of its label, or None.
    """

    def __init__(self, builder, split: str, image: str, label: str | None) -> None:
        self._builder, self._split, self._image, self._label = builder, split, image, label
        self._at, self._examples = 0, iter(())

    def examples(self) -> Iterator[tuple[str, bytes, str]]:
        """The id, the image file's bytes and the label's name ("" where there is none) of each example."""
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
                f"The data set in {self._builder.data_path} is damaged ({_first_line(error)}); delete it and run again."
            ) from error

    def read(self, number: int) -> bytes:
        """The image file's bytes of an example; fast where examples are asked for in order."""
        if number < self._at or not self._at:
            self._at, self._examples = 0, self.examples()
        with contextlib.suppress(StopIteration):
            while True:
                _, content, _ = next(self._examples)
                self._at += 1
                if self._at == number + 1:
                    return content
        raise PipelineError(f"{self._builder.name}: the data set has changed on disk while it was read.")
