"""Network streams by URL: what FFmpeg is told for each protocol, and what is never shown.

Passwords stand in URLs, and so do tokens: neither user information nor a query
ever reaches a message, a log line or an event (:func:`shown_url`).
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from avff.daemon.config import NetworkSettings
from avff.daemon.errors import ExitCode, SourceError
from avff.daemon.sources.base import Opener, Source, SourceSettings
from avff.daemon.sources.live import LiveSource
from avff.daemon.sources.reconnect import ReconnectingSource

if TYPE_CHECKING:
    from avff.engine.live import LiveInput

SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "http", "https", "udp", "tcp", "srt")
_OVER_TCP = "tcp,tls,crypto"
_PROTOCOLS = {
    "rtsp": f"rtp,rtcp,udp,srtp,{_OVER_TCP}",
    "rtsps": f"rtp,rtcp,udp,srtp,{_OVER_TCP}",
    "rtmp": f"rtmp,{_OVER_TCP}",
    "rtmps": f"rtmps,{_OVER_TCP}",
    "http": f"http,https,httpproxy,{_OVER_TCP}",
    "https": f"https,http,httpproxy,{_OVER_TCP}",
    "udp": "udp,rtp",
    "tcp": "tcp",
    "srt": "srt,udp",
}
"""What may be opened on behalf of a URL, playlists and redirections included; never a local file.

RTSP itself is not in its list, which keeps FFmpeg from following redirections: it would do so without end.
"""


_LOOSE_AT = re.compile(r"[^:]*://[^/?#@]*:[^/?#@]*[/?#].*@", re.DOTALL)
"""``user:pass/word@host``, or a host with a port and an @ in its path: nobody can tell."""


def opener_of(scheme: str) -> Opener:
    """Return the opener for one of ``SCHEMES``."""

    def open_network(rest: str, name: str | None, settings: SourceSettings) -> Source:
        return _open(f"{scheme}:{rest}", name, settings)

    return open_network


def shown_url(url: str) -> str:
    """Return a URL without user, password, query and fragment; the scheme alone if those cannot be told."""
    if _LOOSE_AT.match(url):
        return f"{url.partition(':')[0]}://…"
    bare = re.split(r"[?#]", url, maxsplit=1)[0]
    scheme, slashes, rest = bare.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{slashes}{host.rpartition('@')[2]}{slash}{path}"


def _open(url: str, name: str | None, settings: SourceSettings) -> Source:
    """Return the source for a URL; whether somebody answers shows when it runs.

    Raises:
        SourceError: the URL names no host, a port that is none, or cannot be told from a password.
    """
    shown = shown_url(url)
    _check(url, shown)
    make_input = _input_of(url, shown, settings.network)
    stream = name or shown
    return ReconnectingSource(stream, lambda: LiveSource(make_input, shown, stream, settings))


def _check(url: str, shown: str) -> None:
    if _LOOSE_AT.match(url):
        raise SourceError(
            f"{shown}: has an @ after its host; write / ? # of a password as %2F %3F %23, "
            "and an @ of a path as %40",
            ExitCode.USAGE,
        )
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise SourceError(
            f"{shown}: is no URL; its port must be a number up to 65535", ExitCode.USAGE
        ) from None
    if not url.partition(":")[2].startswith("//") or (not host and port is None):
        raise SourceError(f"{shown}: names no host; give {parts.scheme}://HOST/PATH", ExitCode.USAGE)
    if re.search(r"[\x00-\x20]", url):
        raise SourceError(f"{shown!r}: has blanks in it", ExitCode.USAGE)


def _input_of(url: str, shown: str, network: NetworkSettings) -> Callable[[], LiveInput]:
    def make_input() -> LiveInput:
        from avff.engine.live import LiveInput

        return LiveInput(url, shown, ffmpeg_options(urlsplit(url).scheme, network))

    return make_input


def ffmpeg_options(scheme: str, network: NetworkSettings) -> dict[str, str]:
    """Return FFmpeg's options for a protocol."""
    options = {"protocol_whitelist": _PROTOCOLS[scheme]}
    if scheme in ("rtsp", "rtsps"):
        # Its own timeout as well: it also bounds what is sent, which nothing else does.
        options |= {"rtsp_transport": network.rtsp_transport, "timeout": _us(network.read_timeout_s)}
    if scheme == "udp":  # a burst that overflows FFmpeg's buffer is a loss, not the end
        options["overrun_nonfatal"] = "1"
    if scheme in ("rtsps", "rtmps", "https") and network.verify_tls:
        options |= {"tls_verify": "1"} | _trusted()
    return options


def _trusted() -> dict[str, str]:
    """The system's certificates: the bundled FFmpeg knows of none."""
    file = ssl.get_default_verify_paths().cafile
    return {} if file is None else {"ca_file": file}


def _us(seconds: float) -> str:
    return str(round(seconds * 1_000_000))
