"""What the training data looked like: build, store, publish baselines."""
