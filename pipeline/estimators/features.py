"""`VGG16Features`: images -> features."""

from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from PIL import Image
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils._param_validation import StrOptions

from pipeline.core.errors import RequestError
from pipeline.data.images import ImageSet
from pipeline.data.pixels import images_in_memory
from pipeline.data.sources import find_images, image_refs
from pipeline.data.text_files import as_text
from pipeline.estimators.parameters import POSITIVE, check_parameters
from pipeline.features.engines import ENGINES
from pipeline.features.extraction import extract_features
from pipeline.features.extractor import Extractor
from pipeline.features.options import ExtractionOptions, ExtractorOptions

NAMED = 3  # unreadable images that a message lists


class VGG16Features(TransformerMixin, BaseEstimator):
    """Images -> VGG16 features, cached in the feature store, so that each is computed once.

    There is nothing to fit. Arrays and PIL images are identified by their pixels, files by their content.

    Args:
        weights: "imagenet", "random[:SEED]" or a file; see `pipeline.features.weights.weights_from`. None means those
            of the environment variable IMAGE_VECTORS_WEIGHTS, else "imagenet".
        layer: See `ExtractorOptions`, also for the next four.
        precision: The precision of VGG16's arithmetic.
        pool: How the positions of convolutional layers are pooled.
        project: A sparse random projection of each layer.
        resize: How an image becomes 224 x 224 pixels.
        preprocess: See `pipeline.features.weights.weights_from`, also for the next.
        network: "vgg16" or "vgg19".
        engine: See `ExtractionOptions`, also for the next.
        device: "cpu", "gpu" (all GPUs), or GPUs such as "gpu:0,gpu:1"; None means all GPUs, or else the processor.
        batch_size: Images per batch; None for the engine's default.
        workers: Processes that read and decode; None means one for each usable core.
        cache: The folder of the feature stores, or its URL in a bucket; None for the user's cache folder.
    """

    def __init__(
        self,
        weights: str | None = None,
        layer: str = "fc2",
        precision: str = "float32",
        pool: str | None = None,
        project: str | None = None,
        resize: str = "squash",
        preprocess: str | None = None,
        network: str = "vgg16",
        engine: str = "auto",
        device: str | None = None,
        batch_size: int | None = None,
        workers: int | None = None,
        cache: str | Path | None = None,
    ) -> None:
        self.weights = weights
        self.layer = layer
        self.precision = precision
        self.pool = pool
        self.project = project
        self.resize = resize
        self.preprocess = preprocess
        self.network = network
        self.engine = engine
        self.device = device
        self.batch_size = batch_size
        self.workers = workers
        self.cache = cache

    _parameter_constraints: ClassVar[dict[str, list]] = {
        "weights": [str, None],
        "layer": [str],
        "precision": [str],
        "pool": [str, None],
        "project": [str, None],
        "resize": [str],
        "preprocess": [str, None],
        "network": [str],
        "engine": [StrOptions(set(ENGINES))],
        "device": [str, None],
        "batch_size": [POSITIVE, None],
        "workers": [POSITIVE, None],
        "cache": [str, Path, None],
    }

    def fit(self, X: Any, y: Any = None) -> Self:
        """Do nothing; the network is not trained."""
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Compute the features that are missing from the store, and read all features.

        Args:
            X: Paths of image files, or URLs of objects in buckets; PIL images; or arrays, shape (N, height, width, 3),
                uint8 (a list may contain arrays of different sizes). Or IMAGES as in the commands: a folder, a list, a
                bucket or `tfds:...`; then rows are in path order.

        Returns:
            The features, shape (N, F), float32.

        Raises:
            RequestError: X is none of these, an image cannot be read, or a parameter is wrong.
            PipelineError: The store, the weights or a worker failed, or no image can be read.
        """
        check_parameters(self)
        images = _as_images(X, self.resize)
        batch_size, workers = (None if number is None else int(number) for number in (self.batch_size, self.workers))
        sizes = {"batch_size": batch_size, "workers": workers}
        options = ExtractionOptions.from_values({**self.get_params(), **sizes, "quiet": True})
        features = extract_features(images, self._extractors(), options)
        if features.failed:
            named = "; ".join(f"{failure.path}: {failure.error}" for failure in features.failed[:NAMED])
            raise RequestError(
                f"{len(features.failed)} of {len(images)} images cannot be read, so they have no row: {named}. "
                "Leave them out of X, and their rows out of y."
            )
        return features.vectors()

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """The names of the columns, each a layer and a number, such as "fc2_0"; shape (F,), object."""
        columns = [(extractor.layer, number) for extractor in self._extractors() for number in range(extractor.dim)]
        return np.array([f"{layer}_{number}" for layer, number in columns], object)

    def _extractors(self) -> tuple[Extractor, ...]:
        return ExtractorOptions.from_values(self.get_params()).extractors()

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.one_d_array = True  # of paths or images
        tags.input_tags.string = True
        tags.requires_fit = False
        tags.no_validation = True  # `transform` checks its images itself
        return tags


def _as_images(X: Any, resize: str) -> ImageSet:
    """The images of X, in its order."""
    if isinstance(X, str | Path):
        return find_images(X)
    if isinstance(X, Image.Image) or (isinstance(X, np.ndarray) and X.ndim == 3 and X.shape[2] == 3):
        raise RequestError("X is one image; for a list of one, write [image].")
    if hasattr(X, "columns") and len(X.columns) != 1:
        columns = ", ".join(map(repr, X.columns))
        raise RequestError(f"X is a table of {len(X.columns)} columns ({columns}); name the one of the images.")
    if len(getattr(X, "shape", ())) == 2 and X.shape[1] == 1:  # a one-column data frame
        X = np.asarray(X).ravel()
    try:
        items = list(X)
    except TypeError as error:
        raise RequestError(f"X must hold images; it is a {type(X).__name__}.") from error
    if not items:
        raise RequestError("X holds no images.")
    if all(isinstance(item, str | Path) for item in items):
        names = [as_text(str(item)) for item in items]
        return ImageSet("X", names, image_refs(items), [""] * len(items))
    if all(isinstance(item, Image.Image | np.ndarray) for item in items):
        return images_in_memory(items, resize)
    kinds = ", ".join(sorted({type(item).__name__ for item in items}))
    raise RequestError(f"X must hold paths, PIL images or uint8 arrays (N, height, width, 3), not {kinds}.")
