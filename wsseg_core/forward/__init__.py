"""Class maps of the forward pass, alone and enhanced by saliency maps (notebook 05).

`class_maps` from the classifier's own scores (FCN-MIL), `zoom_out` from features of superpixels and a multiple-instance
SVM (`mi_svm`), `forward_backward` unites either with the saliency maps and draws masks. Reads the classifier and the
maps of notebook 02; leaves `artifacts/score_maps` and `artifacts/zoomout`.
Sources: Shimoda & Yanai, MIRU 2016; Mostajabi et al., CVPR 2015; Andrews et al., NIPS 2002.
"""
