"""The options of images and targets."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pipeline.core.options import Options, option

if TYPE_CHECKING:
    from pipeline.data.images import ImageSet

MAX_PIXELS = 178_956_970  # Pillow's own limit


@dataclass(frozen=True)
class SourceOptions(Options):
    """How images are found."""

    data_dir: Path | None = option(
        None, path="folder", help="Folder of TensorFlow data sets.", usual="tensorflow-datasets' own", kept=False
    )
    root: Path | None = option(
        None, path="folder", help="Folder that the relative paths of a list start from.", usual="the list's own"
    )
    image_column: str | None = option(
        None,
        metavar="NAME",
        help="Column of images in Parquet and Arrow files.",
        usual="the only one, or image",
    )
    names: str | None = option(
        None,
        metavar="DATASET",
        help="Array with the names of the images in an HDF5 file.",
        usual="row numbers",
    )
    label_pattern: str | None = option(
        None,
        commands=["train", "evaluate", "compare", "rsa"],
        metavar="REGEX",
        help="Take labels from paths: a regular expression with a group named label, such as "
        r"'n\d+_(?P<label>.+)'; a label at the end leaves off the file's suffix.",
    )

    def find(self, images: str) -> "ImageSet":
        """Find images; see `find_images`.

        Raises:
            RequestError: See `find_images`.
            PipelineError: See `find_images`.
        """
        from pipeline.data.sources import find_images

        return find_images(images, self.data_dir, self.label_pattern, self.root, self.image_column, self.names)


@dataclass(frozen=True)
class TargetOptions(Options):
    """Target embeddings."""

    targets: Path | None = option(
        None,
        path="table",
        metavar="FILE[:NAME]",
        help="Target embeddings: a table, an array, or a file of word vectors; NAME is a variable or column.",
    )
    target_columns: str | None = option(
        None,
        metavar="NAMES",
        help="Columns of the table that are the embedding, such as x,y or 'd*'; also for the table of --noise-ceiling.",
        usual="its lists, else all numbers",
    )
    on_missing: Literal["error", "skip"] = option("error", help="What to do with images that have no target.")
    noise_ceiling: Path | None = option(
        None,
        commands=["train", "evaluate", "rsa"],
        path="table",
        help="A table with repeated targets, from which the noise ceiling is estimated.",
    )
