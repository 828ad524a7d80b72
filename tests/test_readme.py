"""The READMEs: all options in their commands exist, their links work, their Python examples run."""

import io
import re
import shlex
import tarfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from helpers import ROOT, SMALL, Finished, encoded, environment_at, make_image, make_images, write_targets
from scipy.io import loadmat, savemat

READMES = [ROOT / "README.md", *sorted(ROOT.glob("[!.]*/**/README.md"))]
REFERENCE = ROOT / "pipeline" / "cli" / "README.md"  # of all commands; it has no examples
COMMAND = r"python -m pipeline ([a-z](?:[^`\n#&;]|(?<=\S)#)*)"  # ends at a comment
RUN = "models/2026-11-23_10-00-00"  # the run in the examples


def commands() -> list[str]:
    """The arguments of all commands in the READMEs."""
    files = [file for file in READMES if file != REFERENCE]
    found = [re.findall(COMMAND, file.read_text()) for file in files]
    return sorted({arguments.strip() for each in found for arguments in each})


def python_examples() -> list[str]:
    return [each for file in READMES for each in re.findall(r"```python\n(.*?)```", file.read_text(), re.DOTALL)]


def test_the_readmes_have_examples() -> None:
    assert len(commands()) > 8
    assert python_examples()


@pytest.mark.parametrize("arguments", commands())
def test_documented_commands_parse(arguments: str, small_run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.cli import cli

    monkeypatch.chdir(tmp_path)
    for file in re.findall(r"(?<!--out )(?<!--scores )(?<![\w.-])[\w.-]+\.(?:csv|txt|parquet|mat|h5)", arguments):
        (tmp_path / file).touch()
    name, *rest = shlex.split(re.sub(r"models/(RUN|\d{4}-\d\d-\d\d_[\d-]+)", str(small_run.folder), arguments))
    cli.commands[name].make_context(name, rest)


def export_small(folder: Path) -> None:
    """Write model.onnx and model.tflite, with a layer of few weights, and photo.jpg."""
    from pipeline.core.keras_backend import import_keras
    from pipeline.core.model_files import ModelCard
    from pipeline.export.litert_file import write_litert
    from pipeline.export.onnx_file import write_onnx_file
    from pipeline.export.whole_model import join_models
    from pipeline.features.extractor import Extractor
    from pipeline.features.weights import weights_from

    keras = import_keras()
    extractor = Extractor(weights_from("random:0"), "block1_pool")
    decoder = keras.Sequential([keras.Input((extractor.dim,)), keras.layers.Dense(3)])
    card = ModelCard("random:0", extractor.fingerprint, extractor.description, extractor.dim, 3, "linear")
    write_onnx_file([extractor], card, decoder, card.to_json(), folder / "model.onnx")
    write_litert(join_models([extractor], card, decoder), card.to_json(), folder / "model.tflite")
    make_image(0).save(folder / "photo.jpg")


def first_layer(file: Path) -> np.ndarray:
    """The first kernel in a file of weights."""
    from pipeline.features.weights import weights_from

    return weights_from(str(file)).read("block1_conv1")["block1_conv1"][0]


def write_checkpoint(file: Path) -> np.ndarray:
    """Write the first convolution as TensorFlow-Slim does; returns its kernel."""
    import tensorflow as tf

    kernel = np.random.default_rng(0).normal(size=(3, 3, 3, 64)).astype(np.float32)
    names = [f"vgg_16/conv1/conv1_1/{part}" for part in ("weights", "biases")] + ["global_step"]
    tensors = [kernel, np.zeros(64, np.float32), np.int64(1)]
    tf.raw_ops.SaveV2(prefix=str(file), tensor_names=names, shape_and_slices=[""] * 3, tensors=tensors)
    return kernel


def test_python_examples_run(
    small_run, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    make_images(tmp_path / "photos" / "red", range(3))
    write_targets(tmp_path, "red").rename(tmp_path / "embeddings.csv")
    export_small(tmp_path)
    kernel = write_checkpoint(tmp_path / "vgg_16.ckpt")
    random = np.random.default_rng(0)
    np.savez(tmp_path / "clip.npz", features=random.normal(size=(40, 4)))
    np.save(tmp_path / "targets.npy", random.normal(size=(40, 3)))
    monkeypatch.chdir(tmp_path)
    for name, value in environment_at(home).items():
        monkeypatch.setenv(name, value)
    for variable in ("XDG_CACHE_HOME", "KERAS_HOME"):
        monkeypatch.delenv(variable, raising=False)
    found: dict = {}
    for example in python_examples():
        # Weights that need no download, and the smallest layer, for which a converted network is in the cache.
        smaller = example.replace('weights_from("imagenet")', 'weights_from("random:0"), "block5_pool"')
        smaller = smaller.replace("VGG16Features()", 'VGG16Features("random:0", "block5_pool")')
        exec(smaller.replace(RUN, str(small_run.folder)), found)
    assert found["model"].predict(found["paths"]).shape == found["embeddings"].shape == (3, 3)
    assert found["features"].vectors().shape == (3, 512)
    assert found["scores"].keys() == {"blend", "mean"}
    assert found["predictions"].shape == found["targets"].shape == (3, 3)
    assert np.array_equal(first_layer(tmp_path / "vgg_16.h5"), kernel[:, :, ::-1])
    assert np.allclose(found["by_onnx"], found["by_litert"], rtol=1e-3)
    assert all(-1 <= float(cosine) <= 1 for cosine in capsys.readouterr().out.split())


@pytest.fixture
def inside_files(tmp_path: Path) -> Path:
    """The files of the examples: four tar files with two images each, Parquet files, a saved data set, HDF5."""
    (tmp_path / "shards").mkdir()
    for shard in range(4):
        with tarfile.open(tmp_path / "shards" / f"{shard:05}.tar", "w") as tar:
            for number in (2 * shard, 2 * shard + 1):
                for suffix, content in {"jpg": encoded(make_image(number), "JPEG"), "cls": b"red"}.items():
                    info = tarfile.TarInfo(f"{number:09}.{suffix}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    images = pa.array([encoded(make_image(number)) for number in range(3)])
    pyarrow.parquet.write_table(pa.table({"image": images}), tmp_path / "photos.parquet")
    pyarrow.parquet.write_table(pa.table({"photo": images, "mask": images}), tmp_path / "pairs.parquet")
    (tmp_path / "saved").mkdir()
    with h5py.File(tmp_path / "stimuli.h5", "w") as stimuli:
        stimuli["images/shown"] = np.stack([np.asarray(make_image(number)) for number in range(3)])
        stimuli["names"] = ["red/a.png", "red/b.png", "blue/c.png"]
    table = pa.table({"image": images})
    with pa.ipc.new_stream(tmp_path / "saved" / "data-00000-of-00001.arrow", table.schema) as writer:
        writer.write_table(table)
    return tmp_path


def test_examples_of_images_inside_files_run(run: Callable[..., Finished], inside_files: Path) -> None:
    section = (
        (ROOT / "pipeline" / "README.md").read_text().partition("### Images inside files\n")[2].partition("\n### ")[0]
    )
    examples = re.findall(COMMAND, section)
    assert examples
    for arguments in examples:
        run(*shlex.split(arguments), *SMALL, cwd=inside_files)


def test_examples_of_vectors_and_targets_run(run: Callable[..., Finished], tmp_path: Path) -> None:
    """The commands of two sections, with the run of the first command in the others."""
    random, labels = np.random.default_rng(0), np.arange(40) % 4
    paths = [f"{label}/{number}.jpg" for number, label in enumerate(labels)]
    for name in ("clip", "other", "new"):
        vectors = random.normal(size=(40, 4)) + labels[:, None]
        pyarrow.parquet.write_table(pa.table({"path": paths, "vector": vectors.tolist()}), tmp_path / f"{name}.parquet")
    write_targets(tmp_path, *"0123").rename(tmp_path / "embeddings.csv")
    targets = random.normal(size=(40, 3))
    savemat(tmp_path / "responses.mat", {"names": np.array(paths, object), "betas": targets})
    with h5py.File(tmp_path / "sub-01.h5", "w") as root:
        root["dataset"] = np.column_stack([targets, np.arange(40)])
        root["metadata/key"], root["metadata/value"] = [b"VoxelData", b"image"], [[1, 1, 1, 0], [0, 0, 0, 1]]
        for number, path in enumerate(paths):
            root[f"vmap/image/{number}.0"] = path
    text = (ROOT / "pipeline" / "README.md").read_text()
    for title in ("Vectors of another model", "MATLAB, HDF5 and BData"):
        section = text.partition(f"### {title}\n")[2].partition("\n### ")[0]
        for arguments in re.findall(COMMAND, section):
            quick = ("--epochs", 1, "--api", "functional") if arguments.startswith("train") else ()
            trained = next((tmp_path / "models").glob("*"), "")
            run(*shlex.split(arguments.replace(RUN, str(trained))), *quick, cwd=tmp_path)
    assert loadmat(tmp_path / "predictions.mat")["predictions"].shape == (40, 3)


def test_the_tree_lists_every_file() -> None:
    tree = (ROOT / "pipeline" / "README.md").read_text()
    files = [file for file in (ROOT / "pipeline").rglob("*.py") if file.name != "__init__.py"]
    assert [file.name for file in files if not re.search(rf"\b{re.escape(file.name)}\b", tree)] == []


def headings(file: Path) -> set[str]:
    """The anchors of a README's headings."""
    found = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in found}


@pytest.mark.parametrize("file", READMES, ids=lambda file: str(file.relative_to(ROOT)))
def test_links_point_to_existing_files_and_headings(file: Path) -> None:
    for link, heading in re.findall(r"\]\(([^)#\s]*)(?:#([^)]*))?\)", file.read_text()):
        if "://" not in link:
            target = file.parent / link if link else file
            assert target.exists(), link
            assert not heading or heading in headings(target), f"{link}#{heading}"
