"""Images, image-level labels and masks (notebook 00).

Reads a devkit in the layout of PASCAL VOC 2012, or draws one (`toyvoc`); checks it, downloads the real one,
and writes one of data of another form (`importing`).
`run` holds what every later stage is given: a profile, a seed, the data set and the folder of the results. Masks have
a reader of their own, `masks`, which nothing that learns may reach.
Sources: Everingham et al., PASCAL VOC 2012; Hariharan et al., ICCV 2011 (SBD).
"""
