"""Trained avatars in the formats of other programs: splats, a skinned mesh, a mesh."""
