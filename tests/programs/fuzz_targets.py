"""Read mutated target files and lists of images, and print the number refused and the memory growth, as JSON.

python fuzz_targets.py FOLDER COUNT   # FOLDER/images has one image per target
"""

import faulthandler
import gzip
import json
import random
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from measuring import peak_memory
from mutations import mutated

from pipeline.core.errors import RequestError
from pipeline.data.sources import find_images
from pipeline.data.targets import read_targets

folder, count = Path(sys.argv[1]), int(sys.argv[2])
images = find_images(folder / "images")
labels = sorted(set(images.labels))
made = np.random.default_rng(0)
vectors = made.normal(size=(len(labels), 5)).astype(np.float32)
rows = [[label, *map(str, vector)] for label, vector in zip(labels, vectors, strict=True)]
for name, separator in (("t.csv", ","), ("t.tsv", "\t"), ("t.txt", " ")):
    (folder / name).write_text("".join(f"{separator.join(row)}\n" for row in rows))
header = f"{len(labels)} 5\n".encode()
(folder / "t.vec.gz").write_bytes(gzip.compress(header + (folder / "t.txt").read_bytes(), mtime=0))
words = [label.encode() + b" " + vector.tobytes() + b"\n" for label, vector in zip(labels, vectors, strict=True)]
(folder / "t.bin").write_bytes(header + b"".join(words))
np.savez(folder / "t.npz", labels=np.array(labels), vectors=vectors)
np.save(folder / "t.npy", made.normal(size=(len(images), 5)))
pa.parquet.write_table(pa.table({"label": labels, "vector": vectors.tolist()}), folder / "t.parquet")

(folder / "t-utf-16.csv").write_bytes((folder / "t.csv").read_bytes().decode().encode("utf-16"))
listed = [
    [path, label, json.dumps(vector.tolist())]
    for path, label, vector in zip(images.paths, labels, vectors, strict=False)
]
(folder / "t-list.csv").write_text("path;label;target\n" + "".join(f"{';'.join(row)}\n" for row in listed))
(folder / "t-list.txt").write_text("".join(f"images/{path}\n" for path in images.paths))
columns = {"path": list(images.paths[: len(labels)]), "label": labels, "target": vectors.tolist()}
pa.parquet.write_table(pa.table(columns), folder / "t-list.parquet")

seeds = [(file.name, file.read_bytes()) for file in sorted(folder.glob("t*.*"))]
chance, refused = random.Random(0), []
before = peak_memory()
for _ in range(count):
    name, data = chance.choice(seeds)
    (folder / name).write_bytes(mutated(data, chance))
    faulthandler.dump_traceback_later(20, exit=True)  # kills this process if it hangs
    try:
        if name.startswith("t-list"):
            find_images(folder / name)
        assert np.isfinite(read_targets(str(folder / name), images, "skip").vectors).all()
    except RequestError as error:
        refused.append((name, str(error)))
    faulthandler.cancel_dump_traceback_later()
grown = peak_memory() - before
assert all(name in message for name, message in refused), refused
print(json.dumps({"refused": len(refused), "grown": grown}))
