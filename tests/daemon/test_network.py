"""Network streams from servers that misbehave, and from FFmpeg; what is shown of a URL."""

from __future__ import annotations

import contextlib
import functools
import http.server
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from avff.daemon.config import NetworkSettings
from avff.daemon.errors import ExitCode, SourceError
from avff.daemon.sources import Source, SourceSettings, open_source
from avff.daemon.sources.live import LiveSource
from avff.daemon.sources.network import SCHEMES, ffmpeg_options, shown_url
from avff.daemon.worker import abandoned_threads
from avff.engine.live import LiveInput
from tests.support import hostile
from tests.support.media import write_clip
from tests.support.streams import Running

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(90)]

QUICK = NetworkSettings(open_timeout_s=1.5, read_timeout_s=2.0)


def _once(url: str, network: NetworkSettings = QUICK) -> LiveSource:
    """One connection, without reconnecting."""
    shown = shown_url(url)
    options = ffmpeg_options(url.partition(":")[0], network)
    return LiveSource(lambda: LiveInput(url, shown, options), shown, "cam", SourceSettings(network=network))


async def _refused(url: str, network: NetworkSettings = QUICK) -> SourceError:
    source = _once(url, network)
    with pytest.raises(SourceError) as raised:
        await source.__aenter__()
    assert "\n" not in str(raised.value)
    return raised.value


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("rtsp://cam/live", "rtsp://cam/live"),
        ("rtsp://me:secret@cam:554/live?token=secret#secret", "rtsp://cam:554/live"),
        ("rtsp://me:sec@ret@cam/live", "rtsp://cam/live"),
        ("https://secret@host/a@b.m3u8", "https://host/a@b.m3u8"),
        ("rtmp://host?secret", "rtmp://host"),
        ("udp://@239.0.0.1:5000", "udp://239.0.0.1:5000"),
    ],
)
async def test_nothing_secret_is_shown(url: str, shown: str) -> None:
    """Neither user information nor queries; an @ in the path is a path."""
    assert shown_url(url) == shown
    source = open_source(url)
    assert source.name == shown


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("rtsp:cam", "rtsp:cam: names no host; give rtsp://HOST/PATH"),
        ("rtsp://", "names no host"),
        ("rtsp:///live", "names no host"),
        ("rtsp://cam:port/live", "its port must be a number"),
        ("rtsp://me:secret@cam:99999/live", "its port must be a number"),
        ("http://cam/a b", "blanks"),
        ("rtsp://me:sec/ret@cam/live", "rtsp://…: has an @ after its host"),
        ("rtsp://me:se#cret@cam/live", "rtsp://…: has an @ after its host"),
        ("rtsp://me:secret?@cam/live", "rtsp://…: has an @ after its host"),
    ],
)
async def test_url_that_makes_no_sense_is_a_usage_error(uri: str, words: str) -> None:
    """Found before anything is opened, and without repeating a password."""
    with pytest.raises(SourceError, match=words) as raised:
        open_source(uri)
    assert raised.value.exit_code == ExitCode.USAGE
    assert not any(part in str(raised.value) for part in ("secret", "sec", "cret"))


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_no_url_may_lead_to_a_local_file(scheme: str) -> None:
    """Playlists and redirections are held to the protocols of the network."""
    allowed = ffmpeg_options(scheme, NetworkSettings())["protocol_whitelist"].split(",")
    assert not {"file", "pipe", "fd", "concat", "subfile", "unix", "data"} & set(allowed)


async def test_rtsp_goes_over_tcp_unless_told_otherwise() -> None:
    """Settings reach FFmpeg."""
    assert ffmpeg_options("rtsp", NetworkSettings())["rtsp_transport"] == "tcp"
    assert ffmpeg_options("rtsp", NetworkSettings(rtsp_transport="udp"))["rtsp_transport"] == "udp"
    assert ffmpeg_options("https", NetworkSettings())["tls_verify"] == "1"
    assert "tls_verify" not in ffmpeg_options("https", NetworkSettings(verify_tls=False))


@pytest.mark.parametrize(
    ("scheme", "handler", "reasons"),
    [
        ("rtsp", hostile.black_hole, {"timed_out"}),
        ("http", hostile.black_hole, {"timed_out"}),
        ("rtmp", hostile.black_hole, {"timed_out"}),
        ("rtsp", hostile.drip, {"timed_out"}),
        ("http", hostile.drip, {"timed_out"}),
        ("rtmp", hostile.drip, {"timed_out"}),
        ("rtsp", hostile.garbage, {"timed_out", "not_media"}),
        ("http", hostile.garbage, {"not_media"}),
        ("rtmp", hostile.garbage, {"unreachable"}),
        ("tcp", hostile.garbage, {"not_media", "timed_out"}),
        ("rtsp", hostile.hang_up, {"not_media", "unreachable"}),
        ("http", hostile.hang_up, {"not_media", "unreachable"}),
        ("rtmp", hostile.hang_up, {"unreachable", "not_media"}),
        ("rtsp", hostile.rtsp_redirect, {"not_media"}),
        ("http", hostile.http_redirect, {"unreachable"}),
        ("http", hostile.http_answer("401 Unauthorized"), {"unauthorized"}),
        ("http", hostile.http_answer("403 Forbidden"), {"unauthorized"}),
        ("http", hostile.http_answer("404 Not Found"), {"not_found"}),
        ("http", hostile.http_answer("429 Too Many Requests"), {"refused"}),
        ("http", hostile.http_answer("503 Service Unavailable"), {"refused"}),
        ("http", hostile.http_answer("200 OK", b"<html>hello</html>" * 100), {"not_media"}),
    ],
)
async def test_server_that_misbehaves_ends_in_time_with_a_reason(
    scheme: str, handler: hostile.Handler, reasons: set[str]
) -> None:
    """Nothing blocks beyond the timeouts, and no thread stays."""
    began_s = time.monotonic()
    with hostile.serving(handler) as port:
        error = await _refused(f"{scheme}://me:secret@127.0.0.1:{port}/x")
    assert error.reason in reasons, str(error)
    assert error.exit_code == ExitCode.UNAVAILABLE
    assert "secret" not in str(error)
    assert str(error).startswith(f"{scheme}://127.0.0.1:{port}/x: ")
    assert time.monotonic() - began_s < 10
    assert abandoned_threads() == []


async def test_nobody_there() -> None:
    """Refused and unknown hosts are told apart."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert (await _refused(f"rtsp://127.0.0.1:{port}/x")).reason == "refused"
    assert (await _refused("rtsp://no-such-host.invalid/x")).reason in {"unreachable", "timed_out"}


async def test_missing_protocol_is_not_tried_again() -> None:
    """The bundled FFmpeg has no SRT: no attempt will change that."""
    async with Running(open_source("srt://127.0.0.1:9", "cam")) as running:
        event = await running.until_state("failed", "unsupported")
    assert running.code == ExitCode.USAGE
    assert "does not have the protocol" in (event.change.status.message or "")


PLAYLIST = """\
#EXTM3U
#EXT-X-TARGETDURATION:2
#EXT-X-MEDIA-SEQUENCE:0
#EXTINF:2,
{segment}
"""


async def test_playlist_may_not_name_a_local_file(tmp_path: Path) -> None:
    """The file is good media, and stays unread."""
    clip = write_clip(tmp_path / "clip.ts", seconds=2, codec="libx264", audio=False)
    body = PLAYLIST.format(segment=clip.as_uri()).encode()
    with hostile.serving(hostile.http_answer("200 OK", body, "application/vnd.apple.mpegurl")) as port:
        error = await _refused(f"http://127.0.0.1:{port}/live.m3u8")
    assert error.reason in {"not_media", "unreachable", "timed_out"}


async def test_file_behind_a_url_is_no_live_stream(tmp_path: Path) -> None:
    """It has a length; played as live it would lose pictures and start over for ever."""
    clip = write_clip(tmp_path / "clip.mkv", seconds=2)
    with hostile.serving(hostile.http_answer("200 OK", clip.read_bytes(), "video/x-matroska")) as port:
        error = await _refused(f"http://127.0.0.1:{port}/clip.mkv")
    assert (error.reason, error.exit_code) == ("not_live", ExitCode.USAGE)
    assert "is a file of 2 s" in str(error)


@pytest.mark.parametrize(
    ("how", "reason"),
    [({"size": (4608, 2592), "frames": 1}, "too_large"), ({"codec": "ffv1"}, "unsupported")],
)
async def test_media_beyond_the_limits_is_refused(
    tmp_path: Path, how: dict[str, object], reason: str
) -> None:
    """Pictures of any size and decoders of any kind are what a server would ask for."""
    clip = write_clip(tmp_path / "clip.mkv", seconds=0.2, audio=False, options={"live": "1"}, **how)  # type: ignore[arg-type]
    with hostile.serving(hostile.http_answer("200 OK", clip.read_bytes(), "video/x-matroska")) as port:
        error = await _refused(f"http://127.0.0.1:{port}/live")
    assert error.reason == reason, str(error)


def _make_certificate(key: Path, certificate: Path) -> None:
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject, *files]
    subprocess.run(command, check=True, capture_output=True)


async def test_untrusted_certificate_is_refused(tmp_path: Path) -> None:
    """TLS is verified by default, and can be told not to."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl to make a certificate")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    _make_certificate(key, certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    def handle(client: socket.socket) -> None:
        with contextlib.suppress(ssl.SSLError), context.wrap_socket(client, server_side=True) as secure:
            hostile.http_answer("404 Not Found")(secure)

    with hostile.serving(handle) as port:
        error = await _refused(f"https://127.0.0.1:{port}/x")
        assert error.reason == "unreachable"
        assert "certificate is not trusted" in str(error)
        lenient = QUICK.model_copy(update={"verify_tls": False})
        assert (await _refused(f"https://127.0.0.1:{port}/x", lenient)).reason == "not_found"


FFMPEG = shutil.which("ffmpeg")
needs_ffmpeg = pytest.mark.skipif(FFMPEG is None, reason="needs ffmpeg")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


SENT = (
    "-re -f lavfi -i testsrc=size=160x120:rate=25 -f lavfi -i sine=sample_rate=44100 "
    "-c:v {codec} -g 12 -pix_fmt yuv420p -c:a aac"
)


@contextlib.contextmanager
def _sending(*output: str, codec: str = "mpeg2video") -> Iterator[None]:
    """FFmpeg sends pictures and a tone in real time."""
    assert FFMPEG is not None
    process = subprocess.Popen(
        [FFMPEG, "-loglevel", "quiet", *SENT.format(codec=codec).split(), *output], stdin=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _reconnecting(url: str) -> Source:
    return open_source(url, "cam", SourceSettings(network=NetworkSettings(read_timeout_s=3)))


@needs_ffmpeg
@pytest.mark.parametrize(
    ("url", "form", "codec"),
    [
        ("http://127.0.0.1:{port}/live.ts", "mpegts", "mpeg2video"),
        ("tcp://127.0.0.1:{port}", "mpegts", "mpeg2video"),
        ("rtmp://127.0.0.1:{port}/live/x", "flv", "libx264"),
    ],
    ids=["http", "tcp", "rtmp"],
)
async def test_stream_is_played_and_found_again(url: str, form: str, codec: str) -> None:
    """A listener that serves one client and is killed, twice."""
    url = url.format(port=_free_port())
    target = f"{url}?listen=1" if form == "mpegts" and url.startswith("tcp") else url
    output = ["-f", form, *([] if "listen" in target else ["-listen", "1"]), target]
    async with Running(_reconnecting(url)) as running:
        with _sending(*output, codec=codec):
            await running.until_state("live")
        await running.until_state("reconnecting", "refused")
        with _sending(*output, codec=codec):
            await running.until_state("live", after=len(running.states))
    ends = [event.end_ns for event in running.sink.scores]
    assert ends == sorted(set(ends))
    assert running.code == 0


@needs_ffmpeg
async def test_hls_is_played_at_its_own_speed(tmp_path: Path) -> None:
    """Segments of a second come at once; held to their pace, hardly a picture is lost."""
    handler = functools.partial(_QuietHandler, directory=str(tmp_path))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    playlist = tmp_path / "live.m3u8"
    segments = ["-hls_time", "1", "-hls_list_size", "5", "-hls_flags", "delete_segments+temp_file"]
    try:
        with _sending("-f", "hls", *segments, str(playlist), codec="libx264"):
            source = _reconnecting(f"http://127.0.0.1:{server.server_port}/live.m3u8")
            async with Running(source) as running:
                await running.until_state("live", within_s=40)
                await running.until(lambda: len(running.sink.scores) > 20, "6 s of media")
    finally:
        server.shutdown()
        server.server_close()
    assert running.sink.summaries[0].dropped < 15
    assert running.sink.scores[-1].end_ns > 6_000_000_000


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@needs_ffmpeg
async def test_udp_stream_is_played_and_waits_for_its_sender() -> None:
    """Nobody sends at first: no answer, tried again, and there it is."""
    port = _free_port()
    source = open_source(f"udp://127.0.0.1:{port}", "cam", SourceSettings(network=QUICK))
    async with Running(source) as running:
        await running.until_state("reconnecting", "timed_out")
        with _sending("-f", "mpegts", f"udp://127.0.0.1:{port}?pkt_size=1316"):
            await running.until_state("live", within_s=40)
        await running.until_state("reconnecting", "no_media")
    assert (source.has_video, source.has_audio) == (True, True)
