"""Wire formats, a file each: the body of a request in, the bytes of its answer out."""
