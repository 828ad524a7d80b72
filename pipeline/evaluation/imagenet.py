"""Labels that are classes of ImageNet, on which VGG16's published weights were trained.

Zero-shot accuracy on such labels says little: the features have seen them (Xian et al. 2017).
"""

import functools
import re
from importlib.resources import files


def is_imagenet_class(label: str) -> bool:
    """Whether a label names one of ImageNet's 1,000 classes, in any of the usual spellings.

    The names are those of torchvision's `ResNet50_Weights.IMAGENET1K_V2.meta["categories"]`.
    """
    return _plain(label) in _classes()


@functools.cache
def _classes() -> frozenset[str]:
    return frozenset(
        map(_plain, files("pipeline.evaluation").joinpath("imagenet_classes.txt").read_text().splitlines())
    )


def _plain(name: str) -> str:
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return " ".join(re.findall(r"[^\W_]+", spaced)).lower()
