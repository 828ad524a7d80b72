"""The GPU benchmark with a narrow VGG16 and small sizes, in an environment without TensorFlow."""

import sys

from narrow_vgg16 import make_narrow, narrow_keras_vgg16

make_narrow({3: 3, 64: 4, 128: 4, 256: 4, 512: 4}, {"fc2": 8, "fc1": 8, "block5_pool": 8})

if __name__ == "__main__":  # worker processes import it, too
    for package in ("tensorflow", "tensorflow_datasets", "MNN"):
        sys.modules[package] = None

    import benchmark_gpu

    from pipeline.core.keras_backend import import_keras

    import_keras().applications.VGG16 = narrow_keras_vgg16
    sys.argv[1:] = ["--side", "64", "--batches", "1", "2", "--images", "8", "--seconds", "0.01"]
    benchmark_gpu.main()
