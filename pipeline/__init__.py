"""From a folder of images to VGG16 vectors, from the vectors to your own embeddings, and an honest score.

The public names, each imported when it is first used:

    from pipeline import ExtractionOptions, Extractor, extract_features, find_images, weights_from

    features = extract_features(find_images("photos"), Extractor(weights_from("imagenet")), ExtractionOptions())
    features.paths, features.vectors()   # N paths, (N, 4096) float32
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
