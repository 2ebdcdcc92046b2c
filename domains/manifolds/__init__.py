"""Manifolds: points of spheres, tori, rotations, matrices and other curved spaces, as columns."""
