"""A model in a process of its own: what a GPU's driver does to it, it does not do to the daemon.

``supervisor.py`` is the daemon's side, ``child.py`` the other one.
"""
