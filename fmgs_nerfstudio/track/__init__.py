"""A raw video of one person to a capture: fits of the embedded body, masks, camera."""
