"""What `fmgs-check` shows: a page, and the table of gradients."""
