"""A classifier from image-level labels (notebook 01).

Reads images and labels; leaves `artifacts/classifier`, from which every later network starts. The training loop here
(`training`: resume, precision, devices) is the only one in the project. A trunk that does not learn is run once for
all (`features`), and the head trained on what it gave (`head`).
Source: DCSM (Shimoda & Yanai, ECCV 2016), sections 3.2 and 4.2.
"""
