"""scikit-learn estimators: `VGG16Features` turns images into features, decoders turn features into embeddings.

    from sklearn.pipeline import make_pipeline
    from pipeline import BlendDecoder, VGG16Features

    model = make_pipeline(VGG16Features(), BlendDecoder()).fit(paths, embeddings)
    model.predict(other_paths)   # (N, D)

`BlendDecoder` is the decoder that `train` fits by default, `KerasDecoder` a single network. All follow scikit-learn's
conventions, so `clone`, `GridSearchCV`, `cross_val_predict`, pickling and `set_output` work.
"""

from pipeline.estimators.decoders import BlendDecoder, KerasDecoder
from pipeline.estimators.features import VGG16Features

__all__ = ["BlendDecoder", "KerasDecoder", "VGG16Features"]
