"""From a folder of images to VGG16 vectors, from the vectors to your own embeddings, and an honest score.

The public names, each imported when it is first used:

    from pipeline import ExtractionOptions, Extractor, extract_features, find_images, weights_from

    features = extract_features(find_images("photos"), Extractor(weights_from("imagenet")), ExtractionOptions())
    features.paths, features.vectors()   # N paths, (N, 4096) float32
"""


def _public():  # type: ignore[no-untyped-def]  # of lazy_loader's types
    import lazy_loader  # late: commands first set up the import path

    return lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> object:
    get, _, names = _public()
    globals()[name] = value = names if name == "__all__" else get(name)
    return value


def __dir__() -> list[str]:
    return _public()[1]()
