"""What is tried, each in a process of its own: a broken installation ends it and not the doctor.

The modules write what they find line by line, so that what is known survives what ends them. Libraries are imported by
name, as any of them may be missing.
"""
