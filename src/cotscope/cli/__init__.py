"""The command line."""

import os
import sys

if os.name == "nt":  # locks and limits of memory are POSIX's
    sys.exit("cotscope: error: this needs Linux or macOS; on Windows use WSL.")

from .commands import main as main
