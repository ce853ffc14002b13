"""The libraries below the engine keep to the thread that calls them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import cv2
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from avff.engine.threads import stay_in_caller


@pytest.fixture(autouse=True)
def _put_back() -> Iterator[None]:
    """Other tests get the process as it was."""
    threads = cv2.getNumThreads()
    with threadpool_limits():
        yield
    cv2.setNumThreads(threads)


def test_blas_and_opencv_get_one_thread() -> None:
    """Whatever they were set to before."""
    threadpool_limits(limits=2, user_api="blas")
    cv2.setNumThreads(2)
    stay_in_caller()
    blas = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    assert blas, "numpy comes with a BLAS"
    assert {pool["num_threads"] for pool in blas} == {1}
    assert cv2.getNumThreads() == 1


def test_products_burn_no_other_core() -> None:
    """In a process of its own, the time of all threads together is no more than one thread's."""
    program = (
        "import time, numpy as np\n"
        "from avff.engine.threads import stay_in_caller\n"
        "a, b = np.ones((32, 257), 'f4'), np.ones((257, 80), 'f4')\n"
        "stay_in_caller()\n"
        "for _ in range(2000): a @ b\n"  # threads that spun before go to sleep meanwhile
        "time.sleep(0.3)\n"
        "whole, own = time.process_time(), time.thread_time()\n"
        "for _ in range(20000): a @ b\n"
        "print((time.process_time() - whole) / (time.thread_time() - own))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 1.2


def test_front_end_of_the_daemon_sets_it() -> None:
    """The first stream does, for the whole process."""
    program = (
        "from threadpoolctl import threadpool_info, threadpool_limits\n"
        "import numpy\n"
        "from avff.daemon.build import make_frontend\n"
        "from avff.daemon.sources import SourceSettings, open_source\n"
        "threadpool_limits(limits=2, user_api='blas')\n"
        "source = open_source('nothing.wav', None, SourceSettings())\n"
        "make_frontend(source)\n"
        "print([p['num_threads'] for p in threadpool_info() if p['user_api'] == 'blas'])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert set(done.stdout.strip().strip("[]").split(", ")) == {"1"}
