"""Streaming audio-visual deepfake detection.

The four sub-packages are links to the directories of the same name at the
top of the repository: ``avff.daemon`` is ``daemon/``, and so on.
"""

__version__ = "0.1.0"
