"""One person, followed from frame to frame."""

from __future__ import annotations

from dataclasses import dataclass

from fmgs_nerfstudio.track.networks import Detector, Image, LandmarkNetwork, Look, Region

PRESENT = 0.5
"""The network's word for a person at all."""


@dataclass
class Follower:
    """Looks where the person was in the last frame, and everywhere if they are not there."""

    detector: Detector
    network: LandmarkNetwork
    region: Region | None = None

    def __call__(self, image: Image) -> Look | str:
        """What is seen of the person, or why nothing is."""
        look = self.network(image, self.region) if self.region else None
        if look is None or look.presence < PRESENT:
            people = self.detector(image)
            if not people:
                self.region = None
                return "nobody is seen"
            look = self.network(image, people[0].region)
            look = self.network(image, look.next)  # the detector's region is rough
        if look.presence < PRESENT:
            self.region = None
            return "nobody is seen"
        self.region = look.next
        return look
