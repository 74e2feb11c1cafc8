"""Which modalities training has taught: the others are noise, or the naked body, and are not shown."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from fmgs_nerfstudio.console import log
from fmgs_nerfstudio.modalities import MODALITIES


class Taught(nn.Module):
    """A flag for each modality that only a prior teaches, kept in the checkpoint: what an avatar has learned does not
    depend on the capture that lies beside it later.

    Attributes:
        shown: names of the modalities that say something of this person.
    """

    def __init__(self, terms: Collection[str]) -> None:
        """`terms`: the losses that training computes."""
        super().__init__()
        self._only = {name: modality.taught_by for name, modality in MODALITIES.items() if modality.taught_by}
        for name, term in self._only.items():
            self.register_buffer(name, torch.tensor(term in terms))
        self._told: list[str] = []
        self._read()
        self.register_load_state_dict_post_hook(lambda module, _: module._read())

    def learn(self, terms: Collection[str]) -> None:
        """Training goes on with these losses; what was learned before stays."""
        for name, term in self._only.items():
            self.get_buffer(name).logical_or_(torch.tensor(term in terms))
        self._read()

    def tell(self) -> None:
        """Say once what is not shown, and why."""
        if (hidden := self.hidden) and hidden != self._told:
            log(
                f"Not trained, and so not shown: {', '.join(hidden)} (no prior maps, or weights of 0; "
                "fmgs-priors makes prior maps)"
            )
        self._told = hidden

    @property
    def hidden(self) -> list[str]:
        return [name for name in MODALITIES if name not in self.shown]

    def _read(self) -> None:
        """As names, since reading a buffer waits for the card."""
        self.shown = [name for name in MODALITIES if name not in self._only or bool(self.get_buffer(name))]

    def complete(self, state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
        """A checkpoint's state; where it is older than these flags, everything counts as taught."""
        return {f"{prefix}{name}": torch.tensor(True) for name in self._only} | state
