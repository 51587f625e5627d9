"""Recommendation from a finished run: candidate retrieval, reranking and explanations."""
