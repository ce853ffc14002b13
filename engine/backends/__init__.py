"""Inference runtimes behind the :class:`avff.engine.backend.Backend` protocol, one a file."""
