"""Training as a Ray job; takes the arguments of `mttu train`.

Usage: ray job submit --working-dir . -- python jobs/train.py --config my.yaml train.epochs=300
"""

import sys

from mttu.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
