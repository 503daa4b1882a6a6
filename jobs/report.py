"""The page about runs as a Ray job; takes the arguments of `mttu report`.

Usage: ray job submit --working-dir . -- python jobs/report.py /data/runs/mttu-net --pictures -o /data/report.html
"""

import sys

from mttu.cli import main

if __name__ == "__main__":
    main(["report", *sys.argv[1:]])
