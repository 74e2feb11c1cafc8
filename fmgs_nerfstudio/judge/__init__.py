"""Can a capture be trained on? `fmgs-check` and the start of training ask this one judge.

What no camera or body can have is refused when the capture is read (`fmgs_dataparsers/plausible.py`).
"""
