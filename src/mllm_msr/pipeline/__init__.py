"""The pipeline of a run, from prepare to report; comparisons, hyperparameter search and costs."""
