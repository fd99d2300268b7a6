"""From class activation maps to seeds along pixel affinities (notebook 06).

`cam` trains the classifier whose scores are maps; `pairs` and `psa` learn which pixels belong together; `random_walk`
spreads the maps; `seeds` draws the masks. Reads the classifier of notebook 01; leaves CAMs, walked
maps and seeds.
Sources: Zhou et al., CVPR 2016 (CAM); Ahn & Kwak, CVPR 2018 (PSA).
"""
