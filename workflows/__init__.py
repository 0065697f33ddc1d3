"""When it runs, and where: the only Argo SDK, and the command line."""
