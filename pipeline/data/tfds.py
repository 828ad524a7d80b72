"""TensorFlow data sets as a source of images (https://www.tensorflow.org/datasets)."""

from pathlib import Path

from pipeline.core.errors import RequestError, first_line
from pipeline.data.images import ImageRef, ImageSet, content_digest
from pipeline.data.tfds_reader import ExampleReader, example_uri


def find_examples(source: str, data_dir: Path | None) -> ImageSet:
    """Find the images in a split of a data set, which is downloaded, with progress, if it is not on disk.

    Images are named by their TFDS ids and stay in the order of the data set; label names become labels. The data set is
    read once for the digests of its images; images that the feature store lacks are read again.

    Args:
        source: `tfds:NAME[/CONFIG]:SPLIT`, with a SPLIT of tensorflow-datasets, such as `train[:10%]`.
        data_dir: The data folder of tensorflow-datasets; None for its default.

    Returns:
        The images.

    Raises:
        RequestError: The data set or the split does not exist, or has no images.
        PipelineError: The data set is not on disk and cannot be downloaded, or cannot be read.
    """
    reader = ExampleReader(source, data_dir)
    paths, refs, labels = [], [], []
    try:
        for number, (path, content, label) in enumerate(reader.examples()):
            paths.append(path)
            labels.append(label)
            refs.append(ImageRef(example_uri(source, data_dir, number), content_digest(content)))
    except ValueError as error:
        raise RequestError(f"{source}: {first_line(error)}") from error
    if not paths:
        raise RequestError(f"{source}: this split contains no examples.")
    return ImageSet(source, paths, refs, labels)
