"""Where the viewer listens: to this machine alone unless the user says otherwise, and at the port that is told."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from nerfstudio.configs.base_config import ViewerConfig
from nerfstudio.utils.rich_utils import CONSOLE
from nerfstudio.viewer.viewer import Viewer

# The host listens to the whole network, and its depth compositing hides what stands in the person or before nothing.
_OURS = {"websocket_host": "127.0.0.1", "default_composite_depth": False}


def with_our_defaults(config: ViewerConfig, arguments: Sequence[str] = ()) -> ViewerConfig:
    """`config`, with our defaults for those of its options that the program's arguments do not name."""
    named = {argument.partition("=")[0].replace("_", "-") for argument in arguments}
    unnamed = {name: value for name, value in _OURS.items() if f"--viewer.{name.replace('_', '-')}" not in named}
    return replace(config, **unnamed)


def tell_true_port(viewer: Viewer) -> None:
    """Put the port that the server has into the host's banner, and say if it is not the one that was asked for.

    viser takes the next free one in silence, and the banner (`viewer_info`) names the first.
    """
    host, port = viewer.viser_server.get_host(), viewer.viser_server.get_port()
    viewer.viewer_info = [re.sub(r"(?<=//)([^\s/]+):\d+", rf"\1:{port}", line) for line in viewer.viewer_info]
    asked = viewer.config.websocket_port or viewer.config.websocket_port_default
    if port != asked:
        address = "localhost" if host == "0.0.0.0" else host
        CONSOLE.print(f"Port {asked} is taken: the viewer is at http://{address}:{port}", soft_wrap=True)
