"""The command line keeps freed memory, and lets threads sleep on a busy machine."""

import os
import platform
import subprocess
import sys

import pytest

from featherweight.cli.app import share_processors

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


@pytest.mark.parametrize(
    ("load", "given", "policy"), [(0.1, None, None), (1.2, None, "PASSIVE"), (1.2, "ACTIVE", "ACTIVE")]
)
def test_threads_sleep_where_others_use_the_processors(monkeypatch, load, given, policy):
    monkeypatch.setattr(os, "getloadavg", lambda: (load, load, load), raising=False)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if given:
        monkeypatch.setenv("OMP_WAIT_POLICY", given)
    share_processors()
    try:
        assert os.environ.get("OMP_WAIT_POLICY") == policy
    finally:
        os.environ.pop("OMP_WAIT_POLICY", None)


def test_systems_without_a_load_average_are_left_alone(monkeypatch):
    monkeypatch.delattr(os, "getloadavg", raising=False)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    share_processors()
    assert "OMP_WAIT_POLICY" not in os.environ
