"""What is made of the outcomes: a file to keep, tables, plots, and the comparison with an earlier file."""
