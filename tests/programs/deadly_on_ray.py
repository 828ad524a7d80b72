"""Extract on Ray an image that fails in every actor: CACHE kills|raises. Prints the final message."""

import importlib
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from helpers import make_images

from pipeline.core.errors import PipelineError
from pipeline.data.images import ImageRef, ImageSet
from pipeline.data.sources import find_images
from pipeline.features.backends.ray import backend
from pipeline.features.extraction import extract_features
from pipeline.features.extractor import Extractor
from pipeline.features.options import ExtractionOptions, RayOptions
from pipeline.features.weights import weights_from


class DeadlyRef(ImageRef):
    """A reference that kills the process that unpickles it, or raises the error of a node without a package."""

    __slots__ = ()

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object]]:
        if sys.argv[2] == "raises":
            return importlib.import_module, ("nodes_lack_it",)
        return signal.raise_signal, (signal.SIGSEGV,)


def main() -> None:
    backend.PATIENCE = 15 if sys.argv[2] == "kills" else 120
    with tempfile.TemporaryDirectory() as folder:
        whole = find_images(make_images(Path(folder), range(70)))
        refs = [*whole.refs[:40], DeadlyRef(whole.refs[40].uri), *whole.refs[41:]]
        options = ExtractionOptions(cache=Path(sys.argv[1]), progress=False, ray=RayOptions("local"))
        try:
            extract_features(
                ImageSet(whole.source, whole.paths, refs, whole.labels),
                Extractor(weights_from("random:0"), "block5_pool"),
                options,
            )
        except PipelineError as error:
            print(error)


if __name__ == "__main__":
    main()
