"""HTTP client for OpenAI-compatible endpoints: chat format, retries and probes."""
