"""One module a verb: configure(parser) declares its options, run(args) returns the exit code."""
