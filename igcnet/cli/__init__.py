"""One module per command, each with ``main(argv) -> int``; nothing else imports this package."""
