"""Names for the points of the 468-point mesh that this project uses.

Index facts are those of MediaPipe's canonical face model; "left" and "right" mean
the sides of the picture of an unmirrored camera, the person's right eye being on
the picture's left.
"""

from __future__ import annotations

MESH_POINTS = 468
LEFT_EYE = (33, 160, 158, 133, 153, 144, 159, 145)
"""Corner, upper lid, upper lid, corner, lower lid, lower lid, middle of upper and lower lid."""
RIGHT_EYE = (362, 385, 387, 263, 373, 380, 386, 374)
LEFT_BROW = (70, 63, 105, 66, 107)
RIGHT_BROW = (336, 296, 334, 293, 300)
NOSE = (1, 2, 98, 327, 168, 6)
NOSE_BASE = 2
LIPS_OUTER = (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185)
LIPS_INNER = (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 415, 310, 311, 312, 13, 82, 81, 80, 191)
JAW = (234, 93, 132, 58, 172, 136, 150, 176, 152, 400, 379, 365, 397, 288, 361, 323, 454)
"""From one ear along the chin (152) to the other."""

MODEL_POINTS = LIPS_OUTER + LIPS_INNER + LEFT_EYE + RIGHT_EYE + LEFT_BROW + RIGHT_BROW + NOSE + JAW
"""The 89 points whose course over time the network sees."""
