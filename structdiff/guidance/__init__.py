"""Guidance: wrappers that tilt or hold what a sampler draws."""
