"""One module a command: what it is for, the arguments that it takes, and the work itself."""
