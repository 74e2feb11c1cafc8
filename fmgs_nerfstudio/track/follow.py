"""One person, followed from frame to frame: found again where they were, and told from other people by their looks."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import hypot

import cv2
import numpy as np
from fmgs_dataparsers.files import CaptureError
from jaxtyping import Float

from fmgs_nerfstudio.arrays import Array
from fmgs_nerfstudio.track.networks import SIDE, Detection, Detector, Image, LandmarkNetwork, Look, Region

PRESENT = 0.5
"""The landmark network's word for a person at all."""
DARK = 30
"""Grey levels of the brightest twentieth of a frame that shows too little."""
_JOINTS = [11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28]  # shoulders, elbows, wrists, hips, knees, ankles
_CORE = [11, 12, 23, 24, 25, 26, 27, 28]
_STRANGER, _SUDDEN = 0.25, 0.2  # Hellinger distances to the person's colours, and to those just seen: somebody else
_SPEED = 2.5  # of the hips, heights a second; sprinters do not run across a picture that they fill
_START, _WAIT = 0.3, 0.25  # heights that the hips may jump besides; seconds after which a region is old
_LEARNT = 0.05  # share of a frame in the person's colours: front and back differ, and light does
_CUT_OFF = 0.06  # heights that the person may touch the picture's edge with
_OFF = 0.07  # of its side that the person may be beside the middle of a region; it was trained for 0.1
_HALF_WIDTH = 0.15  # of a person, heights
_IN_THE_WAY, _BLOCKED = "somebody else is in the way", 1.0
_PEOPLE = 6  # at most, that are looked at in a frame
_SEARCH = 5  # of frames without anybody, one in so many is searched in parts


def choose(people: list[Look], size: tuple[int, int], person: str | None) -> Look:
    """The person that is wanted; by default the largest and most central.

    Args:
        size: width and height of the image.
        person: 'left', 'right', or a number that counts from the left, 1 first.
    """
    ordered = sorted(people, key=lambda look: look.next.centre[0])
    if person in ("left", "right"):
        return ordered[0 if person == "left" else -1]
    if person is not None:
        return ordered[int(person) - 1]
    width, height = size

    def prominence(look: Look) -> float:
        offset = (look.next.centre - np.array([width, height]) / 2) / max(width, height)
        return look.next.height * (1 - min(hypot(*offset), 0.8))

    return max(people, key=prominence)


def check_person(person: str | None) -> None:
    """Raises:
    CaptureError: it is none of the forms that `choose` takes.
    """
    if person not in (None, "left", "right") and not (person.isdecimal() and int(person) > 0):
        raise CaptureError(f"--person is {person!r}; expected left, right, or a number that counts from the left")


@dataclass
class Follower:
    """Looks where the person was in the last frame, and everywhere if they are not there."""

    detector: Detector
    network: LandmarkNetwork
    person: str | None = None
    """See `choose`."""
    last: Region | None = None
    """Where the person was."""
    time: float = 0.0
    """Of `last`, seconds."""
    colours: Float[Array, "N"] | None = None
    """The person's, a histogram."""
    recent: Float[Array, "N"] | None = None
    """Those of the last frame."""
    misses: int = 0
    """Frames since somebody was seen."""
    blocked: float = 0.0
    """Second until which somebody else may be in the way, though the detector takes both for one."""
    notes: list[str] = field(default_factory=list[str])

    def __call__(self, image: Image, time: float, name: str) -> Look | str:
        """What is seen of the person, or why the frame cannot be used."""
        light = float(np.percentile(image[::8, ::8], 95))
        look = self._look(image, time, name)
        if look is None:
            self.misses += 1
            if light < DARK:
                return "too dark to see anybody"
            return "nobody is seen" if self.colours is None else "the person is not seen"
        self.misses = 0
        self.last, self.time = look.next, time
        seen = self.recent = colours_of(image, look)
        self.colours = seen if self.colours is None else (1 - _LEARNT) * self.colours + _LEARNT * seen
        if light < DARK:
            return "too dark"
        if not look.agreed:
            return "front and back are not told apart"
        return outside(look, image) or self._hidden(image, look, time) or look

    def _hidden(self, image: Image, look: Look, time: float) -> str | None:
        """Why the frame cannot be used if somebody else is before or behind the person, seen apart or not."""
        people = self.detector(image)
        if any(self._another(image, look, other) for other in in_the_way(look, people)):
            self.blocked = time + _BLOCKED
        elif len(people) > 1:
            self.blocked = 0.0
        return _IN_THE_WAY if time < self.blocked else None

    def _another(self, image: Image, look: Look, detection: Detection) -> bool:
        """Whether it is somebody else at all: the detector takes the pattern of a skirt for a face, too."""
        other = self._centred(image, detection.region)
        return other.presence >= PRESENT and not _overlap(look, other)

    def forget(self) -> None:
        """After a cut: the person may be anywhere, and in another light."""
        self.last, self.recent, self.misses, self.blocked = None, None, 0, 0.0

    def _look(self, image: Image, time: float, name: str) -> Look | None:
        if self.last is not None and self.misses == 0 and time - self.time <= _WAIT:
            look = self._centred(image, self.last)
            if look.presence >= PRESENT and self._same(image, look, time):
                return look
        first = self.colours is None
        found = search(self.detector, image, thorough=self.misses % _SEARCH == 0, everybody=first)
        people = self._looks(image, found)
        if first:
            return self._first(people, image, name) if people else None
        same = [look for look in people if self._same(image, look, time)]
        return min(same, key=lambda look: _distance(self.colours, colours_of(image, look)), default=None)

    def _centred(self, image: Image, region: Region) -> Look:
        """At the person in about this region, who are in its middle at last: the network errs where they are not."""
        look = self.network(image, region)
        moved = hypot(*(look.next.centre - region.centre)) / region.side
        if look.presence >= PRESENT and (moved > _OFF or abs(look.next.side / region.side - 1) > 2 * _OFF):
            look = self.network(image, look.next)
        return look

    def _looks(self, image: Image, found: list[Detection]) -> list[Look]:
        """At those who are people, once each."""
        looks = list[Look]()
        for detection in found:
            look = self._centred(image, detection.region)
            if look.presence >= PRESENT and not any(_overlap(look, other) for other in looks):
                looks.append(look)
        return looks

    def _first(self, people: list[Look], image: Image, name: str) -> Look:
        height, width = image.shape[:2]
        if self.person is not None and self.person.isdecimal() and int(self.person) > len(people):
            raise CaptureError(f"--person is {self.person}, but {len(people)} people are seen in {name}")
        look = choose(people, (width, height), self.person)
        if len(people) > 1:
            place = 1 + sum(other.next.centre[0] < look.next.centre[0] for other in people)
            wanted = f"--person {self.person}" if self.person else "the largest and most central"
            self.notes.append(
                f"{len(people)} people are seen in {name}; number {place} from the left is followed ({wanted}); "
                "--person left, right or a number takes another"
            )
        return look

    def _same(self, image: Image, look: Look, time: float) -> bool:
        """Whether this may be the person who is followed: by place and size, and by colours."""
        if self.last is not None:
            step = hypot(*(look.next.centre - self.last.centre)) / self.last.height
            ratio = look.next.height / self.last.height
            passed = time - self.time
            if step > _START + _SPEED * passed or (not ratio / (1 + passed) > 1 / 1.5 and ratio < 1.5 * (1 + passed)):
                return False
        seen = colours_of(image, look)
        sudden = 0.0 if self.misses else _distance(self.recent, seen)
        return _distance(self.colours, seen) < _STRANGER and sudden < _SUDDEN


def _distance(one: Float[Array, "N"] | None, other: Float[Array, "N"]) -> float:
    """Of two histograms, 0..1 (Hellinger); 0 to none."""
    return 0.0 if one is None else float(np.sqrt(max(1 - np.sqrt(one * other).sum(), 0)))


def search(detector: Detector, image: Image, thorough: bool = False, everybody: bool = False) -> list[Detection]:
    """People in the image, the surest first.

    The detector sees the image at 224 pixels, and nobody who is lower than a third of that: `thorough` looks at
    overlapping squares too where it sees nobody, `everybody` in any case.
    """
    found = detector(image)
    height, width = image.shape[:2]
    side = min(height, width)
    for share in (1.0, 0.5):
        if (thorough and not found) or (everybody and share == 1.0 and max(height, width) > 1.2 * side):
            found += _in_squares(detector, image, round(share * side))
    found.sort(key=lambda detection: -detection.score)
    kept = list[Detection]()
    for detection in found:
        if not any(_same_face(detection, other) for other in kept):
            kept.append(detection)
    return kept[:_PEOPLE]


def _in_squares(detector: Detector, image: Image, side: int) -> list[Detection]:
    height, width = image.shape[:2]
    found = list[Detection]()
    for top in _starts(height, side):
        for left in _starts(width, side):
            corner = np.array([left, top])
            for detection in detector(image[top : top + side, left : left + side]):
                region = replace(detection.region, centre=detection.region.centre + corner)
                found.append(replace(detection, region=region, face=detection.face + np.tile(corner, 2)))
    return found


def _starts(length: int, side: int) -> list[int]:
    count = max(int(np.ceil((length - side) / (side / 2))) + 1, 1)
    return np.linspace(0, max(length - side, 0), count).astype(int).tolist()


def _same_face(one: Detection, other: Detection) -> bool:
    size = max(one.face[2] - one.face[0], other.face[2] - other.face[0])
    return hypot(*(one.face[:2] + one.face[2:] - other.face[:2] - other.face[2:])) / 2 < 0.7 * size


def _overlap(one: Look, other: Look) -> bool:
    """Whether two looks are at the same person: most joints are in the same places."""
    apart = np.hypot(*(one.landmarks[_JOINTS] - other.landmarks[_JOINTS]).T)
    return bool(np.median(apart) < 0.12 * one.next.height)


def outside(look: Look, image: Image) -> str | None:
    """Why the frame cannot be used if the person is partly outside of it."""
    height, width = image.shape[:2]
    beyond = ((look.landmarks < 0) | (look.landmarks > [width, height])).any(1)
    if beyond[_CORE].any() or beyond[_JOINTS].sum() > 1 or _on_edge(look, width, height) > _CUT_OFF * look.next.height:
        return "the person is partly outside the picture"
    return None


def in_the_way(look: Look, people: list[Detection]) -> list[Detection]:
    """Who seem to overlap the person: landmarks and mask would be of both."""
    low, high = look.landmarks.min(0), look.landmarks.max(0)

    def overlaps(other: Detection) -> bool:
        reach = other.region.height * np.array([_HALF_WIDTH, 0.5])
        return bool((other.region.centre + reach > low).all() and (other.region.centre - reach < high).all())

    def elsewhere(other: Detection) -> bool:
        apart = hypot(*(other.region.centre - look.next.centre))
        return apart > 0.15 * look.next.height and other.region.height > 0.5 * look.next.height

    def upright(other: Detection) -> bool:  # with this person's skirt for a face, the other stands on their head
        return np.cos(other.region.angle - look.region.angle) > 0

    return [other for other in people if elsewhere(other) and overlaps(other) and upright(other)]


def _on_edge(look: Look, width: int, height: int) -> float:
    """Pixels of the picture's edge that the person covers: the network draws who is cut off narrower, and inside."""
    x, y = np.arange(width) + 0.5, np.arange(height) + 0.5
    inset = 1.5 * look.region.side / SIDE  # the mask fades toward the black beyond
    lines = [(x, inset), (x, height - inset), (inset, y), (width - inset, y)]
    covered = list[int]()
    for line in lines:
        points = np.stack(np.broadcast_arrays(*line), -1)
        columns, rows = np.floor((points - look.region.centre) @ look.region.rotation * (SIDE / look.region.side)).T
        columns, rows = (columns + SIDE // 2).astype(int), (rows + SIDE // 2).astype(int)
        inside = (columns >= 0) & (columns < SIDE) & (rows >= 0) & (rows < SIDE)
        covered.append(int((look.mask[rows[inside], columns[inside]] > 0.5).sum()))
    return max(covered)


def colours_of(image: Image, look: Look) -> Float[Array, "N"]:
    """Histogram of the person's colours, whatever the exposure: 12 hues by 4 saturations, and 8 greys; sums to 1."""
    picture = look.region.cut(image)[look.mask > 0.8].astype(np.float32)
    if not len(picture):
        return np.full(56, 1 / 56)
    picture *= 110 / max(float(picture.mean()), 1.0)
    hsv = cv2.cvtColor(picture.clip(0, 255).astype(np.uint8)[None], cv2.COLOR_BGR2HSV)[0]
    hue, saturation, value = hsv.T.astype(int)
    plain = (saturation < 40) | (value < 30)
    bins = np.where(plain, 48 + value // 32, hue // 15 * 4 + saturation // 64)
    counts = np.bincount(bins, minlength=56).astype(float)
    # Neighbouring bins share: light moves colours a little.
    blurred = cv2.GaussianBlur(counts[:48].reshape(12, 4), (3, 3), 0, borderType=cv2.BORDER_REPLICATE)
    greys = cv2.GaussianBlur(counts[48:].reshape(8, 1), (1, 3), 0, borderType=cv2.BORDER_REPLICATE)
    both = np.r_[blurred.ravel(), greys.ravel()]
    return both / both.sum()


def upright_turn(detector: Detector, images: list[Image]) -> int:
    """Degrees, clockwise, by which the pictures must be turned so that people in them stand; 0 where none is seen."""
    found = [people for image in images if (people := detector(image))]
    found = found or [people for image in images[:2] if (people := search(detector, image, thorough=True))]
    if not found:
        return 0
    angles = [people[0].region.angle for people in found]
    middle = float(np.angle(np.mean(np.exp(1j * np.array(angles)))))
    return round(-np.degrees(middle) / 90) % 4 * 90
