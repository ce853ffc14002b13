"""From an exported model to TensorRT engines: mixed precision, the gate it has to pass, the build.

No torch in here: ``tools/build_engine.py`` is the way in, ``docs/engines.md`` the description.
"""
