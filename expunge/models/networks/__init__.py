"""The networks, one architecture a file; each factory takes flat rows and reads no data."""
