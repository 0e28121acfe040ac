"""Clips and what is made of them."""
