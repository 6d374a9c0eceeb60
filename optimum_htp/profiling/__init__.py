"""Running a file on inputs made for it, and the time that each of its modules takes."""
