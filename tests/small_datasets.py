"""Small TensorFlow data sets, built with the builders of tensorflow-datasets."""

from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds
from helpers import make_image


class SmallImages(tfds.core.GeneratorBasedBuilder):
    """12 images for training and 3 for testing, with two labels."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = (tfds.core.BuilderConfig(name="plain"), tfds.core.BuilderConfig(name="big"))

    def _info(self) -> tfds.core.DatasetInfo:
        labels = tfds.features.ClassLabel(names=["golden retriever", "teapot"])
        features = tfds.features.FeaturesDict({"image": tfds.features.Image(), "label": labels})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, download: object) -> dict:
        return {"train": self._generate_examples(range(12)), "test": self._generate_examples(range(12, 15))}

    def _generate_examples(self, seeds: range) -> Iterator[tuple[int, dict]]:
        for seed in seeds:
            yield seed, {"image": np.asarray(make_image(seed)), "label": seed % 2}


class NoImages(tfds.core.GeneratorBasedBuilder):
    """Two examples of text."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict({"text": tfds.features.Text()})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, download: object) -> dict:
        return {"train": ((number, {"text": "word"}) for number in range(2))}

    def _generate_examples(self) -> None: ...
