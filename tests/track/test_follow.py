"""One person is followed, for real: a whole turn, other people, the picture's edge, darkness, pictures upside down."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fmgs_dataparsers.files import CaptureError
from support.footage import JOINTS, Shot, place, turning, wall

from fmgs_nerfstudio.track.follow import Follower, check_person, in_the_way, upright_turn
from fmgs_nerfstudio.track.mirror import OTHER_SIDE
from fmgs_nerfstudio.track.networks import Detection, Detector, LandmarkNetwork, Look, Region

DETECTOR, NETWORK = Detector(), LandmarkNetwork()
STEP = 1 / 15


def _follow(images: list[np.ndarray], person: str | None = None) -> tuple[list[Look | str], Follower]:
    follower = Follower(DETECTOR, NETWORK, person)
    return [follower(image, i * STEP, f"frame {i}") for i, image in enumerate(images)], follower


def _middle(look: Look | str) -> float:
    assert isinstance(look, Look), look
    return float(look.landmarks[[11, 12, 23, 24], 0].mean())


def _both(left: Shot, right: Shot, x: float, other: float) -> np.ndarray:
    """Two people; the first stands in front."""
    return place(place(wall(), right, other, 20), left, x, 20)


def test_sides_do_not_swap_in_a_whole_turn() -> None:
    """In each frame the landmarks are nearer to the joints of their own side than to those of the other."""
    looks, _ = _follow([place(wall(), shot, 150, 20) for shot in turning()])
    own = list(JOINTS.values())
    others = np.array(own).reshape(-1, 2)[:, ::-1].ravel()
    for shot, look in zip(turning(), looks, strict=True):
        assert isinstance(look, Look), look
        found, joints = look.landmarks[list(JOINTS)], shot.joints + np.array([150, 20])
        apart, swapped = (np.hypot(*(found - joints[names]).T).mean() for names in (own, others))
        assert apart < swapped
        assert apart < 9
        # So in depth, where they differ: the left shoulder is nearer while the right side is turned away.
        if abs(shot.depth[16] - shot.depth[17]) > 0.15:
            assert (look.world[11, 2] < look.world[12, 2]) == (shot.depth[16] < shot.depth[17])


def test_whoever_is_followed_when_people_cross() -> None:
    """The one who is hidden for a while is left out then, and found again behind the other."""
    one, other = turning(3), turning(5, 4)
    count = 10
    images = [_both(one[i % 12], other[i % 4], 330 * i / 9, 330 - 330 * i / 9) for i in range(count)]
    looks, follower = _follow(images, "2")
    assert "2 people are seen in frame 0" in follower.notes[0]
    expected = [160 + 330 - 330 * i / 9 for i in range(count)]
    for i, (look, x) in enumerate(zip(looks, expected, strict=True)):
        if isinstance(look, Look):
            assert abs(_middle(look) - x) < 25, i
        else:
            assert look in ("the person is not seen", "somebody else is in the way")
            assert 2 <= i <= 7
    assert isinstance(looks[-1], Look)
    assert sum(isinstance(look, Look) for look in looks) >= 4


def test_a_skirt_that_the_detector_takes_for_a_face_is_nobody_in_the_way() -> None:
    """Whoever seems to stand on their head in the person's place is the person."""
    image = place(wall(), turning()[0], 150, 20)
    look = Follower(DETECTOR, NETWORK)(image, 0.0, "frame 0")
    assert isinstance(look, Look)
    lower = look.next.centre - np.array([0, 0.3 * look.next.height])
    upside_down = Detection(0.7, Region(lower, look.next.side, np.pi), np.zeros(4))
    assert in_the_way(look, [upside_down]) == []
    upright = Detection(0.7, Region(lower, look.next.side, 0.1), np.zeros(4))
    assert in_the_way(look, [upright]) == [upright]
    follower = Follower(lambda image: [upright], NETWORK)  # pyright: ignore[reportArgumentType]
    assert not follower._another(image, look, upright)  # the network sees the same person there


def test_the_largest_and_most_central_is_followed() -> None:
    small, large = turning(5, 4)[0], turning(3)[0]
    image = place(place(wall(), small, 0, 110, 0.7), large, 200, 20)
    (look,), follower = _follow([image])
    assert abs(_middle(look) - 360) < 15
    assert "number 2 from the left is followed (the largest and most central)" in follower.notes[0]
    (left,), _ = _follow([image], "left")
    assert abs(_middle(left) - 112) < 15
    with pytest.raises(CaptureError, match="--person is 3, but 2 people are seen in frame 0"):
        _follow([image], "3")


@pytest.mark.parametrize("person", ["0", "middle", "-1", ""])
def test_persons_that_are_none(person: str) -> None:
    with pytest.raises(CaptureError, match="expected left, right, or a number that counts from the left"):
        check_person(person)


def test_who_leaves_the_picture_is_left_out() -> None:
    shots = turning()
    looks, _ = _follow([place(wall(), shots[0], 150 + x, 20) for x in (220, 300, 330, 400)])
    assert isinstance(looks[0], Look)
    assert all(isinstance(look, str) for look in looks[1:])
    assert looks[1] == "the person is partly outside the picture"
    (feet,), _ = _follow([place(wall(), shots[0], 150, 80)])  # 40 pixels of them are below
    assert feet == "the person is partly outside the picture"


class TwoFaced(LandmarkNetwork):
    """Takes the front for the back in every other pass."""

    passes = 0

    def _pass(self, picture: np.ndarray) -> Any:
        self.passes += 1
        seen = super()._pass(picture)
        if self.passes % 2:
            return seen
        return replace(seen, landmarks=seen.landmarks[[*OTHER_SIDE, 33, 34]], world=seen.world[OTHER_SIDE])


def test_who_is_seen_from_two_sides_at_once_is_left_out() -> None:
    """The mean of front and back would be a body as thin as a line, and the network would be sure of it."""
    image = place(wall(), turning()[0], 150, 20)
    plain, two_faced = (Follower(DETECTOR, network)(image, 0, "frame 0") for network in (NETWORK, TwoFaced()))
    assert isinstance(plain, Look)
    assert two_faced == "front and back are not told apart"


def test_nobody_and_darkness() -> None:
    looks, _ = _follow([wall(), (0.08 * place(wall(), turning()[0], 150, 20)).astype(np.uint8)])
    assert looks == ["nobody is seen", "too dark to see anybody"]


def test_a_small_person_in_a_large_picture() -> None:
    """124 of 720 pixels: 22 of those that the detector sees."""
    (look,), _ = _follow([place(wall(2, 1280, 720), turning()[0], 900, 300, 0.5)])
    assert abs(_middle(look) - 980) < 8


@pytest.mark.parametrize(("quarters", "degrees"), [(0, 0), (1, 90), (2, 180), (3, 270)])
def test_which_way_is_up(quarters: int, degrees: int) -> None:
    images = [np.ascontiguousarray(np.rot90(place(wall(), turning()[i], 150, 20), quarters)) for i in (0, 4)]
    assert upright_turn(DETECTOR, images) == degrees
    assert upright_turn(DETECTOR, [wall()]) == 0
