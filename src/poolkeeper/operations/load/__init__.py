"""Loading files into tables: a file is cut into whole records, each chunk of them is one COPY."""
