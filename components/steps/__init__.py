"""The verbs: preprocess, tune, train, evaluate, predict, register."""
