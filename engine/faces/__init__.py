"""Faces: find them, follow them, and cut aligned pictures of them.

``assets`` fetches the model files, ``models`` runs them, ``tracker`` gives each
face a track number, ``alignment`` cuts the aligned slices, ``landmarks`` names the
points.
"""
