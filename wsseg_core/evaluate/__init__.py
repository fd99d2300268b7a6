"""Scores, tables, claims and verdicts (every notebook, and notebook 10).

`metrics` is the one scorer; `scoring` and `stored_masks` bring masks and truth together, image by image; `ablations`
and `methods` list the rows that are compared; `claims` says what the papers say, `verdicts` and `spread` whether it
holds here; `tables` puts the published numbers beside ours. Reads what all rooms left; leaves `tables/`, `claims.json`.
"""
