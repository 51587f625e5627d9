"""The paper's recommender: an MLLM that answers yes or no, given preference, title and image."""
