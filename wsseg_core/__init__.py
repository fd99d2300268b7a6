"""Weakly supervised semantic segmentation from image-level labels, step by step."""
