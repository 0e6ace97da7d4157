"""What a run looks at before its first step: what would train on without a word and end with wrong numbers."""
