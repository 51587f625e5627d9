"""Fine-tuning of the MLLM ranker: LoRA or full, resumable, on one or several devices."""
