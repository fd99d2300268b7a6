"""What every room stands on.

Settings and the profiles that fill them in, files that are whole or not there, per-image artifacts that carry the
settings and the code that made them, the process pool, and the one error that users are meant to read. Nothing here
knows of images or networks. Reads the profile; leaves no results of its own.
"""
