"""An RTSP server of GStreamer's, for tests: run by the system's Python, which has its bindings.

    python3 rtsp_server.py PORT LAUNCH [USER PASSWORD]

``LAUNCH`` makes the pipeline of ``/live``; elements called ``gate…`` are valves.  Commands come
on stdin, one a line: ``pause`` and ``resume`` close and open the valves, ``jump SECONDS`` shifts
the time stamps of what follows.  The first line of stdout is the port.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402 - after require_version

MEDIA: list[Any] = []
"""The pipelines that were made, newest last."""


def main(port: str, launch: str, user: str = "", password: str = "") -> None:
    """Serve until killed."""
    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(port)
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(launch)
    factory.set_shared(True)
    factory.connect("media-configure", lambda _factory, media: MEDIA.append(media.get_element()))
    if user:
        _demand(server, factory, user, password)
    server.get_mount_points().add_factory("/live", factory)
    if not server.attach(None):
        sys.exit(f"port {port} is taken")
    sys.stdout.write(f"{server.get_bound_port()}\n")
    sys.stdout.flush()
    threading.Thread(target=_obey, daemon=True).start()
    GLib.MainLoop().run()


def _demand(server: Any, factory: Any, user: str, password: str) -> None:
    """Let in only those who know the password."""
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", "user")
    auth = GstRtspServer.RTSPAuth()
    auth.add_basic(GstRtspServer.RTSPAuth.make_basic(user, password), token)
    server.set_auth(auth)
    permissions = GstRtspServer.RTSPPermissions()
    permissions.add_permission_for_role("user", "media.factory.access", True)
    permissions.add_permission_for_role("user", "media.factory.construct", True)
    factory.set_permissions(permissions)


def _obey() -> None:
    for line in sys.stdin:
        command, _, argument = line.strip().partition(" ")
        if MEDIA:
            GLib.idle_add(_do, command, argument)


def _do(command: str, argument: str) -> bool:
    MEDIA[-1].iterate_elements().foreach(lambda element: _tell(element, command, argument))
    return False


def _tell(element: Any, command: str, argument: str) -> None:
    name = element.get_name()
    if command in ("pause", "resume") and name.startswith("gate"):
        element.set_property("drop", command == "pause")
    if command == "jump" and name.startswith("pay"):
        pad = element.get_static_pad("sink")
        pad.set_offset(pad.get_offset() + int(float(argument) * Gst.SECOND))


if __name__ == "__main__":
    main(*sys.argv[1:])
