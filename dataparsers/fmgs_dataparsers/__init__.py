"""Captures on disk as nerfstudio's data. It is the first of this plugin that nerfstudio's programs import."""

from fmgs_nerfstudio.quiet import silence
from fmgs_nerfstudio.requirements import tell

tell()
silence()
