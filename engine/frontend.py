"""From media items to slices: the one path that training and serving share.

``Frontend`` puts pictures and sound on the uniform timeline, follows the faces,
and joins both modalities slice by slice.  It has no clock and no thread: what it
returns depends only on the items and their time stamps, so a file gives the same
slices at full speed, in real time and in training.
"""

from __future__ import annotations

import numpy as np

from avff.engine.errors import MediaError
from avff.engine.faces.alignment import FaceSlicer, Seen
from avff.engine.faces.models import FaceModels
from avff.engine.faces.tracker import FaceTracker, TrackedFace
from avff.engine.grid import FrameGrid, GridFrame, SampleGrid
from avff.engine.media import NS_PER_S, AudioBlock, Bool, Float32, MediaItem, VideoFrame
from avff.engine.quality import light_of_faces, light_of_picture, same_as_before
from avff.engine.resample import AudioNormaliser
from avff.engine.slices import FaceSlice, Slice
from avff.engine.spec import SPEC

MAX_SKEW_NS = 5 * NS_PER_S
"""One modality waits this long, in media time, for the other before its gap is taken as real."""
MAX_JUMP_NS = 60 * NS_PER_S
"""Time stamps that leap further than this are damage, not a pause."""
MAX_RETURN_NS = NS_PER_S
"""Stamps that go back further mean that the timeline began anew, not that pictures were reordered."""
_KEEP_MAIN = 0.5
"""The main face stays the main face while it is at least this part of the largest one's area."""


class Frontend:
    """Cuts one stream into slices.

    Args:
        models: face models, used by this front-end alone; None for a stream without pictures.
        has_video: whether pictures are to be expected.
        has_audio: whether sound is to be expected.
        max_skew_ns: how far one modality may run ahead before the other's gap is final.
    """

    def __init__(
        self,
        models: FaceModels | None,
        *,
        has_video: bool,
        has_audio: bool,
        max_skew_ns: int = MAX_SKEW_NS,
    ) -> None:
        self._has_video, self._has_audio = has_video, has_audio
        self._max_skew_ns = max_skew_ns
        self._pictures = _PictureSide(models)
        self._normaliser = AudioNormaliser()
        self._samples = SampleGrid()
        self._next = 0
        self._captured_ns = 0
        self._newest_ns: dict[type[MediaItem], int] = {}
        self._sync_error_ns: int | None = 0
        self._stretch = 0
        self._first_ns = 0

    def push(self, item: MediaItem) -> list[Slice]:
        """Take the next picture or sound and return the slices it completes.

        The first item of a new stretch ends the one before as the end of a stream would, and
        the stretch begins with the slice it lies in; no slices are made for the time between.

        Raises:
            MediaError: within a stretch, the time stamp leaps ahead by more than ``MAX_JUMP_NS``
                or back by more than ``MAX_RETURN_NS``.
        """
        rest = self._begin_stretch(item) if item.stretch != self._stretch else []
        self._check_jump(item)
        self._captured_ns = max(self._captured_ns, item.captured_ns)
        if isinstance(item, VideoFrame):
            self._pictures.push(item)
        else:
            self._hear(item)
        return rest + self._emit(self._ready())

    def flush(self) -> list[Slice]:
        """End the stream: return what is left, the last slice if at least half of it arrived."""
        for placed in self._normaliser.flush():
            self._samples.write(placed.start, placed.pcm)
        slots = max(self._pictures.end_slot, self._samples.end * SPEC.fps // SPEC.rate_hz)
        return self._emit((slots + SPEC.slice_frames // 2) // SPEC.slice_frames)

    def _begin_stretch(self, item: MediaItem) -> list[Slice]:
        rest = self.flush()
        self._stretch = item.stretch
        self._next = max(self._next, item.pts_ns // SPEC.slice_ns)
        self._pictures.begin_at(self._next)
        self._samples = SampleGrid(self._next)
        self._newest_ns = {}
        self._first_ns = min(item.pts_ns, self._next * SPEC.slice_ns)
        return rest

    def _hear(self, block: AudioBlock) -> None:
        self._sync_error_ns = block.error_ns
        for placed in self._normaliser.push(block):
            self._samples.write(placed.start, placed.pcm)

    def _check_jump(self, item: MediaItem) -> None:
        """Refuse stamps that leap: forward from all that was heard and seen, back within their own track."""
        reached_ns = max(self._video_ns(), self._audio_ns(), self._next * SPEC.slice_ns)
        before_ns = self._newest_ns.get(type(item), self._first_ns)
        if item.pts_ns - reached_ns > MAX_JUMP_NS or before_ns - item.pts_ns > MAX_RETURN_NS:
            start_ns = reached_ns if item.pts_ns > reached_ns else before_ns
            raise MediaError(
                f"time stamps leap from {start_ns / NS_PER_S:.1f} s to {item.pts_ns / NS_PER_S:.1f} s"
            )
        self._newest_ns[type(item)] = max(before_ns, item.pts_ns)

    def _video_ns(self) -> int:
        return self._pictures.next_slot * SPEC.frame_ns

    def _audio_ns(self) -> int:
        return self._samples.end * NS_PER_S // SPEC.rate_hz

    def _ready(self) -> int:
        """Number of slices that are complete, counted from the start of the stream."""
        if not self._has_audio:
            return self._video_ns() // SPEC.slice_ns
        if not self._has_video:
            return self._audio_ns() // SPEC.slice_ns
        both = min(self._video_ns(), self._audio_ns())
        late = max(self._video_ns(), self._audio_ns()) - self._max_skew_ns
        return max(both, late) // SPEC.slice_ns

    def _emit(self, until: int) -> list[Slice]:
        slices = []
        while self._next < until:
            slices.append(self._take())
        return slices

    def _take(self) -> Slice:
        picture = self._pictures.take(self._next)
        audio, share = self._samples.take()
        made = Slice(
            self._next, picture.main, picture.others, picture.ok, picture.repeated, picture.still,
            picture.light, audio, share, self._has_video, self._has_audio, self._captured_ns, self._stretch,
            sync_error_ns=self._sync_error_ns,
        )  # fmt: skip
        self._next += 1
        return made


class _PictureSlice:
    """The picture half of a slice while it fills up."""

    def __init__(self) -> None:
        self.ok: Bool = np.zeros(SPEC.slice_frames, np.bool_)
        self.repeated: Bool = np.zeros(SPEC.slice_frames, np.bool_)
        self.still: Bool = np.zeros(SPEC.slice_frames, np.bool_)
        self.light: Float32 = np.full((SPEC.slice_frames, 2), np.nan, np.float32)
        self.main: FaceSlice | None = None
        self.others: tuple[FaceSlice, ...] = ()


class _PictureSide:
    """Grid, faces and alignment; complete picture slices wait here for their sound.

    Only cut faces wait, never whole pictures: memory stays small whatever the skew.
    """

    def __init__(self, models: FaceModels | None) -> None:
        self._tracker = None if models is None else FaceTracker(models)
        self.begin_at(0)

    def begin_at(self, index: int) -> None:
        """Begin at slice ``index`` as if nothing had been before; face numbers are not used again."""
        if self._tracker is not None:
            self._tracker.forget()
        self._grid = FrameGrid(index * SPEC.slice_frames)
        self._slicers: dict[int, FaceSlicer] = {}
        self._faces: list[TrackedFace] = []
        self._seen: list[dict[int, Seen]] = []
        self._seen_before: dict[int, Seen] = {}
        self._filling = _PictureSlice()
        self._done: dict[int, _PictureSlice] = {}
        self._main_track: int | None = None

    @property
    def next_slot(self) -> int:
        return self._grid.next_slot

    @property
    def end_slot(self) -> int:
        return self._grid.end_slot

    def push(self, frame: VideoFrame) -> None:
        for decided in self._grid.push(frame):
            self._place(decided)

    def take(self, index: int) -> _PictureSlice:
        """Return picture slice ``index``, closing it if pictures stopped before its end."""
        for decided in self._grid.advance((index + 1) * SPEC.slice_frames):
            self._place(decided)
        return self._done.pop(index)

    def _place(self, decided: GridFrame) -> None:
        at = decided.slot % SPEC.slice_frames
        self._filling.ok[at] = decided.frame is not None
        self._filling.repeated[at] = decided.repeated
        seen = {} if decided.frame is None else self._look(decided.frame, decided.repeated)
        self._seen.append(seen)
        if decided.frame is not None and not seen:
            self._filling.light[at] = light_of_picture(decided.frame.rgb)
        if at == SPEC.slice_frames - 1:
            self._close(decided.slot // SPEC.slice_frames)

    def _look(self, frame: VideoFrame, repeated: bool) -> dict[int, Seen]:
        # A repeated picture was already looked at: its faces are the same.
        if not repeated and self._tracker is not None:
            self._faces = self._tracker.process(frame.rgb)
        return {face.track: Seen(face, frame.rgb) for face in self._faces}

    def _close(self, index: int) -> None:
        tracks = sorted({track for seen in self._seen for track in seen})
        slicers = {t: self._slicers.get(t) or FaceSlicer(t) for t in tracks}
        # A track that is gone for a whole slice is not smoothed into its return.
        self._slicers = slicers
        cut = [slicers[t].cut([seen.get(t) for seen in self._seen]) for t in tracks]
        cut.sort(key=_prominence, reverse=True)
        self._filling.main = self._choose_main(cut)
        self._filling.others = tuple(face for face in cut if face is not self._filling.main)
        self._measure(self._filling)
        self._done[index] = self._filling
        # The grid keeps the last picture as well: no memory is spent on it.
        self._seen_before = self._seen[-1]
        self._filling, self._seen = _PictureSlice(), []

    def _measure(self, filled: _PictureSlice) -> None:
        """Note how the main face is lit, and where it stands still."""
        filled.still |= filled.repeated
        main = filled.main
        if main is not None:
            filled.light[main.ok] = light_of_faces(main.faces)[main.ok]
            course = (seen.get(main.track) for seen in (self._seen_before, *self._seen))
            filled.still |= same_as_before([None if s is None else s.rgb for s in course], main.box)

    def _choose_main(self, faces: list[FaceSlice]) -> FaceSlice | None:
        if not faces:
            return None
        stay = next((f for f in faces if f.track == self._main_track), None)
        main = (
            stay if stay is not None and _prominence(stay) >= _KEEP_MAIN * _prominence(faces[0]) else faces[0]
        )
        self._main_track = main.track
        return main


def _prominence(face: FaceSlice) -> float:
    return face.box[2] * face.box[3] * float(face.ok.mean())
