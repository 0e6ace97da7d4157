"""What we train on: rows, chat templates, tokens with labels, batches in an order that no layout changes."""
