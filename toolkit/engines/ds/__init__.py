"""What both engines on DeepSpeed share: its configuration, processes, compiled ops, optimizer and cut layers."""
