"""Class saliency maps and DCSM (notebooks 02 and 03).

`gradients` back-propagates class scores to inner layers, plain or guided; `extraction` does so for many images and
leaves `artifacts/saliency`; `subtraction` makes the maps distinct; `dcsm` goes from what is stored to masks.
Reads the classifier. Baseline: `grabcut` (Simonyan et al., ICLR 2014 workshop).
Source: DCSM (Shimoda & Yanai, ECCV 2016), sections 3.3 and 3.4.
"""
