"""Memory that a command frees stays with its process."""

import subprocess
import sys

import pytest

# A thread allocates much twice, as XLA's threads do at each step.
PROGRAM = """
import ctypes
import resource
from threading import Thread

from echojax.allocator import keep_freed_memory

libc, size = ctypes.CDLL(None), ctypes.c_size_t(100 * 2**20)
libc.malloc.restype = ctypes.c_void_p

def faults_of_use():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    place = ctypes.c_void_p(libc.malloc(size))
    libc.memset(place, 1, size)
    libc.free(place)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def use_twice():
    print(faults_of_use(), faults_of_use())

"""
USE = "thread = Thread(target=use_twice)\nthread.start()\nthread.join()\n"


def faults(program):
    run = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    return [int(word) for word in run.stdout.split()]


@pytest.mark.skipif(sys.platform != "linux", reason="memory is kept with glibc only")
def test_freed_memory_is_used_again():
    first, second = faults(f"{PROGRAM}keep_freed_memory()\n{USE}")
    assert second < first / 50
    first, second = faults(f"{PROGRAM}{USE}")
    assert second > first / 2
