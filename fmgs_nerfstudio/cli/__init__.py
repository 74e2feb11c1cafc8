"""The programs. Each starts here: with wrong versions of other packages it ends in a line, before it imports them."""

from fmgs_nerfstudio.quiet import silence
from fmgs_nerfstudio.requirements import insist

insist()
silence()
