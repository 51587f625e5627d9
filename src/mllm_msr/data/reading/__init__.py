"""The reader of all tables from outside: one function for every file format and data frame."""
