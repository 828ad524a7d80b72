"""From a folder of images to VGG16 vectors, from the vectors to embeddings of your own, and what the cosine is worth.

The public names, each imported when it is first used:

    from pipeline import Computing, Extractor, extract, find_images, weights_from

    features = extract(find_images("photos"), Extractor(weights_from("imagenet")), Computing())
    features.paths, features.vectors()   # N paths, (N, 4096) float32
"""

import importlib
from typing import Any

_HOME = {
    "find_images": "sources",
    "Extractor": "vgg16",
    "weights_from": "vgg16",
    "Computing": "features",
    "extract": "features",
    "read_targets": "targets",
    "pair": "targets",
    "SplitRule": "splits",
    "find_copies": "copies",
    "split": "splits",
    "DecoderSpec": "decoders",
    "Recipe": "decoders",
    "build_decoder": "decoders",
    "ceiling": "decoders",
    "Data": "training",
    "Watch": "training",
    "fit": "training",
    "predict": "training",
    "compare": "comparison",
    "load_decoder": "runs",
    "Baselines": "baselines",
    "cosines": "evaluation",
    "Candidates": "retrieval",
    "look_up": "retrieval",
    "PipelineError": "errors",
    "RequestError": "errors",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
    return getattr(importlib.import_module(f"pipeline.{_HOME[name]}"), name)
