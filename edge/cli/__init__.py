"""One file per subcommand of `edge`."""
