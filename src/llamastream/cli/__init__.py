"""The command line: serve, chat, generate, models. Parses options, wires the parts, prints."""
