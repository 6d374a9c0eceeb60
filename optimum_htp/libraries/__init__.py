"""Facts about transformers and Optimum: file names, classes, tables, tasks. Uses no Hub."""
