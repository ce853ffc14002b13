"""What training and serving share: decoding, faces, features, model contract, inference.

Synchronous, without torch and without asyncio.
"""
