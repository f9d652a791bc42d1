"""The command line `quarterdeck`. Each subcommand is a module that loads when it is called."""
