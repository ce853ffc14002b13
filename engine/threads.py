"""One thread per stage: the libraries below stay off each other's cores."""

from __future__ import annotations

import cv2
from threadpoolctl import threadpool_limits


def stay_in_caller() -> None:
    """Keep OpenCV and numpy's matrix products in the thread that calls them, in this whole process.

    Every stage has a thread of its own already.  OpenBLAS would put even the small products of
    the audio features on all cores, and its idle threads spin between two calls: on two cores
    that alone cost more than half of the processor.
    """
    cv2.setNumThreads(1)
    threadpool_limits(limits=1, user_api="blas")
