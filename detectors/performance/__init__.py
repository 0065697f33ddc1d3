"""Performance of a model: sums that add as labels come, and an estimate before they do."""
