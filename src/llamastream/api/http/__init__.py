"""What every HTTP route shares: keys, bodies, query strings, errors, the page's files."""
