"""A search over settings as a Ray job; takes the arguments of `mttu tune`. Submitted again, it goes on.

Usage: ray job submit --working-dir . -- python jobs/tune.py tune_spaces/transformer_depth.yaml --config my.yaml
"""

import sys

from mttu.cli import main

if __name__ == "__main__":
    main(["tune", *sys.argv[1:]])
