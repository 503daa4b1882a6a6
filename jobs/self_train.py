"""Self-training as a Ray job; takes the arguments of `mttu self-train`. Submitted again, it goes on.

Usage: ray job submit --working-dir . -- python jobs/self_train.py --config my.yaml selection.method=UPS
"""

import sys

from mttu.cli import main

if __name__ == "__main__":
    main(["self-train", *sys.argv[1:]])
