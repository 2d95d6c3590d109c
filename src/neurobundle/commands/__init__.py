"""What the subcommands do; :mod:`neurobundle.cli` parses their arguments and imports each only when it is asked for."""
