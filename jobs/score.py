"""Monte Carlo scoring as a Ray job; takes the arguments of `mttu score`.

Usage: ray job submit --working-dir . --
    python jobs/score.py /data/runs/mttu-net /data/cohort.parquet --split unlabelled -o /data/mc.parquet
"""

import sys

from mttu.cli import main

if __name__ == "__main__":
    main(["score", *sys.argv[1:]])
