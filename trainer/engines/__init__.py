"""From a trained model to TensorRT engines: mixed precision, the gate it has to pass, the build.

Torch is in ``checkpoint.py`` only, which is imported where a checkpoint is compiled.
``tools/build_engine.py`` is the way in, ``docs/engines.md`` the description.
"""
