"""Prompt templates and truncation of prompts to a token budget."""
