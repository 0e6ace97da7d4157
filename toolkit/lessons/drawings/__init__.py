"""What the lessons measured, as pictures."""
