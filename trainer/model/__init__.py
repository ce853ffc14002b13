"""The AVFF network, sized for streaming: slice-local encoders and a fusion graph.

After AVFF (Oorloff et al., CVPR 2024, arXiv:2406.02951): eight temporal slices,
audio-to-visual and visual-to-audio prediction, classification on both the tokens
and what the other modality predicts of them.  Unlike the paper's two ViT-B the
encoders are small convolutional nets at 25 fps that see one slice each, so that a
stream computes every token once.

``registry`` knows every architecture by name: beside this one (avff-s) the baselines, which share
its encoders, and the paper's own size (avff-b).  All answer with the same ``FusionOut``.

Shape letters: N batch, S = 8 slices, F = 8 pictures a slice, T = S * F = 64, D token width.
"""
