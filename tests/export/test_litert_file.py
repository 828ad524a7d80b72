"""LiteRT files that the converter refuses."""

from pathlib import Path

import pytest

from pipeline.core.errors import PipelineError
from pipeline.core.keras_backend import import_keras
from pipeline.export.litert_file import write_litert


def test_an_operation_missing_in_litert_gives_one_message(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    keras = import_keras()
    import tensorflow as tf

    class Incomplete(keras.layers.Layer):
        def call(self, x):
            x = tf.cast(x, tf.float32)
            return tf.raw_ops.Betainc(a=x, b=x, x=x)

    model = keras.Sequential([keras.Input((3,), dtype="uint8"), Incomplete()])
    with pytest.raises(PipelineError, match=r"cannot be exported to litert \(.*Betainc.*\); choose another format"):
        write_litert(model, {}, tmp_path / "x.tflite")
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr().err == ""
