"""Data: manifests, splits, cached clips, window samples and the post-chain."""
