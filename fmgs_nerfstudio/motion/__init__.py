"""Motions from files, and trained avatars that perform them."""
