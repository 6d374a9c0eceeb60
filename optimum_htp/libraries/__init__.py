"""What transformers and Optimum know: names of files, classes, tables, tasks. Asks no Hub."""
