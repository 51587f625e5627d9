"""Process groups for fine-tuning: launching ranks, FSDP and DeepSpeed."""
