"""Look up predictions among 400,000 words, and print the peak memory in bytes.

python large_vocabulary.py WORDS.bin
"""

import sys
from pathlib import Path

import numpy as np
from measuring import peak_memory

from pipeline.data.word_vectors import read_vocabulary
from pipeline.evaluation.retrieval import Candidates, retrieve

candidates = Candidates(read_vocabulary(Path(sys.argv[1])))
targets = next(block for _, block in candidates.blocks())[:2000]
noisy = targets + np.random.default_rng(1).normal(size=targets.shape, scale=8)
ranks = retrieve(noisy, targets, candidates).ranks
assert len(candidates) == 400_000
assert 1 < np.median(ranks) < 200_000
print(peak_memory())
