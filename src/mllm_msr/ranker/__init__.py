"""The paper's recommender: an MLLM that answers yes or no to preference, title and image."""
