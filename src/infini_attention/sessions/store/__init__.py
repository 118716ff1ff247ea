"""Sessions in a folder: an index in SQLite, blobs named by their content, and what keeps both whole."""
