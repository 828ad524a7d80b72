"""Read mutated tar, Parquet, Arrow and HDF5 files of images; print the number refused and the memory growth, as JSON.

python fuzz_containers.py FOLDER COUNT
"""

import faulthandler
import io
import json
import logging
import random
import sys
import tarfile
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet
from measuring import peak_memory
from mutations import mutated

from pipeline.core.errors import PipelineError
from pipeline.data.sources import find_images

folder, count = Path(sys.argv[1]), int(sys.argv[2])
logging.disable(logging.WARNING)
random_bytes = np.random.default_rng(0).bytes
table = pa.table(
    {
        "image": [{"bytes": random_bytes(100), "path": f"{number}.png"} for number in range(20)],
        "label": [str(number % 3) for number in range(20)],
        "target": [[number, 0.5] for number in range(20)],
    }
)
pa.parquet.write_table(table, folder / "t.parquet", row_group_size=6)
with pa.ipc.new_stream(folder / "t.arrow", table.schema) as writer:
    writer.write_table(table, max_chunksize=6)
with tarfile.open(folder / "t.tar", "w", format=tarfile.PAX_FORMAT) as tar:
    for number in range(5):
        for name, content in (
            (f"{'é' * 60}{number}.png", random_bytes(100)),
            (f"{'é' * 60}{number}.json", b'{"label": 1}'),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
with h5py.File(folder / "t.h5", "w") as file:
    pixels = np.frombuffer(random_bytes(6 * 8 * 8 * 3), np.uint8).reshape(6, 8, 8, 3)
    file.create_dataset("images", data=pixels, chunks=(2, 8, 8, 3), compression="gzip")

seeds = [(file.name, file.read_bytes()) for file in sorted(folder.glob("t.*"))]
chance, refused = random.Random(0), 0
before = peak_memory()
for number in range(count):
    name, data = chance.choice(seeds)
    file = folder / f"{number}{name}"  # a mapped file must not be written again
    file.write_bytes(mutated(data, chance))
    faulthandler.dump_traceback_later(20, exit=True)  # kills this process if it hangs
    try:
        for ref in find_images(file).refs:
            ref.read()
    except PipelineError:
        refused += 1
    faulthandler.cancel_dump_traceback_later()
    file.unlink()
print(json.dumps({"refused": refused, "grown": peak_memory() - before}))
