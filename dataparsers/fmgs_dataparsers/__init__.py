"""Captures on disk as nerfstudio's data. It is the first of this plugin that nerfstudio's programs import."""

import sys

from fmgs_nerfstudio.early import refuse_missing
from fmgs_nerfstudio.quiet import silence
from fmgs_nerfstudio.requirements import tell

tell()
refuse_missing(sys.argv)
silence()
