"""Prediction as a Ray job; takes the arguments of `mttu predict`.

Usage: ray job submit --working-dir . -- python jobs/predict.py /data/runs/mttu-net /data/cases -o /data/out
"""

import sys

from mttu.cli import main

if __name__ == "__main__":
    main(["predict", *sys.argv[1:]])
