"""Conditional random fields: class maps are drawn to the edges of the image (notebooks 04 and 05).

`dense` over pixels, `pool` the same in worker processes beside a training, `superpixel` over superpixels. They take
maps and an image and leave masks; they know nothing of where the maps come from.
Sources: Krähenbühl & Koltun, NIPS 2011; DCSM, section 3.4.
"""
