"""The programs. Each starts here: wrong versions of packages and a missing path end it in a line, before imports."""

import sys

from fmgs_nerfstudio.early import refuse_missing
from fmgs_nerfstudio.quiet import silence
from fmgs_nerfstudio.requirements import insist
from fmgs_nerfstudio.waiting import wait_asleep

insist()
refuse_missing(sys.argv)
silence()
wait_asleep()
