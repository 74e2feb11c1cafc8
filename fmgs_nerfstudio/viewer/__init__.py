"""What the avatar adds to nerfstudio's viewer."""

from fmgs_nerfstudio.viewer.first_view import FirstView
from fmgs_nerfstudio.viewer.stage import PuppetStage

__all__ = ["FirstView", "PuppetStage"]
