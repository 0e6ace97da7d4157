"""Hugging Face + DeepSpeed on one GPU, case by case: what runs, what is measured, what becomes a corpus row."""
