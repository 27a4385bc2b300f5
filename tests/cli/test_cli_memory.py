"""The command line keeps freed memory."""

import platform
import subprocess
import sys

import pytest

COUNT = """
import resource, sys
import numpy as np
from featherweight.cli.app import keep_freed_memory

if sys.argv[1] == "kept":
    keep_freed_memory()
np.ones(1 << 23)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    np.ones(1 << 23)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left as they are")
def test_pages_of_freed_arrays_are_not_fetched_again():
    faults = {}
    for how in ("kept", "usual"):
        done = subprocess.run([sys.executable, "-c", COUNT, how], capture_output=True, text=True, check=True)
        faults[how] = int(done.stdout)
    assert 10 * faults["kept"] < faults["usual"]
