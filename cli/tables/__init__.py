"""Values in, a table for people out; what commands print."""
