"""What `fmgs-track` shows of its work: overlays, a contact sheet, a page."""
