"""The measuring core on many architectures and operations, each by three routes. See `examine`."""
