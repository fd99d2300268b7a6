"""The drawing of the procedural devkit, from outlines to scenes; `wsseg_core.data.toyvoc` writes it to disk."""
