"""scikit-learn estimators over the network: features, a classifier and a regressor (extra `sklearn`).

They take what the server takes: a list of texts, of series (arrays [T] or [T, d]), of trees (as JSON objects) or of parsed `Tree`s, or one
array: [n, T] is n series of one channel, [n, T, d] of d channels. An array [n, T], and a list of lists of numbers of one length, is a
table as scikit-learn knows it: its width must stay the same. What was fitted can be saved and served.
"""

from dtesn_sidecar.sklearn.estimators import DTESNClassifier, DTESNFeatures, DTESNRegressor

__all__ = ["DTESNClassifier", "DTESNFeatures", "DTESNRegressor"]
