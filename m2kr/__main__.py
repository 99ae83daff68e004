"""`python -m m2kr` is the command `m2kr`."""

from m2kr.cli.main import main

main()
