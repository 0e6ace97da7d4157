"""What engines on different libraries share: labels, rows, groups of parameters, sums over ranks."""
